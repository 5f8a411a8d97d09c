import assert from "node:assert/strict";
import { test } from "node:test";
import { findEdge, findMs, findPlace, findWords, readMoment } from "../src/moments.js";

// Ten seconds, of which eight are cut short.
const SCALE = [[0, 1, 0, 0.4], [1, 9, 0.4, 0.6], [9, 10, 0.6, 1]];
const SPANS = [[0, "queue"], [500, "first"], [800, "streaming"]];
const TRACK = [
  { number: 1, from: 500, runs: [{ kind: "reasoning", from: 600, steps: [0, 2], text: "hm" }, { kind: "streaming", from: 800, steps: [0, 3, 100, 2], text: "One👩" }] },
  { number: 2, from: 9000, runs: [{ kind: "streaming", from: 9500, steps: [0, 3], text: "New" }] },
];

test("a place and its time belong together, cut or not", () => {
  for (const ms of [0, 500, 1000, 5000, 9000, 9500, 10_000]) {
    assert.ok(Math.abs(findMs(SCALE, findPlace(SCALE, ms)) - ms) < 0.001, String(ms));
  }
  assert.equal(findPlace(SCALE, 20_000), 1);
  assert.equal(findMs([], 0.5), 0);
});

test("the text stands as it stood; a new attempt begins without one", () => {
  const read = (ms) => readMoment(TRACK, ms);
  assert.deepEqual(read(0), { reasoning: "", text: "" });
  assert.deepEqual(read(700), { reasoning: "hm", text: "" });
  assert.deepEqual(read(899), { reasoning: "hm", text: "One" });
  assert.deepEqual(read(8999), { reasoning: "hm", text: "One👩" });
  assert.deepEqual(read(9000), { reasoning: "", text: "" });
  assert.deepEqual(read(10_000), { reasoning: "", text: "New" });
});

test("what happened is named, and its edges are walked", () => {
  assert.equal(findWords(SPANS, 700), "first");
  assert.equal(findWords([], 700), "");
  assert.equal(findEdge(SPANS, 0, 1000, true), 500);
  assert.equal(findEdge(SPANS, 800, 1000, true), 1000);
  assert.equal(findEdge(SPANS, 800, 1000, false), 500);
  assert.equal(findEdge(SPANS, 0, 1000, false), 0);
});
