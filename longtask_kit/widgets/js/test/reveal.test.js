import assert from "node:assert/strict";
import test from "node:test";
import { advanceReveal, createReveal, cutText } from "../src/reveal.js";

test("what comes is shown over the time that passed before it", () => {
  const reveal = createReveal();
  assert.equal(advanceReveal(reveal, 100, false, 0), 100, "the first at once");
  assert.equal(advanceReveal(reveal, 300, false, 1000), 100);
  assert.equal(advanceReveal(reveal, 300, false, 1500), 200);
  assert.equal(advanceReveal(reveal, 700, false, 1750), 200, "more comes before all is shown");
  assert.equal(advanceReveal(reveal, 700, false, 2500), 700);
});

test("the end, and what comes after a silence, is shown at once", () => {
  const reveal = createReveal();
  advanceReveal(reveal, 100, false, 0);
  advanceReveal(reveal, 300, false, 1000);
  assert.equal(advanceReveal(reveal, 300, true, 1001), 300);
  assert.equal(advanceReveal(reveal, 400, false, 9000), 400);
});

test("a cut halves no character", () => {
  assert.equal(cutText("a😀b", 2), "a");
  assert.equal(cutText("a😀b", 3), "a😀");
  assert.equal(cutText("ab", 2), "ab");
});
