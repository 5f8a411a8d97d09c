// What the models of a page share, each of which has these modules of its own: the cards there are, and
// what is written of them when their notebook is saved.
import { findDocument, replaceOutput, VIEW, walkOutputs, watchSaves } from "./notebook.js";
import { cutParts, findNeeded, isOurs, listParts, writeCards } from "./saved.js";

export const page = (globalThis[Symbol.for("longtask_kit.page")] ??= {
  id: Math.random().toString(36).slice(2),
  cards: new Map(),
  parts: new Map(), // of a view, by its model's id: the ids of the cards in it
  documents: new WeakSet(),
});

/** Have a card be known in its page, and to the document it stands in; returns what ends that. */
export function joinPage(manager, modelId, card, mayWrite) {
  const find = () => (mayWrite ? findDocument(manager) : null);
  const context = find();
  if (modelId) page.cards.set(modelId, card);
  card.revive = () => revive(find(), manager).catch(() => {});
  if (context && !page.documents.has(context)) {
    page.documents.add(context);
    tellCards(context, manager);
  }
  card.revive();
  return () => page.cards.get(modelId) === card && page.cards.delete(modelId);
}

/** Put the view back that the file does not hold; who writes a static form is asked elsewhere. */
async function revive(context, manager) {
  if (!context) return;
  for (const output of walkOutputs(context)) {
    const view = output.modelId ? null : output.noted?.view;
    if (!view || !manager.has_model?.(view.model_id)) continue;
    const { comm_live } = await manager.get_model(view.model_id);
    if (!comm_live || output.outputs.get(output.index)?.metadata?.longtask !== output.noted) continue;
    const data = { ...output.outputs.get(output.index).data, [VIEW]: view };
    replaceOutput(context, output, { data, metadata: { longtask: output.noted } }, true);
  }
}

/** Have the cards of a document know of what happens to it. */
function tellCards(context, manager) {
  const tell = (what) => () => page.cards.forEach((card) => card[what]());
  watchSaves(context, (content) => writeCards(content, (root) => findCards(manager, root)), tell("noteSaved"));
  context.fileChanged?.connect(tell("revive"));
  manager.restored?.connect(tell("revive"));
}

/** What an output says of its tasks, part by part; nothing while a kernel may still change it. */
export function describeParts(output) {
  if (!output.modelId) return cutParts(output);
  const cards = (page.parts.get(output.modelId) ?? [output.modelId]).map((id) => page.cards.get(id)).filter(Boolean);
  return cards.every((card) => card.isGone) ? listParts(cards, output.data) : [];
}

/** The cards that a view shows; null if it is nothing of ours. */
function findCards(manager, root) {
  if (!page.cards.has(root)) findParts(manager);
  const ids = page.cards.has(root) ? [root] : page.parts.get(root);
  return ids?.map((id) => page.cards.get(id)).filter(Boolean) ?? null;
}

/** Note which cards are in views of something else, a panel or a box: none knows when its kernel has ended. */
export function findParts(manager) {
  let states = {};
  try {
    states = manager.get_state_sync({ drop_defaults: true }).state;
  } catch {
    // another manager, or a state that can't be written: what is known has to do
  }
  for (const { modelId } of walkOutputs(findDocument(manager))) {
    if (!modelId || page.cards.has(modelId)) continue;
    const needed = [...findNeeded(states, modelId)];
    const found = needed.filter((id) => page.cards.has(id));
    if (found.length || needed.some((id) => isOurs(states[id]))) page.parts.set(modelId, found);
  }
}
