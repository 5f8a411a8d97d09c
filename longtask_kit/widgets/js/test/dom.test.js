import assert from "node:assert/strict";
import test from "node:test";
import { button, copyText } from "../src/dom.js";
import { buildHead } from "../src/grouphead.js";

/** As much of a page as the clipboard needs. */
function makePage(writeText) {
  const body = { append: () => {}, focus: () => (page.activeElement = body) };
  const createElement = () => {
    const listeners = {};
    const element = { dataset: {}, textContent: "", classList: { add: () => {} }, setAttribute: () => {} };
    return Object.assign(element, {
      addEventListener: (name, listener) => (listeners[name] = listener),
      append: (...parts) => (element.textContent = parts.filter((part) => typeof part === "string").join("")),
      click: () => listeners.click(),
      focus: () => (page.activeElement = element),
      select: () => (page.activeElement = element),
      remove: () => (page.activeElement = body),
    });
  };
  const page = { body, createElement, activeElement: body, execCommand: () => true };
  globalThis.document = page;
  Object.defineProperty(globalThis, "navigator", { value: { clipboard: { writeText } }, configurable: true });
  return page;
}

test("what is copied the old way leaves the focus on its button", async () => {
  const page = makePage(async () => assert.fail("no secure context"));
  const copy = button("Copy", "");
  copy.focus();
  await copyText("text", copy);
  assert.equal(page.activeElement, copy);
});

test("a double click copies a group's code, not what the button says of it", async () => {
  const copied = [];
  makePage(async (text) => copied.push(text));
  const { id } = buildHead(() => {});
  id.textContent = 'kit.attach_group("group_1")';
  await id.click();
  await id.click();
  assert.deepEqual(copied, Array(2).fill('kit.attach_group("group_1")'));
});
