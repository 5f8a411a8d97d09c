// The front end of `TaskOutput`: one buffer a model in `initialize`, views only draw it.
// A model's text reaches the page as text, or as markdown-it's html:false output, never otherwise.
import { createBuffer, takeSnapshot, takeUpdate } from "./buffer.js";
import { createCard } from "./card.js";
import { createClock, readClock, setClock } from "./clock.js";
import { createKeeper } from "./keeper.js";
import { isActive, TERMINAL } from "./format.js";
import { giveUpAfter, shareLibrary } from "./library.js";
import { tellEnd } from "./notify.js";

const SILENCE_MS = 5000; // then the snapshot is asked for: an update may have been lost
const SPEAK_MS = 2000;
const DRAW_MS = 30; // between two draws
const LIBRARY_TIMEOUT_MS = 10_000;
const libraryKey = (name) => Symbol.for(`longtask_kit.${name}`);

/** What the views of one model share; anywidget calls the default export once a model. */
function createState() {
  const now = performance.now();
  return { buffer: createBuffer(), clock: createClock(), views: new Set(), awaited: {}, heardAt: now, askedAt: -Infinity };
}

function initialize(state, { model }) {
  const ask = () => {
    if (performance.now() - state.askedAt < 1000) return;
    state.askedAt = performance.now();
    keeper.send({ t: "sync", e: state.buffer.epoch, s: state.buffer.seq });
  };
  const redraw = () => {
    setClock(state.clock, state.buffer.meta, performance.now());
    for (const view of state.views) view.schedule();
  };
  const keeper = (state.keeper = createKeeper(model, state, {
    ask,
    redraw,
    readClock: () => readClock(state.clock, performance.now()),
  }));
  const changed = () => {
    state.heardAt = performance.now();
    const { meta } = state.buffer;
    tellEnd(state.status, meta);
    if (state.status !== meta.status && TERMINAL.has(meta.status)) keeper.noteEnd();
    state.status = meta.status;
    redraw();
  };
  const takeState = () => takeSnapshot(state.buffer, model.get("snapshot")) && changed();
  const hearState = () => {
    keeper.hear();
    takeState();
  };
  const takeMessage = (message) => {
    if (keeper.take(message)) return;
    if (message?.t === "lib") takeLibrary(state, message);
    if (message?.t !== "u") return;
    const verdict = takeUpdate(state.buffer, message);
    if (verdict === "applied") changed();
    if (verdict === "hole") ask();
  };
  model.on("change:snapshot", hearState);
  model.on("msg:custom", takeMessage);
  takeState();
  ask(); // what was sent before this front end listened is lost
  const watchdog = setInterval(() => {
    const isSilent = performance.now() - state.heardAt > SILENCE_MS;
    if (isSilent && isActive(state.buffer.meta.status)) ask();
  }, SILENCE_MS / 2);
  return () => {
    clearInterval(watchdog);
    keeper.stop();
    model.off("change:snapshot", hearState);
    model.off("msg:custom", takeMessage);
  };
}

function render(state, { model, el }) {
  const view = createCard(el, (message) => state.keeper.send(message), (name) => loadLibrary(model, state, name));
  let frame = 0;
  let drawnAt = 0;
  const draw = (now) => {
    frame = 0;
    if (now - drawnAt < DRAW_MS) return view.schedule();
    drawnAt = now;
    if (view.draw(state.buffer, readClock(state.clock, performance.now()))) view.schedule();
  };
  view.schedule = () => {
    frame ||= requestAnimationFrame(draw);
  };
  state.views.add(view);
  state.keeper.viewCame();
  view.schedule();
  const clock = setInterval(() => isActive(state.buffer.meta.status) && view.schedule(), 200);
  const speaker = setInterval(() => view.speak(state.buffer), SPEAK_MS);
  return () => {
    state.views.delete(view);
    state.keeper.viewWent();
    cancelAnimationFrame(frame);
    clearInterval(clock);
    clearInterval(speaker);
  };
}

/** A library, once a page: asked of a kernel, imported through a Blob URL. */
function loadLibrary(model, state, name) {
  return shareLibrary(globalThis, libraryKey(name), async () => {
    const answer = new Promise((resolve) => (state.awaited[name] = resolve));
    model.send({ t: "lib", name });
    return importSource(await giveUpAfter(LIBRARY_TIMEOUT_MS, answer));
  });
}

/** Take a library's source; after its time, what was left as plain text is drawn again. */
function takeLibrary(state, { name, src }) {
  state.awaited[name]?.(src);
  for (const view of state.views) view.schedule();
}

async function importSource(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return await import(/* webpackIgnore: true */ url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

export default () => {
  const state = createState();
  return { initialize: (context) => initialize(state, context), render: (context) => render(state, context) };
};
