import assert from "node:assert/strict";
import test from "node:test";
import { describeFigures, describeStatus, formatDuration, isActive, tokensPerSecond } from "../src/format.js";

test("durations read well at every size", () => {
  const rows = [[0, "0 ms"], [849.6, "850 ms"], [1000, "1.0 s"], [59_949, "59.9 s"], [65_000, "1 min 05 s"]];
  for (const [ms, text] of rows) assert.equal(formatDuration(ms), text);
});

test("a rate needs tokens and time", () => {
  assert.equal(tokensPerSecond({ tokens: 1 }, 5000), null);
  assert.equal(tokensPerSecond({ tokens: 100, firstTokenMs: 1000 }, 3000), 50);
  assert.equal(tokensPerSecond({ tokens: 100, firstTokenMs: 1000 }, 1050), null);
});

test("a later attempt's rate counts its own time only", () => {
  const meta = { tokens: 100, attempt: 2, attemptBeganMs: 60_000, firstTokenMs: 1000 };
  assert.equal(tokensPerSecond(meta, 63_000), 50);
});

test("a retry says which attempt comes", () => {
  assert.equal(describeStatus({ status: "retrying", attempt: 1 }), "retrying 2");
  assert.equal(describeStatus({}), "idle");
});

test("unknown figures are left out", () => {
  assert.deepEqual(describeFigures({ status: "idle" }, null), []);
  const figures = describeFigures({ status: "running", model: "demo", tokens: 1200, firstTokenMs: 40, elapsedMs: 2040 }, 2100);
  assert.deepEqual(figures.map(([name]) => name), ["model", "time", "tokens", "tokens/s", "first token"]);
  assert.equal(figures[2][1], "1,200");
});

test("only what still does something is active", () => {
  assert.deepEqual(["idle", "pending", "running", "retrying", "completed"].map(isActive), [false, true, true, true, false]);
});
