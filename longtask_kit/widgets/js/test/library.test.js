import assert from "node:assert/strict";
import test from "node:test";
import { giveUpAfter, shareLibrary } from "../src/library.js";

test("it is asked for once a page", async () => {
  const page = {};
  let asked = 0;
  const request = async () => `library ${(asked += 1)}`;
  const got = await Promise.all([shareLibrary(page, "k", request), shareLibrary(page, "k", request)]);
  assert.deepEqual([...got, await shareLibrary(page, "k", request)], ["library 1", "library 1", "library 1"]);
});

test("when the kernel asked first is dead, the next output asks its own", async () => {
  const page = {};
  let asked = 0;
  const dead = () => giveUpAfter(10, new Promise(() => {}));
  const alive = async () => `library ${(asked += 1)}`;
  const first = shareLibrary(page, "k", dead);
  const others = [shareLibrary(page, "k", alive), shareLibrary(page, "k", alive)];
  await assert.rejects(first, /no answer within 10 ms/);
  assert.deepEqual(await Promise.all(others), ["library 1", "library 1"]);
});

test("whoever failed may ask again", async () => {
  const page = {};
  await assert.rejects(shareLibrary(page, "k", async () => { throw new Error("closed"); }), /closed/);
  assert.equal(await shareLibrary(page, "k", async () => "library"), "library");
});
