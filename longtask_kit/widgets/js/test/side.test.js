import assert from "node:assert/strict";
import test from "node:test";
import { askOnce, takeBack } from "../src/side.js";

const makeButton = () => ({ textContent: "Delete", dataset: {} });

test("the second click does what the first one asked", () => {
  const [asking, done] = [makeButton(), []];
  askOnce(asking, "Sure?", () => done.push(1));
  assert.deepEqual([asking.textContent, done], ["Sure?", []]);
  askOnce(asking, "Sure?", () => done.push(2));
  assert.deepEqual([asking.textContent, done], ["Delete", [2]]);
});

test("a question that was taken back is asked again", () => {
  const [asking, done] = [makeButton(), []];
  assert.equal(takeBack(asking), false);
  askOnce(asking, "Sure?", () => done.push("one"));
  assert.equal(takeBack(asking), true);
  assert.equal(asking.textContent, "Delete");
  askOnce(asking, "Sure?", () => done.push("another"));
  assert.deepEqual([asking.textContent, done], ["Sure?", []]);
  takeBack(asking);
});
