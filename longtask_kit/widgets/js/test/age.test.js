import assert from "node:assert/strict";
import test from "node:test";
import { describeAge } from "../src/age.js";

test("an age is told in its largest whole unit", () => {
  const cases = [[-5, "0 s"], [59_999, "59 s"], [60_000, "1 min"], [3_599_000, "59 min"], [3_600_000, "1 h"], [90_000_000, "1 d"]];
  for (const [ms, words] of cases) assert.equal(describeAge(ms), words);
});
