import assert from "node:assert/strict";
import test from "node:test";
import { VIEW } from "../src/notebook.js";
import { addStyle, composeBundle, cutParts, findNeeded, isOurs, writeCards } from "../src/saved.js";

const frame = {
  slot: "slot77",
  data: { "text/html": "<i>running</i><p>slot77</p><b>id</b>", "text/plain": "slot77\n\n[running]" },
  gone: { "text/html": [3, 30, "disconnected"], "text/plain": [9, 1, "disconnected"] },
};
frame.gone["text/html"][1] = frame.data["text/html"].length - "<i>running".length;

test("the text goes into Python's frame as text", () => {
  const bundle = composeBundle(frame, "a <img onerror=x> $& 'b'\x1b", { isGone: false });
  assert.equal(bundle["text/plain"], "a <img onerror=x> $& 'b'\n\n[running]");
  assert.match(bundle["text/html"], /^<i>running<\/i><pre style="[^"]*">a &lt;img onerror=x&gt; \$&amp; &#39;b&#39;<\/pre><b>id<\/b>$/);
});

test("a frame's style is what the card's own begins with", () => {
  const sent = { style: 5, data: { "text/html": "<style></style><p>$&</p>" } };
  assert.equal(addStyle(sent, ".a{} .b{}").data["text/html"], "<style>.a{} </style><p>$&</p>");
});

test("of a kernel that is gone the frame says so", () => {
  const bundle = composeBundle(frame, "", { isGone: true });
  assert.equal(bundle["text/html"], "<i>disconnected</i><b>id</b>");
  assert.equal(bundle["text/plain"], "[disconnected]");
});

test("without a frame the text stands below what the output had", () => {
  const had = { "text/html": ["<i>", "was</i>"] };
  const bundle = composeBundle(null, "a<b", { isGone: false, word: "running · id", had });
  assert.match(bundle["text/html"], /^<i>was<\/i><pre[^>]*>a&lt;b<\/pre><p>running · id<\/p>$/);
  assert.equal(bundle["text/plain"], "a<b\n\n[running · id]");
});

test("a view needs its model and what that refers to, as they stand in it", () => {
  const states = {
    box: { state: { children: ["IPY_MODEL_one", "IPY_MODEL_gone", "IPY_MODEL_two"], layout: "IPY_MODEL_l" } },
    one: { state: { layout: "IPY_MODEL_l", child: "IPY_MODEL_inner" } },
    inner: { state: {} },
    two: { state: {} },
    l: { state: {} },
    other: { state: {} },
  };
  assert.deepEqual([...findNeeded(states, "box")], ["box", "one", "l", "inner", "two"]);
});

const made = (plain, html = `<p>${plain}</p>`) => ({ "text/plain": plain, "text/html": html });

test("a file holds the static form, and which view it stands for", () => {
  const view = { model_id: "m" };
  const shown = { output_type: "display_data", data: { [VIEW]: view, "text/plain": "x" }, metadata: { a: 1 } };
  const theirs = { output_type: "display_data", data: { [VIEW]: { model_id: "t" } }, metadata: {} };
  const content = { metadata: {}, cells: [{ source: "" }, { outputs: [shown, theirs, { output_type: "stream" }] }] };
  const note = { taskId: "task_1", status: "running" };
  const cards = { m: [{ note, describe: () => made("now") }] };
  writeCards(content, (id) => cards[id] ?? null);
  assert.deepEqual(shown.data, made("now"));
  assert.deepEqual(shown.metadata, { a: 1, longtask: { ...note, view } });
  assert.deepEqual(theirs.data, { [VIEW]: { model_id: "t" } });
});

test("several cards of a view are below each other, and each is found again", () => {
  const view = { model_id: "m" };
  const output = { data: { [VIEW]: view }, metadata: {} };
  const parts = [
    { note: { taskId: "task_1", status: "completed" }, bundle: made("one\n\nand more\n", "<p>one</p>\n<p>more</p>") },
    { note: { taskId: "task_2", status: "running" }, bundle: made("two") },
    { note: { taskId: "task_3", status: "running" }, bundle: made("") },
  ];
  writeCards({ cells: [{ outputs: [output] }] }, () => parts.map(({ note, bundle }) => ({ note, describe: () => bundle })));
  assert.equal(output.data["text/plain"], "one\n\nand more\n\ntwo\n");
  assert.deepEqual(output.metadata.longtask.view, view);
  const saved = { data: output.data, noted: output.metadata.longtask };
  assert.deepEqual(cutParts(saved), parts);
  const asLines = { ...saved, data: { "text/plain": output.data["text/plain"].split(/(?<=\n)/), "text/html": output.data["text/html"] } };
  assert.deepEqual(cutParts(asLines), parts, "as a file has it");
  const changed = { ...saved, data: { ...output.data, "text/plain": "a line" } };
  assert.deepEqual(cutParts(changed), [], "whose is what is not known any more");
  for (const strange of [[null], [{}], [{ lines: 7 }]]) assert.deepEqual(cutParts({ ...saved, noted: { parts: strange } }), []);
});

test("an output of one task is its own part", () => {
  const noted = { taskId: "task_1", status: "running" };
  assert.deepEqual(cutParts({ data: made("a\nb"), noted }), [{ note: noted, bundle: made("a\nb") }]);
  assert.deepEqual(cutParts({ data: made("a") }), []);
});

test("what was asked nothing yet says so instead of a view that nothing can draw", () => {
  const view = { model_id: "m" };
  const output = { data: { [VIEW]: view, "text/plain": ["TaskPanel(<idle>)"] }, metadata: {} };
  writeCards({ cells: [{ outputs: [output] }] }, () => [{ note: null, describe: () => null }]);
  assert.deepEqual(output.data, made("TaskPanel(<idle>)", "<p>TaskPanel(&lt;idle&gt;): run this cell to use it.</p>"));
  assert.deepEqual(output.metadata.longtask, { view }, "a page whose kernel lives puts it back");
});

test("what never heard of its kernel is left as it is", () => {
  const data = { [VIEW]: { model_id: "m" }, "text/html": "as it was" };
  const content = { metadata: {}, cells: [{ outputs: [{ data: { ...data }, metadata: {} }] }] };
  const note = { taskId: "task_1", status: "pending" };
  writeCards(content, () => [{ note: null, describe: () => null }, { note, describe: () => null }]);
  assert.deepEqual(content.cells[0].outputs[0], { data, metadata: {} });
});

test("a widget of this package is known by its name", () => {
  const model = (name) => ({ state: { _anywidget_id: name } });
  assert.ok(isOurs(model("longtask_kit.widgets.picker.ModelPicker")));
  for (const other of [model("theirs.longtask_kit.X"), { state: {} }, undefined]) assert.ok(!isOurs(other));
});
