// The front end of `XRayOutput`: the picture, drawn by Python, and a cursor over it that shows the
// text of any moment. A view that nobody sees asks for nothing.
import { make, setText } from "./dom.js";
import { formatDuration } from "./format.js";
import { keepLive } from "./livekeeper.js";
import { findEdge, findMs, findPlace, findWords, readMoment } from "./moments.js";
import { watchVisibility } from "./visibility.js";

const ALIVE_MS = 20_000;
const STEPS = 200; // of an arrow key, over the whole width

function createState() {
  return { facts: null, track: null, isTrackAsked: false, views: new Set(), keeper: null };
}

function initialize(state, { model }) {
  const redraw = () => state.views.forEach((view) => view.draw());
  const takeState = () => {
    state.facts = model.get("snapshot")?.facts ?? state.facts;
    redraw();
  };
  const takeMessage = (message) => {
    if (message?.t === "x") state.facts = message.facts;
    if (message?.t === "track") Object.assign(state, { track: message.track, isTrackAsked: false });
    if (message?.t === "x" || message?.t === "track") redraw();
  };
  return keepLive(model, state, { takeState, takeMessage, cameBack: redraw });
}

function render(state, { el }) {
  const id = Math.random().toString(36).slice(2);
  const view = createView(el, state);
  const send = (t) => state.keeper.send({ t, v: id });
  let isSeen = false;
  state.views.add(view);
  const stopLooking = watchVisibility(el, (now) => {
    if (now !== isSeen) send(now ? "see" : "hide");
    isSeen = now;
  });
  const alive = setInterval(() => isSeen && send("alive"), ALIVE_MS);
  view.draw();
  return () => {
    if (isSeen) send("hide");
    state.views.delete(view);
    stopLooking();
    clearInterval(alive);
  };
}

function createView(el, state) {
  const parts = buildParts();
  el.append(parts.card);
  let drawn = "";
  let at = null; // ms; null while nothing is pointed at
  let isFollowing = false; // the end of what grows

  const endMs = () => 1000 * (state.facts.scale.at(-1)?.[1] ?? 0);

  function draw() {
    const { facts } = state;
    if (!facts) return;
    const isLost = state.keeper?.isLost && !facts.isOver;
    parts.card.className = `longtask-card longtask-xray is-${isLost ? "quiet" : facts.kind}`;
    setText(parts.word, isLost ? "disconnected" : facts.word);
    setText(parts.id, facts.id);
    setText(parts.asked, facts.asked ?? "");
    const figures = facts.figures.map(([before, value, after]) => make("span", { class: "longtask-figure" }, before, make("b", {}, value), after));
    parts.figures.replaceChildren(...figures);
    if (facts.svg !== drawn) {
      drawn = facts.svg;
      parts.picture.replaceChildren(document.adoptNode(new DOMParser().parseFromString(facts.svg, "image/svg+xml").documentElement));
    }
    if (at !== null) {
      askTrack(!facts.isOver);
      drawMoment();
    }
  }

  function askTrack(isFresh) {
    if (state.isTrackAsked || (state.track && !isFresh)) return;
    state.isTrackAsked = true;
    state.keeper.send({ t: "track" });
  }

  function point(ms) {
    const isFirst = at === null;
    at = Math.max(0, Math.min(endMs(), ms));
    isFollowing = at >= endMs();
    if (isFirst) askTrack(!state.facts.isOver);
    drawMoment();
  }

  function drawMoment() {
    if (isFollowing) at = endMs();
    const { facts, track } = state;
    const place = findPlace(facts.scale, at);
    const words = findWords(facts.spans, at);
    const { reasoning, text } = readMoment(track ?? [], at);
    parts.cursor.hidden = parts.moment.hidden = false;
    parts.hint.hidden = true;
    parts.cursor.style.left = `${100 * place}%`;
    setText(parts.when, `at ${formatDuration(at)}: ${words}`);
    setText(parts.reasoning, reasoning);
    setText(parts.text, text);
    parts.said.scrollTop = parts.said.scrollHeight;
    parts.said.hidden = facts.hasText === false;
    const { stage } = parts;
    stage.setAttribute("aria-valuemax", Math.round(endMs()));
    stage.setAttribute("aria-valuenow", Math.round(at));
    stage.setAttribute("aria-valuetext", `${formatDuration(at)}: ${words}${text ? `, ${text.length.toLocaleString("en")} characters` : ""}`);
  }

  function move(event) {
    const box = parts.picture.getBoundingClientRect();
    point(findMs(state.facts.scale, Math.max(0, Math.min(1, (event.clientX - box.left) / box.width))));
  }

  function press(event) {
    const { scale, spans } = state.facts;
    const now = at ?? endMs();
    const step = (by) => findMs(scale, Math.max(0, Math.min(1, findPlace(scale, now) + by / STEPS)));
    const moves = {
      ArrowRight: () => step(1),
      ArrowUp: () => step(1),
      ArrowLeft: () => step(-1),
      ArrowDown: () => step(-1),
      PageUp: () => findEdge(spans, now, endMs(), true),
      PageDown: () => findEdge(spans, now, endMs(), false),
      Home: () => 0,
      End: () => endMs(),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    point(moves[event.key]());
  }

  parts.stage.addEventListener("pointermove", move);
  parts.stage.addEventListener("pointerdown", move);
  parts.stage.addEventListener("keydown", press);
  return { draw };
}

function buildParts() {
  const word = make("span");
  const state = make("span", { class: "longtask-state", role: "status" }, make("i", { class: "longtask-dot", "aria-hidden": "true" }), word);
  const figures = make("span", { class: "longtask-figures" });
  const head = make("div", { class: "longtask-head" }, state, figures);
  const picture = make("div", { class: "longtask-picture" });
  const cursor = make("i", { class: "longtask-cursor", "aria-hidden": "true", hidden: "" });
  const stage = make(
    "div",
    { class: "longtask-stage", role: "slider", tabindex: "0", "aria-label": "Moment", "aria-valuemin": "0", "aria-valuenow": "0", "aria-valuetext": "no moment is chosen" },
    picture,
    cursor,
  );
  const hint = make("p", { class: "longtask-hint" }, "Point at a moment, or focus the picture and use ← → to see the text as it stood.");
  const when = make("p", { class: "longtask-when" });
  const reasoning = make("span", { class: "longtask-reasoned" });
  const text = make("span");
  const said = make("div", { class: "longtask-said", tabindex: "0", role: "group", "aria-label": "The text as it stood" }, reasoning, text);
  const moment = make("div", { class: "longtask-moment", hidden: "" }, when, said);
  const id = make("code");
  const asked = make("span", { class: "longtask-asked" });
  const foot = make("div", { class: "longtask-foot" }, id, asked);
  const body = make("div", { class: "longtask-body" }, stage, hint, moment);
  const card = make("section", { class: "longtask-card longtask-xray", "aria-label": "X-ray" }, head, body, foot);
  return { card, word, figures, picture, cursor, stage, hint, when, reasoning, text, said, moment, id, asked };
}

export default () => {
  const state = createState();
  return { initialize: (context) => initialize(state, context), render: (context) => render(state, context) };
};
