// The front end of `TaskOutput`: one buffer a model in `initialize`, views only draw it.
// A model's text reaches the page as text, or as markdown-it's html:false output, never otherwise.
import { createBuffer, takeSnapshot, takeUpdate } from "./buffer.js";
import { createClock, readClock, setClock } from "./clock.js";
import { readFields } from "./fields.js";
import { describeFigures, describeStatus, isActive, TERMINAL } from "./format.js";
import { giveUpAfter, shareLibrary } from "./library.js";
import { createSpeech, takeSpeech } from "./speech.js";
import { createTextView } from "./text.js";

const SILENCE_MS = 5000; // then the snapshot is asked for: an update may have been lost
const SPEAK_MS = 2000;
const DRAW_MS = 30; // between two draws
const LIBRARY_TIMEOUT_MS = 10_000;
const LIBRARY = Symbol.for("longtask_kit.markdown");

/** What the views of one model share; anywidget calls the default export once a model. */
function createState() {
  const now = performance.now();
  return { buffer: createBuffer(), clock: createClock(), views: new Set(), heardAt: now, askedAt: -Infinity };
}

function initialize(state, { model }) {
  const ask = () => {
    if (performance.now() - state.askedAt < 1000) return;
    state.askedAt = performance.now();
    model.send({ t: "sync", e: state.buffer.epoch, s: state.buffer.seq });
  };
  const changed = () => {
    state.heardAt = performance.now();
    setClock(state.clock, state.buffer.meta, state.heardAt);
    remember(model, state.buffer.meta);
    for (const view of state.views) view.schedule();
  };
  const takeState = () => takeSnapshot(state.buffer, model.get("snapshot")) && changed();
  const takeMessage = (message) => {
    if (message?.t === "lib") takeLibrary(state, message.src);
    if (message?.t !== "u") return;
    const verdict = takeUpdate(state.buffer, message);
    if (verdict === "applied") changed();
    if (verdict === "hole") ask();
  };
  model.on("change:snapshot", takeState);
  model.on("msg:custom", takeMessage);
  takeState();
  ask(); // what was sent before this front end listened is lost
  const watchdog = setInterval(() => {
    const isSilent = performance.now() - state.heardAt > SILENCE_MS;
    if (isSilent && isActive(state.buffer.meta.status)) ask();
  }, SILENCE_MS / 2);
  if (model.get("in_panel")) {
    const taskId = recall();
    if (taskId) model.send({ t: "remembered", taskId });
  }
  return () => {
    clearInterval(watchdog);
    model.off("change:snapshot", takeState);
    model.off("msg:custom", takeMessage);
  };
}

function render(state, { model, el }) {
  const view = createView(el, (message) => model.send(message), () => loadLibrary(model, state));
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
  view.schedule();
  const clock = setInterval(() => isActive(state.buffer.meta.status) && view.schedule(), 200);
  const speaker = setInterval(() => view.speak(state.buffer), SPEAK_MS);
  const unbind = model.get("in_panel") ? bindKeys(el, model, state) : () => {};
  return () => {
    state.views.delete(view);
    cancelAnimationFrame(frame);
    clearInterval(clock);
    clearInterval(speaker);
    unbind();
  };
}

/** The markdown library, once a page: asked of a kernel, imported through a Blob URL. */
function loadLibrary(model, state) {
  return shareLibrary(globalThis, LIBRARY, async () => {
    const answer = new Promise((resolve) => (state.resolveLibrary = resolve));
    model.send({ t: "lib" });
    return importSource(await giveUpAfter(LIBRARY_TIMEOUT_MS, answer));
  });
}

/** Take the library's source; after its time, what was left as plain text is drawn again. */
function takeLibrary(state, source) {
  state.resolveLibrary?.(source);
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

// -- the panel's keys and memory ------------------------------------------------------------------

function bindKeys(el, model, state) {
  let panel = null;
  const onKey = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would run the cell
      model.send({ t: "submit", fields: readFields(panel) });
    } else if (event.key === "Escape" && isActive(state.buffer.meta.status)) {
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would leave edit mode
      model.send({ t: "cancel" });
    }
  };
  const find = () => {
    panel = el.closest(".longtask-panel");
    if (panel) panel.addEventListener("keydown", onKey, true);
    else if (!stopped) requestAnimationFrame(find); // ipywidgets attaches views after render
  };
  let stopped = false;
  find();
  return () => {
    stopped = true;
    panel?.removeEventListener("keydown", onKey, true);
  };
}

const memoryKey = () => `longtask:${location.pathname}`;

function recall() {
  try {
    return localStorage.getItem(memoryKey());
  } catch {
    return null; // storage is off
  }
}

function remember(model, meta) {
  if (!model.get("in_panel") || !meta.taskId) return;
  try {
    if (isActive(meta.status)) localStorage.setItem(memoryKey(), meta.taskId);
    else if (localStorage.getItem(memoryKey()) === meta.taskId) localStorage.removeItem(memoryKey());
  } catch {
    // storage is off: nothing to come back to
  }
}

// -- the view -------------------------------------------------------------------------------------

/** An element with attributes and children; text children are text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const button = (label, title, onclick) =>
  make("button", { type: "button", class: "longtask-button", title, onclick }, label);

function createView(el, send, load) {
  const parts = buildParts(el, send);
  const drawn = { epoch: -1, figures: "", speech: null, status: "" };
  const drawText = createTextView(parts, load, make);

  parts.copy.addEventListener("click", async () => {
    await copyText(parts.text.textContent);
    parts.copy.textContent = "Copied";
    setTimeout(() => (parts.copy.textContent = "Copy"), 1500);
  });

  function drawHeader(meta, elapsedMs) {
    const status = describeStatus(meta);
    if (drawn.status !== status) {
      drawn.status = status;
      parts.badge.textContent = status;
      el.firstChild.dataset.status = meta.status ?? "idle";
    }
    const figures = describeFigures(meta, elapsedMs);
    const key = JSON.stringify([figures, meta.taskId]);
    if (drawn.figures !== key) {
      drawn.figures = key;
      parts.figures.replaceChildren(
        ...figures.map(([name, value]) =>
          make("span", { class: "longtask-figure" }, make("b", {}, value), ` ${name}`),
        ),
      );
    }
    const isRunning = isActive(meta.status);
    parts.cancel.hidden = !isRunning;
    parts.unwatch.hidden = !(isRunning && meta.isWatching);
    parts.retry.hidden = !(meta.status === "failed" && meta.canRetry);
    const share = meta.maxTokens ? Math.min(1, (meta.tokens ?? 0) / meta.maxTokens) : 0;
    parts.bar.style.transform = `scaleX(${meta.status === "completed" ? 1 : share})`;
    parts.progress.hidden = meta.status === "idle";
  }

  function drawNotes(meta) {
    const note = meta.notice || (meta.isWatching === false && isActive(meta.status) ? "Not watching; the task runs on." : "");
    parts.notice.textContent = note;
    parts.notice.hidden = !note;
    const isError = Boolean(meta.error) && meta.status !== "retrying";
    const cause = isError ? meta.error : "";
    if (parts.cause.textContent !== cause) parts.cause.textContent = cause;
    parts.cure.textContent = isError ? meta.cure ?? "" : "";
    parts.error.hidden = !isError;
    parts.label.textContent = meta.label ?? "";
    parts.label.hidden = !meta.label;
    parts.offer.hidden = !meta.offer;
    if (meta.offer) {
      parts.offerText.textContent = `Still ${meta.offer.status} from before: “${meta.offer.prompt}”`;
      parts.offer.dataset.taskId = meta.offer.taskId;
    }
  }

  const view = {
    schedule: () => {},
    draw(buffer, elapsedMs) {
      const { meta } = buffer;
      drawHeader(meta, elapsedMs);
      drawNotes(meta);
      const hasText = buffer.text.length > 0;
      parts.empty.hidden = hasText || meta.status !== "idle" || Boolean(meta.error);
      parts.scroller.hidden = !hasText;
      parts.tools.hidden = !hasText;
      if (drawn.epoch !== buffer.epoch) {
        Object.assign(drawn, { epoch: buffer.epoch, speech: createSpeech(performance.now()) });
      }
      return drawText(buffer, TERMINAL.has(meta.status), performance.now(), view.schedule);
    },
    speak(buffer) {
      const spoken = drawn.speech ? takeSpeech(drawn.speech, buffer, performance.now()) : "";
      if (spoken) parts.polite.textContent = spoken;
    },
  };
  return view;
}

function buildParts(el, send) {
  const parts = {
    badge: make("span", { class: "longtask-badge", role: "status" }),
    figures: make("span", { class: "longtask-figures" }),
    cancel: button("Cancel", "End the task (Escape)", () => send({ t: "cancel" })),
    unwatch: button("Stop watching", "The task runs on", () => send({ t: "unwatch" })),
    retry: button("Retry", "Run it again as a new attempt", () => send({ t: "retry" })),
    bar: make("div", { class: "longtask-bar" }),
    notice: make("div", { class: "longtask-notice" }),
    cause: make("div", { class: "longtask-cause" }),
    cure: make("div", { class: "longtask-cure" }),
    empty: make("div", { class: "longtask-empty" }, "Nothing submitted yet: the answer will stream in here."),
    text: make("div", { class: "longtask-text" }),
    rendered: make("div", { class: "longtask-rendered" }),
    tail: make("div", { class: "longtask-tail" }, document.createTextNode("")),
    raw: button("Raw", "Show the text as the model wrote it"),
    copy: button("Copy", "Copy the text"),
    jump: button("Jump to latest ↓", "Follow the text again"),
    polite: make("div", { class: "longtask-spoken", "aria-live": "polite" }),
    label: make("div", { class: "longtask-label" }),
    offerText: make("span"),
  };
  parts.raw.setAttribute("aria-pressed", "false");
  parts.jump.classList.add("longtask-jump");
  parts.jump.hidden = true;
  parts.progress = make("div", { class: "longtask-progress", "aria-hidden": "true" }, parts.bar);
  parts.error = make("div", { class: "longtask-error", role: "alert" }, parts.cause, parts.cure);
  parts.offer = make("div", { class: "longtask-offer" });
  parts.offer.append(
    parts.offerText,
    button("Continue", "Watch it here", () => send({ t: "continue", taskId: parts.offer.dataset.taskId })),
    button("Dismiss", "Leave it alone", () => send({ t: "dismiss" })),
  );
  parts.tools = make("div", { class: "longtask-tools" }, parts.raw, parts.copy);
  const log = { class: "longtask-scroller", role: "log", "aria-live": "off", "aria-label": "Answer", tabindex: "0" };
  parts.scroller = make("div", log, parts.text, parts.rendered, parts.tail);
  const head = make("div", { class: "longtask-head" }, parts.badge, parts.figures,
    make("span", { class: "longtask-actions" }, parts.retry, parts.unwatch, parts.cancel));
  const body = make("div", { class: "longtask-body" }, parts.scroller, parts.jump, parts.tools);
  // Hidden until drawn for the first time, else they would flash.
  for (const part of [parts.text, parts.rendered, parts.offer, parts.error, parts.notice, parts.tools, parts.scroller, parts.retry, parts.unwatch, parts.cancel]) {
    part.hidden = true;
  }
  el.append(make("section", { class: "longtask-output", "aria-label": "Task" },
    parts.offer, head, parts.progress, parts.notice, parts.error, parts.empty, body, parts.label, parts.polite));
  return parts;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No permission, or no secure context: the old way.
    const area = make("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export default () => {
  const state = createState();
  return { initialize: (context) => initialize(state, context), render: (context) => render(state, context) };
};
