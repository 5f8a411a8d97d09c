// The card: one task in every state. Python says the state's word and kind; this draws them.
import { button, copyText, make, setText, showParts } from "./dom.js";
import { makeFigures } from "./figures.js";
import { describeData, describeFigures, describeNote, describeProgress, describeTool, formatDuration, isActive, TERMINAL, thinkingMs } from "./format.js";
import { createSpeech, takeSpeech } from "./speech.js";
import { createTextView } from "./text.js";

/** The view of a task in `el`; `send` sends to the kernel, `load` brings a library by its name. */
export function createCard(el, send, load) {
  const parts = buildParts(el, send);
  const drawn = { epoch: -1, figures: "", extras: "", speech: null, retry: {} };
  const view = { schedule: () => {}, draw, speak };
  const drawText = createTextView(parts, { load, schedule: () => view.schedule() }, make);
  const { card } = parts;

  parts.copy.addEventListener("click", () => copyText(parts.text.textContent, parts.copy));
  parts.attach.addEventListener("click", () => copyText(card.dataset.attach, parts.attach));
  parts.rendered.addEventListener("click", ({ target }) => {
    if (target.className !== "longtask-copy") return;
    copyText(target.closest(".longtask-code").querySelector("code").textContent, target);
  });
  card.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !event.shiftKey || parts.cancel.hidden) return;
    event.preventDefault();
    event.stopPropagation();
    send({ t: "cancel" });
  });
  parts.think.addEventListener("toggle", () => {
    // A reader's own choice stays.
    if (parts.think.open !== drawn.opens) drawn.isThinkSet = true;
  });

  function draw(buffer, elapsedMs) {
    const { meta } = buffer;
    const now = performance.now();
    if (drawn.epoch !== buffer.epoch) {
      Object.assign(drawn, { epoch: buffer.epoch, speech: createSpeech(now), isThinkSet: false });
    }
    drawHead(meta, elapsedMs);
    drawNote(meta, now);
    drawExtras(buffer, elapsedMs);
    drawActions(buffer);
    drawFoot(meta);
    const hasText = buffer.text.length > 0;
    const isOver = TERMINAL.has(meta.status);
    card.toggleAttribute("data-grows", hasText && !isOver && !meta.isDisconnected);
    parts.empty.hidden = meta.status !== "idle" || Boolean(meta.error);
    parts.scroller.hidden = !hasText;
    parts.body.hidden = ![parts.empty, parts.scroller, parts.think, parts.progress, parts.extras].some((part) => !part.hidden);
    parts.wait.hidden = hasText || !isActive(meta.status) || Boolean(meta.isDisconnected);
    return drawText(buffer, isOver, now);
  }

  function speak(buffer) {
    const spoken = drawn.speech ? takeSpeech(drawn.speech, buffer, performance.now()) : "";
    if (spoken) parts.polite.textContent = spoken;
  }

  function drawHead(meta, elapsedMs) {
    const [word, kind] = meta.isDisconnected ? ["disconnected", "quiet"] : [meta.word ?? meta.status, meta.kind ?? "quiet"];
    setText(parts.word, word ?? "idle");
    if (card.dataset.kind !== kind) {
      card.classList.replace(`is-${card.dataset.kind}`, `is-${kind}`);
      card.dataset.kind = kind;
    }
    card.dataset.status = meta.isDisconnected ? "disconnected" : meta.status ?? "idle";
    const figures = describeFigures(meta, elapsedMs);
    const key = JSON.stringify(figures);
    if (drawn.figures === key) return;
    drawn.figures = key;
    parts.figures.replaceChildren(...makeFigures(figures));
  }

  function drawNote(meta, now) {
    const { retry } = drawn;
    const key = `${meta.taskId} ${meta.attempt} ${meta.nextTryMs}`;
    if (retry.key !== key) Object.assign(retry, { key, at: meta.nextTryMs == null ? null : now + meta.nextTryMs });
    const note = describeNote(meta, retry.at == null ? null : retry.at - now);
    parts.note.hidden = !note;
    if (!note) return;
    setText(parts.cause, note.cause);
    setText(parts.cure, note.cure ? ` ${note.cure}` : "");
    // An alert is read at once: only of an end that is one.
    const role = note.isAlert ? "alert" : "note";
    if (parts.note.getAttribute("role") !== role) parts.note.setAttribute("role", role);
  }

  /** Reasoning, progress, tool calls and data: what comes beside the text. */
  function drawExtras({ meta, text, reasoning }, elapsedMs) {
    parts.think.hidden = !reasoning;
    if (reasoning) {
      const isThinking = !text && isActive(meta.status);
      const thinkMs = thinkingMs(meta, isThinking ? elapsedMs : null);
      setText(parts.thinkHead, thinkMs == null ? "Thinking" : `Thinking · ${formatDuration(thinkMs)}`);
      drawReasoning(reasoning);
      if (!drawn.isThinkSet && drawn.opens !== isThinking) parts.think.open = drawn.opens = isThinking;
    }
    const progress = describeProgress(meta.progress);
    parts.progress.hidden = !progress || TERMINAL.has(meta.status);
    if (progress) {
      parts.bar.style.width = progress.share == null ? "0" : `${100 * progress.share}%`;
      parts.bar.parentElement.hidden = progress.share == null;
      setText(parts.progressText, progress.text);
    }
    const blocks = [...(meta.toolCalls ?? []).map(describeTool), ...describeData(meta.data)];
    const key = JSON.stringify(blocks);
    if (key === drawn.extras) return;
    drawn.extras = key;
    parts.extras.replaceChildren(...blocks.map((block) => make("div", { class: "longtask-json", tabindex: "0" }, block)));
    parts.extras.hidden = blocks.length === 0;
  }

  function drawReasoning(reasoning) {
    const { firstChild } = parts.thinkText;
    if (reasoning.startsWith(firstChild.data)) firstChild.appendData(reasoning.slice(firstChild.length));
    else firstChild.data = reasoning;
    if (drawn.opens && !drawn.isThinkSet) parts.thinkText.scrollTop = 1e9;
  }

  function drawActions({ meta, text }) {
    const isRunning = isActive(meta.status) && !meta.isDisconnected;
    const shown = {
      raw: text.length > 0 && !isRunning,
      copy: text.length > 0 && !isRunning,
      now: isRunning && meta.status === "retrying" && Boolean(meta.canTryNow),
      unwatch: isRunning && meta.isWatching,
      rewatch: isRunning && !meta.isWatching && meta.status !== "idle",
      cancel: isRunning,
      retry: ["failed", "cancelled"].includes(meta.status) && Boolean(meta.canRetry) && !meta.isDisconnected,
      attach: Boolean(meta.isDisconnected),
    };
    parts.actions.hidden = !["now", "unwatch", "rewatch", "cancel", "retry", "attach"].some((name) => shown[name]);
    showParts(card, Object.entries(shown).map(([name, isShown]) => [parts[name], isShown]));
  }

  function drawFoot(meta) {
    card.dataset.attach = `kit.attach("${meta.taskId}")`;
    setText(parts.id, meta.isDisconnected ? card.dataset.attach : meta.taskId ?? "");
    setText(parts.goesOn, meta.isDisconnected ? "The task goes on without this kernel:" : "");
    setText(parts.asked, meta.isDisconnected ? "" : meta.prompt ?? "");
    setText(parts.replayed, meta.replayed ?? "");
    setText(parts.label, meta.label ?? "");
    for (const name of ["id", "goesOn", "asked", "replayed", "label"]) parts[name].hidden = !parts[name].textContent;
    parts.foot.hidden = !meta.taskId && !meta.label;
  }

  return view;
}

function buildParts(el, send) {
  const act = (t) => () => send({ t });
  const parts = {
    word: make("span"),
    figures: make("span", { class: "longtask-figures" }),
    now: button("Try now", "Do not wait for the queue; it costs no attempt", act("now")),
    unwatch: button("Stop watching", "The task runs on", act("unwatch")),
    rewatch: button("Watch again", "Show the task as it is now", act("watch")),
    cancel: button("Cancel", "End the task (Shift+Escape)", act("cancel")),
    retry: button("Retry", "Run it again as a new attempt", act("retry")),
    attach: button("Copy kit.attach(…)", "Go on with it in another cell or kernel"),
    raw: button("Raw", "Show the text as the model wrote it"),
    copy: button("Copy", "Copy the text as the model wrote it"),
    jump: button("Jump to latest ↓", "Follow the text again"),
    wait: make("div", { class: "longtask-wait", "aria-hidden": "true" }),
    cause: make("b"),
    cure: make("span"),
    empty: make("p", { class: "longtask-empty" }, "Nothing submitted yet: the answer will stream in here."),
    thinkHead: make("summary", {}, "Thinking"),
    thinkText: make("div", { tabindex: "0" }, document.createTextNode("")),
    bar: make("i"),
    progressText: make("span"),
    text: make("div", { class: "longtask-text" }),
    rendered: make("div", { class: "longtask-rendered" }),
    extras: make("div", { class: "longtask-extras" }),
    id: make("code"),
    goesOn: make("span"),
    asked: make("span", { class: "longtask-asked" }),
    replayed: make("span", { class: "longtask-replayed" }),
    label: make("span", { class: "longtask-label" }),
    polite: make("div", { class: "longtask-spoken", "aria-live": "polite" }),
  };
  for (const name of ["cancel", "retry", "attach"]) parts[name].classList.add("is-main");
  parts.raw.setAttribute("aria-pressed", "false");
  parts.jump.classList.add("longtask-jump");
  parts.note = make("div", { class: "longtask-note" }, parts.cause, parts.cure);
  parts.think = make("details", { class: "longtask-think" }, parts.thinkHead, parts.thinkText);
  parts.progress = make("div", { class: "longtask-progress" }, make("i", {}, parts.bar), parts.progressText);
  const log = { class: "longtask-scroller", role: "log", "aria-live": "off", "aria-label": "Answer", tabindex: "0" };
  parts.scroller = make("div", log, parts.text, parts.rendered);
  const state = make("span", { class: "longtask-state", role: "status" }, make("i", { class: "longtask-dot", "aria-hidden": "true" }), parts.word);
  const actions = ["now", "retry", "attach", "unwatch", "rewatch", "cancel"].map((name) => parts[name]);
  parts.actions = make("span", { class: "longtask-actions" }, ...actions);
  const head = make("div", { class: "longtask-head" }, state, parts.figures, parts.actions);
  parts.body = make("div", { class: "longtask-body" }, parts.empty, parts.progress, parts.think, parts.scroller, parts.extras, parts.jump);
  const tools = make("span", { class: "longtask-actions" }, parts.copy, parts.raw);
  parts.foot = make("div", { class: "longtask-foot" }, parts.goesOn, parts.id, parts.asked, tools, parts.replayed, parts.label);
  // Hidden until drawn for the first time, else they would flash.
  for (const part of [...actions, parts.raw, parts.copy, parts.note, parts.body, parts.foot, parts.wait, parts.jump, parts.extras]) part.hidden = true;
  parts.card = make("section", { class: "longtask-output longtask-card is-quiet", "aria-label": "Task", "data-kind": "quiet" },
    head, parts.wait, parts.note, parts.body, parts.foot, parts.polite);
  el.append(parts.card);
  return parts;
}
