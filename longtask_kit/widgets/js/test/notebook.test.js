import assert from "node:assert/strict";
import test from "node:test";
import { describeKernel, findDocument, replaceOutput, walkOutputs, watchSaves, VIEW } from "../src/notebook.js";

const makeManager = (session) => ({ context: { sessionContext: session } });
const kernel = (status, connectionStatus = "connected") => ({ session: { kernel: { status, connectionStatus } } });

test("the kernel's state is told where it can be seen", () => {
  const cases = [
    [undefined, null],
    [makeManager(undefined), null],
    [makeManager({}), null],
    [makeManager({ session: null, isReady: false }), null],
    [makeManager({ session: null, isReady: true }), "gone"],
    [makeManager(kernel("idle")), "there"],
    [makeManager(kernel("busy", "connecting")), "away"],
    [makeManager({ session: { kernel: { status: "idle" } } }), null],
    ...["restarting", "autorestarting", "terminating", "dead"].map((status) => [makeManager(kernel(status)), "gone"]),
  ];
  for (const [manager, expected] of cases) assert.equal(describeKernel(manager), expected);
});

function makeContext(...cells) {
  const listeners = [];
  const lists = cells.map((outputs) => ({
    type: outputs ? "code" : "markdown",
    outputs: outputs && { length: outputs.length, get: (index) => outputs[index], set: (index, value) => (outputs[index] = value) },
  }));
  const model = { dirty: false, cells: { length: lists.length, get: (at) => lists[at] }, toJSON: () => ({ cells }) };
  return { model, saveState: { connect: (listener) => listeners.push(listener), emit: (state) => listeners.forEach((each) => each(null, state)) } };
}

test("a document is found only whole and alive", () => {
  const context = makeContext();
  assert.equal(findDocument({ context }), context);
  for (const manager of [undefined, {}, { context: {} }, { context: { ...context, isDisposed: true } }]) {
    assert.equal(findDocument(manager), null);
  }
});

test("outputs are found and replaced, quietly where another page writes", () => {
  const context = makeContext(null, [{ data: {} }, { data: { [VIEW]: { model_id: "m" } }, metadata: { longtask: { taskId: "t" } } }]);
  const [, mine] = [...walkOutputs(context)];
  assert.deepEqual([mine.index, mine.modelId, mine.noted.taskId], [1, "m", "t"]);
  const set = mine.outputs.set;
  mine.outputs.set = (...given) => (set(...given), (context.model.dirty = true));
  replaceOutput(context, mine, { data: {}, metadata: {} }, true);
  assert.equal(context.model.dirty, false);
  replaceOutput(context, mine, { data: {}, metadata: {} }, false);
  assert.equal(context.model.dirty, true);
  assert.equal([...walkOutputs(context)][1].modelId, undefined);
});

test("what fails at a save leaves the file as it was", () => {
  const context = makeContext([]);
  let saved = 0;
  const fail = () => {
    throw new Error("ours");
  };
  const { error } = console;
  console.error = () => {};
  watchSaves(context, fail, () => (saved += 1));
  assert.deepEqual(context.model.toJSON(), { cells: [[]] });
  console.error = error;
  context.saveState.emit("started");
  context.saveState.emit("completed");
  assert.equal(saved, 1);
});
