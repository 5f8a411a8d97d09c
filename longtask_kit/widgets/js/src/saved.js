// What a saved notebook holds of the cards in it, as pure functions of its JSON. No view of a widget
// stands there: whoever has no kernel could not draw it, and would show an error instead. The static
// form is Python's; of the page's own it has only the newest text, which goes in as text.
import { VIEW } from "./notebook.js";

const PRE = "white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0";
const FORMS = ["text/plain", "text/html"];
const MARKS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export const escapeText = (text) => text.replace(/[&<>"']/g, (mark) => MARKS[mark]);

const printable = (text) => text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, ""); // as Python's make_printable

/** The bundle of a text in Python's frame; without a frame, below what the output had. */
export function composeBundle(frame, text, { isGone, word, had = {} }) {
  const plain = printable(text);
  const block = plain ? `<pre style="${PRE}">${escapeText(plain)}</pre>` : "";
  if (!frame) {
    const stands = printable(word);
    return {
      "text/plain": [plain, `[${stands}]`].filter(Boolean).join("\n\n"),
      "text/html": `${joinLines(had["text/html"])}${block}<p>${escapeText(stands)}</p>`,
    };
  }
  const fill = (name, written) => {
    const form = isGone ? change(frame.data[name], frame.gone[name]) : frame.data[name];
    return form.replaceAll(name === "text/html" ? `<p>${frame.slot}</p>` : frame.slot, () => written);
  };
  const html = fill("text/html", block).replaceAll(frame.slot, () => escapeText(plain));
  return { "text/plain": fill("text/plain", plain).trimStart(), "text/html": html };
}

/** A frame with its style in place: what a card's own, `css`, begins with. */
export function addStyle(frame, css) {
  const html = frame.data["text/html"].replace("<style>", () => `<style>${css.slice(0, frame.style)}`);
  return { ...frame, data: { ...frame.data, "text/html": html } };
}

const change = (before, [head, tail, middle]) =>
  before.slice(0, head) + middle + before.slice(before.length - tail);

const joinLines = (lines) => (Array.isArray(lines) ? lines.join("") : lines ?? "");

/** The models that a view needs, as they stand in it: its own and what they refer to. */
export function findNeeded(states, root) {
  const needed = new Set();
  const ahead = [root];
  while (ahead.length) {
    const id = ahead.pop();
    if (needed.has(id) || !states[id]) continue;
    needed.add(id);
    const next = [...JSON.stringify(states[id].state).matchAll(/"IPY_MODEL_(\w+)"/g)].map(([, name]) => name);
    ahead.push(...next.reverse());
  }
  return needed;
}

/** Whether a model is one of this package's widgets. */
export const isOurs = (model) => /^longtask_kit\./.test(model?.state?._anywidget_id ?? "");

/** What cards say, each as `{note, bundle}`; those that have nothing to say are left out. */
export const listParts = (cards, had) =>
  cards.map((card) => ({ note: card.note, bundle: card.describe(had) })).filter(({ bundle }) => bundle);

/** Parts below each other: their bundle, and what is noted of it, with the lines of each if they are several. */
export function joinParts(parts) {
  const bundle = fillForms((at) => parts.map((part) => joinLines(part.bundle[FORMS[at]])).join("\n"));
  if (parts.length === 1) return { bundle, note: parts[0].note };
  const measure = (part) => ({ ...part.note, lines: FORMS.map((form) => joinLines(part.bundle[form]).split("\n").length) });
  return { bundle, note: { parts: parts.map(measure) } };
}

/** The parts of an output, as they were joined; none if somebody has changed its text since. */
export function cutParts({ data, noted }) {
  const lines = FORMS.map((form) => joinLines(data?.[form]).split("\n"));
  if (!Array.isArray(noted?.parts)) return noted ? [{ note: noted, bundle: fillForms((at) => lines[at].join("\n")) }] : [];
  const isWhole = lines.every((all, at) => all.length === noted.parts.reduce((sum, part) => sum + part?.lines?.[at], 0));
  if (!isWhole) return [];
  return noted.parts.map(({ lines: counts, ...note }) => ({ note, bundle: fillForms((at) => lines[at].splice(0, counts[at]).join("\n")) }));
}

const fillForms = (fill) => Object.fromEntries(FORMS.map((form, at) => [form, fill(at)]));

/**
 * Write into a notebook's JSON what its cards say. A page whose kernel lives puts the view back.
 *
 * `findCards` gives the cards that a view shows, each `{taskId, note, describe(had)}`: where none has
 * been asked for anything yet, the output says so. It gives null for what is not ours.
 */
export function writeCards(content, findCards) {
  for (const output of content.cells.flatMap((cell) => cell.outputs ?? [])) {
    const view = output.data?.[VIEW];
    const cards = view ? findCards(view.model_id) : null;
    if (!cards) continue;
    const parts = listParts(cards, output.data);
    if (!parts.length && cards.some((card) => card.note)) continue; // never heard of its kernel
    const { bundle, note } = parts.length ? joinParts(parts) : describeIdle(output.data);
    Object.assign(output.data, bundle);
    delete output.data[VIEW];
    output.metadata = { ...output.metadata, longtask: { ...note, view } };
  }
}

/** What stands where nothing was asked yet. */
function describeIdle(had) {
  const name = joinLines(had["text/plain"]);
  const html = `<p>${escapeText(printable(name))}: run this cell to use it.</p>`;
  return { bundle: { "text/plain": name, "text/html": html }, note: {} };
}
