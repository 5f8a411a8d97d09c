import assert from "node:assert/strict";
import { test } from "node:test";
import { findSeen, moveActive, planWindow, ROW_PX, scrollTo } from "../src/rows.js";

const hold = (begin, count) => ({ begin, rows: Array(count).fill([]) });

test("the rows that are seen follow the scroll", () => {
  assert.deepEqual(findSeen(0, 10 * ROW_PX, 1000), [0, 10]);
  assert.deepEqual(findSeen(100 * ROW_PX + 3, 10 * ROW_PX, 1000), [100, 111]);
  assert.deepEqual(findSeen(1e9, 10 * ROW_PX, 5), [4, 5]);
  assert.deepEqual(findSeen(0, 10 * ROW_PX, 0), [0, 0]);
});

test("others are asked for before those held run out", () => {
  assert.deepEqual(planWindow([0, 10], null, 1000), { begin: 0, size: 50 });
  assert.equal(planWindow([0, 10], hold(0, 50), 1000), null);
  assert.equal(planWindow([0, 10], hold(0, 8), 8), null, "there are no more");
  assert.equal(planWindow([30, 40], hold(0, 50), 1000), null);
  assert.deepEqual(planWindow([36, 46], hold(0, 50), 1000), { begin: 16, size: 50 });
  assert.deepEqual(planWindow([500, 510], hold(0, 50), 1000), { begin: 480, size: 50 });
  assert.deepEqual(planWindow([22, 32], hold(20, 50), 1000), { begin: 2, size: 50 }, "upwards, too");
});

test("keys move the active row and stay in the table", () => {
  assert.equal(moveActive("ArrowDown", 3, 10, 5), 4);
  assert.equal(moveActive("ArrowUp", 0, 10, 5), 0);
  assert.equal(moveActive("PageDown", 8, 10, 5), 9);
  assert.equal(moveActive("End", 0, 10, 5), 9);
  assert.equal(moveActive("x", 0, 10, 5), null);
  assert.equal(moveActive("ArrowDown", 0, 0, 5), null);
});

test("a row is scrolled to no further than need be", () => {
  const height = 10 * ROW_PX;
  assert.equal(scrollTo(5, 0, height), 0);
  assert.equal(scrollTo(10, 0, height), ROW_PX);
  assert.equal(scrollTo(2, 5 * ROW_PX, height), 2 * ROW_PX);
});
