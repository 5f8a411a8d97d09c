// What live outputs of many tasks have alike, the mate of `live.py`: the model, the views it is shown
// in, and what each of them is told. A view that nobody sees asks for nothing.
import { createCardPane } from "./cardpane.js";
import { keepLive } from "./livekeeper.js";
import { watchVisibility } from "./visibility.js";

const ALIVE_MS = 20_000; // a view that is not heard of for a minute is not read for
const AGE_MS = 1000;

/**
 * The widget whose views `createView(el, state, send)` makes: objects with `parts`, `draw`, `catchUp`
 * for when what is known may be old, and `takeWindow`; with `take` for messages of their own, and
 * `hasAges` where each second is to be drawn. `isSeen` is set here.
 */
export function makeLiveWidget(createView) {
  return () => {
    const state = { facts: null, first: null, views: new Map(), keeper: null };
    return { initialize: (context) => initialize(state, context), render: (context) => render(state, context, createView) };
  };
}

function initialize(state, { model }) {
  const each = (what) => state.views.forEach((view) => view[what]());
  const takeState = () => {
    const snapshot = model.get("snapshot") ?? {};
    if (!snapshot.facts) return;
    state.facts = snapshot.facts;
    state.first = snapshot;
    each("catchUp");
  };
  const takeMessage = (message) => {
    if (message?.v) state.views.get(message.v)?.take?.(message);
    if (message?.t !== "live") return;
    if (message.facts) state.facts = message.facts;
    for (const [id, held] of Object.entries(message.windows ?? {})) state.views.get(id)?.takeWindow(held);
    each("draw");
  };
  return keepLive(model, state, { takeState, takeMessage, cameBack: () => each("catchUp") });
}

function render(state, { model, el }, createView) {
  const id = Math.random().toString(36).slice(2);
  const send = (message) => state.keeper.send({ ...message, v: id });
  const view = Object.assign(createView(el, state, send), { isSeen: false });
  state.views.set(id, view);
  const showCard = createCardPane(model, view.parts.card);
  model.on("change:card", showCard);
  showCard();
  const see = (now) => {
    if (now === view.isSeen) return;
    view.isSeen = now;
    if (now) view.catchUp();
    else send({ t: "hide" });
  };
  const stopLooking = watchVisibility(el, see);
  const timers = [setInterval(() => view.isSeen && send({ t: "alive" }), ALIVE_MS)];
  if (view.hasAges) timers.push(setInterval(() => view.isSeen && !state.keeper.isLost && view.draw(), AGE_MS));
  view.draw();
  return () => {
    see(false);
    state.views.delete(id);
    stopLooking();
    timers.forEach(clearInterval);
    model.off("change:card", showCard);
  };
}
