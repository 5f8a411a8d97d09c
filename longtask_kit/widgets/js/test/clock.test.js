import assert from "node:assert/strict";
import test from "node:test";
import { createClock, readClock, setClock } from "../src/clock.js";

function hear(...messages) {
  const clock = createClock();
  for (const [now, meta] of messages) setClock(clock, meta, now);
  return clock;
}

test("the clock goes on while messages say nothing of the time", () => {
  const running = { taskId: "a", status: "running", elapsedMs: 500 };
  const clock = hear([1000, running], [3000, { ...running, tokens: 9 }]);
  assert.equal(readClock(clock, 4000), 3500);
});

test("a task that was just submitted has a clock", () => {
  assert.equal(readClock(hear([1000, { taskId: "a", status: "pending" }]), 1400), 400);
});

test("the end stops it at what the task itself took", () => {
  const clock = hear([0, { taskId: "a", status: "running", elapsedMs: 500 }], [900, { taskId: "a", status: "failed", elapsedMs: 800 }]);
  assert.equal(readClock(clock, 60_000), 800);
});

test("without a task there is no time", () => {
  assert.equal(readClock(hear([0, { status: "idle" }]), 1000), null);
});

test("the next task begins anew", () => {
  const clock = hear([0, { taskId: "a", status: "pending" }], [5000, { taskId: "b", status: "pending" }]);
  assert.equal(readClock(clock, 5100), 100);
});
