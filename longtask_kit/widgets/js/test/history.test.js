import assert from "node:assert/strict";
import test from "node:test";
import { describeAge, findRows } from "../src/history.js";
import { isWorthTelling } from "../src/notify.js";

const rows = [
  { id: "task_a", prompt: "Explain Tides", model: "demo", word: "completed", status: "completed" },
  { id: "task_b", prompt: "Explain ledgers", model: "gpt-4o", word: "stopped at max_tokens (10)", status: "completed" },
  { id: "task_c", prompt: "", model: "demo", word: "failed", status: "failed" },
];

test("every word that is looked for is found somewhere", () => {
  const found = (query) => findRows(rows, query).map((row) => row.id);
  assert.deepEqual(found("  "), ["task_a", "task_b", "task_c"]);
  assert.deepEqual(found("tides EXPLAIN"), ["task_a"]);
  assert.deepEqual(found("explain completed"), ["task_a", "task_b"]);
  assert.deepEqual(found("max_tokens"), ["task_b"]);
  assert.deepEqual(found("task_c"), ["task_c"]);
  assert.deepEqual(found("tides ledgers"), []);
});

test("an age has one unit", () => {
  const cases = [[-5, "0 s"], [59_999, "59 s"], [60_000, "1 min"], [3_600_000, "1 h"], [200_000_000, "2 d"]];
  for (const [ms, age] of cases) assert.equal(describeAge(ms), age);
});

test("only the end of a long task that nobody looks at is told", () => {
  const long = { status: "completed", elapsedMs: 12_000 };
  assert.ok(isWorthTelling("running", long, true));
  assert.ok(isWorthTelling("retrying", { ...long, status: "failed" }, true));
  assert.ok(!isWorthTelling("running", long, false), "it is seen");
  assert.ok(!isWorthTelling("running", { ...long, elapsedMs: 900 }, true), "it was short");
  assert.ok(!isWorthTelling(undefined, long, true), "it had ended before the page was opened");
  assert.ok(!isWorthTelling("pending", { ...long, isReplay: true }, true), "it is opened again");
  assert.ok(!isWorthTelling("pending", { ...long, status: "running" }, true));
});
