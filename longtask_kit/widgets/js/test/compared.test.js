import assert from "node:assert/strict";
import { test } from "node:test";
import { cutMarked } from "../src/compared.js";

test("a text is cut at its marks, and nothing of it is lost", () => {
  assert.deepEqual(cutMarked("a worker has", [[2, 8]]), [["a ", false], ["worker", true], [" has", false]]);
  assert.deepEqual(cutMarked("ab", [[0, 1], [1, 2]]), [["a", true], ["b", true]]);
  assert.deepEqual(cutMarked("ab", []), [["ab", false]]);
  assert.deepEqual(cutMarked("", []), []);
});
