import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { describeData, describeFigures, describeNote, describeProgress, describeTool, formatDuration, isActive, thinkingMs, tokensPerSecond } from "../src/format.js";

// The same words stand in a saved card: tests/widgets/test_facts.py.
const CASES = JSON.parse(readFileSync(new URL("facts_cases.json", import.meta.url)));

test("durations read well at every size", () => {
  for (const [ms, text] of CASES.durations) assert.equal(formatDuration(ms), text);
});

test("figures are what a saved card says, and what is unknown is left out", () => {
  for (const [meta, words] of CASES.figures) {
    const figures = describeFigures(meta, meta.elapsedMs ?? null);
    assert.deepEqual(figures.map((figure) => figure.join("")), words);
  }
});

test("notes say why, and what to do", () => {
  for (const [meta, note] of CASES.notes) {
    const made = describeNote(meta, null);
    assert.deepEqual(made && [made.cause, made.cure], note);
  }
});

test("a retry says when, where that is known", () => {
  const meta = { status: "retrying", attempt: 1, error: "500" };
  assert.match(describeNote(meta, 8400).cure, /^500\. Next try in about 9 s\.$/);
  assert.match(describeNote(meta, -5).cure, /The next try is due\.$/);
});

test("only what ended unhappily, or is not heard of any more, is an alert", () => {
  const isAlert = (meta) => Boolean(describeNote({ error: "x", ...meta }, null).isAlert);
  assert.ok(isAlert({ status: "failed", code: "timeout" }));
  assert.ok(isAlert({ status: "running", code: "stream" }));
  for (const code of ["time_limit", "shutdown", "budget"]) assert.ok(!isAlert({ status: "pending", code }), code);
  assert.ok(!isAlert({ status: "retrying" }));
});

test("thinking counts neither the queue nor the attempts before", () => {
  assert.equal(thinkingMs({ attemptBeganMs: 60_000, firstTokenMs: 500 }, 62_000), 1500);
  assert.equal(thinkingMs({ attemptBeganMs: 60_000, firstTokenMs: 500, reasoningMs: 1700 }, 70_000), 1700);
  assert.equal(thinkingMs({}, null), null);
});

test("who does not watch is told that the task runs on", () => {
  assert.equal(describeNote({ status: "running", isWatching: false }, null).cure, "the task runs on.");
  assert.equal(describeNote({ status: "completed", isWatching: false }, null), null);
});

test("progress, tool calls and data are what a saved card says", () => {
  for (const [progress, words] of CASES.progress) {
    const made = describeProgress(progress);
    assert.deepEqual(made && [made.share, made.text], words);
  }
  for (const [meta, blocks] of CASES.blocks) {
    assert.deepEqual([...(meta.toolCalls ?? []).map(describeTool), ...describeData(meta.data)], blocks);
  }
});

test("a rate needs tokens and time", () => {
  assert.equal(tokensPerSecond({ tokens: 1 }, 5000), null);
  assert.equal(tokensPerSecond({ tokens: 100, firstTokenMs: 1000 }, 3000), 50);
  assert.equal(tokensPerSecond({ tokens: 100, firstTokenMs: 1000 }, 1050), null);
});

test("only what still does something is active", () => {
  assert.deepEqual(["idle", "pending", "running", "retrying", "completed"].map(isActive), [false, true, true, true, false]);
});

test("what a button could not do is said before why the task failed", () => {
  const meta = { status: "failed", error: "500", cure: "Try again.", problem: "No task 'task_1'." };
  assert.deepEqual(describeNote(meta, null), { cause: "", cure: meta.problem, isAlert: true });
});
