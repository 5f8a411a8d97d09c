import assert from "node:assert/strict";
import test from "node:test";
import { createBuffer, takeSnapshot, takeUpdate } from "../src/buffer.js";

const start = { t: "u", e: 1, s: 0, m: { status: "pending" } };

function play(...updates) {
  const buffer = createBuffer();
  const verdicts = updates.map((update) => takeUpdate(buffer, update));
  return { buffer, verdicts };
}

test("updates in order add up", () => {
  const { buffer, verdicts } = play(start, { e: 1, s: 1, d: "Hello" }, { e: 1, s: 2, d: " you", m: { tokens: 2 } });
  assert.deepEqual(verdicts, ["applied", "applied", "applied"]);
  assert.equal(buffer.text, "Hello you");
  assert.deepEqual(buffer.meta, { status: "pending", tokens: 2 });
});

test("what is known already is dropped", () => {
  const { buffer, verdicts } = play(start, { e: 1, s: 1, d: "a" }, { e: 1, s: 1, d: "a" }, { e: 0, s: 9, d: "old" });
  assert.deepEqual(verdicts.slice(2), ["dropped", "dropped"]);
  assert.equal(buffer.text, "a");
});

test("a hole changes nothing and says so", () => {
  const { buffer, verdicts } = play(start, { e: 1, s: 2, d: "lost its elder" }, { e: 3, s: 4, d: "x" });
  assert.deepEqual(verdicts.slice(1), ["hole", "hole"]);
  assert.equal(buffer.text, "");
  assert.equal(buffer.epoch, 1);
});

test("a new epoch clears the text, what was thought, and what stood around them", () => {
  const { buffer } = play(start, { e: 1, s: 1, d: "first", r: "hm", m: { error: "cut" } }, { e: 2, s: 0, d: "second", m: { status: "running" } });
  assert.equal(buffer.text, "second");
  assert.equal(buffer.reasoning, "");
  assert.deepEqual(buffer.meta, { status: "running" });
});

test("a snapshot replaces what is older and never what is newer", () => {
  const { buffer } = play(start, { e: 1, s: 1, d: "ab" });
  assert.equal(takeSnapshot(buffer, { epoch: 1, seq: 0, text: "", meta: {} }), false);
  assert.equal(takeSnapshot(buffer, {}), false);
  assert.equal(buffer.text, "ab");
  assert.equal(takeSnapshot(buffer, { epoch: 1, seq: 5, text: "abcdef", meta: { status: "running" } }), true);
  assert.equal(takeUpdate(buffer, { e: 1, s: 6, d: "g" }), "applied");
  assert.equal(buffer.text, "abcdefg");
});
