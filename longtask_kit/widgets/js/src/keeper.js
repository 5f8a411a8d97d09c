// What keeps a card in its notebook whatever happens to page or kernel: the page's half of
// `longtask_kit/widgets/keeper.py`. One keeper a model; what it writes goes through `notebook.js`.
import { isActive, TERMINAL } from "./format.js";
import { describeKernel, findDocument, replaceOutput, walkOutputs, watchKernel } from "./notebook.js";
import { describeParts, findParts, joinPage, page } from "./page.js";
import { addStyle, composeBundle, joinParts } from "./saved.js";

const TICK_MS = 1000;
const PING_MS = 4000; // of silence, where the kernel's state can't be seen
const PONG_MS = 5000; // within which a ping is answered
const FRAME_MS = 1000; // a state that lasts shorter is not worth its frame
const WANT_MS = 5000; // after which a turn that did not come is asked for again
const PLACED = 3;

/** A keeper; `state` has the buffer and the views, `hooks` say `now` of the clock and `redraw`. */
export function createKeeper(model, state, hooks) {
  const manager = model.widget_manager;
  const { modelId, mayWrite } = model.get("snapshot")?.place ?? {};
  const kept = { isGone: false, isAway: false, hasHeard: false, frame: null, over: null, hasHosted: false, hasPlaced: false };
  let pingAt = -Infinity;
  let frameOf = "";
  const timers = new Set();

  const meta = () => state.buffer.meta;
  const send = (message) => {
    try {
      model.send(message);
    } catch {
      lose("gone"); // its comm has ended with the kernel
    }
  };
  const later = (ms, work) => timers.add(setTimeout(work, ms));
  const document = () => (mayWrite ? findDocument(manager) : null);

  function lose(how) {
    kept.isAway = true;
    kept.isGone ||= how === "gone";
    if (TERMINAL.has(meta().status)) endLive();
    if (!isActive(meta().status) || meta().isDisconnected) return;
    state.buffer.meta = { ...meta(), elapsedMs: hooks.readClock(), isDisconnected: true };
    hooks.redraw();
    // Without a kernel nobody gives turns: the page that is looked at has it saved.
    const context = document();
    if (context && globalThis.document.visibilityState === "visible" && findOwn(context).length) {
      context.model.dirty = true;
    }
  }

  /** Without a kernel no button does anything: what was kept live for them is static from here on. */
  function endLive() {
    state.buffer.meta = { ...meta(), canRetry: false };
    hooks.redraw();
    const context = kept.isGone && kept.over?.saved ? document() : null;
    for (const output of context ? findOwn(context) : []) {
      const { data, metadata } = kept.over.saved;
      replaceOutput(context, output, { data: { ...data }, metadata: { ...metadata } }, true);
    }
  }

  /** Something came from the kernel: it is there. */
  function hear() {
    if (kept.isAway && TERMINAL.has(meta().status)) {
      state.buffer.meta = { ...meta(), canRetry: true };
      hooks.redraw();
    }
    Object.assign(kept, { hasHeard: true, isAway: false, isGone: false });
    if (meta().isDisconnected) state.buffer.meta = { ...meta(), isDisconnected: false };
    askFrame();
  }

  function look(kernel) {
    if (kernel === "gone" || kernel === "away") lose(kernel);
    else if (kernel === "there" && kept.isAway && !kept.isGone) hooks.ask();
  }

  function tick() {
    if (!isActive(meta().status) || kept.isAway) return;
    if (describeKernel(manager) !== null) return;
    const now = performance.now();
    if (pingAt > state.heardAt) {
      if (now - pingAt > PONG_MS) lose("away");
    } else if (now - state.heardAt > PING_MS) {
      pingAt = now;
      send({ t: "ping" });
    }
  }

  /** A model that was restored from the file has no kernel that knows it. */
  async function lookAtComm() {
    const own = await manager?.get_model?.(modelId);
    if (own?.comm_live === false) lose("gone");
  }

  /** Ask for the static form's frame once a task, and again after an end that stays live. */
  function askFrame() {
    const { status } = meta();
    const wanted = nameFrame();
    if (!meta().taskId || status === "pending" || frameOf === wanted || !document()) return;
    frameOf = wanted;
    const ask = () => wanted === nameFrame() && !kept.over && send({ t: "frame" });
    if (kept.frame || !state.buffer.text) later(FRAME_MS, ask);
    else ask(); // what the file holds has a text already
  }

  const nameFrame = () => `${meta().taskId} ${TERMINAL.has(meta().status)}`;

  const card = {
    get note() {
      const { isDisconnected, status, taskId } = meta();
      return taskId ? { taskId, status: isDisconnected ? "disconnected" : status } : null;
    },
    get isGone() {
      return kept.isGone;
    },
    /** The static form; null if nothing was asked, or its kernel never spoke to this page. */
    describe(had) {
      if (!meta().taskId) return null;
      if (kept.over?.saved && kept.over.taskId === meta().taskId) return kept.over.saved.data;
      const frame = kept.frame?.taskId === meta().taskId ? kept.frame : null;
      if (!frame && !kept.hasHeard) return null;
      // As the kernel words it, whose frame may still be on its way.
      const { isDisconnected, prompt, status, taskId } = meta();
      const stands = isDisconnected ? "disconnected" : meta().word ?? status;
      const word = `${prompt ? `${prompt} ` : ""}${stands}: kit.attach("${taskId}") goes on from here`;
      return composeBundle(frame, state.buffer.text, { isGone: Boolean(meta().isDisconnected), word, had });
    },
  };

  function findOwn(context) {
    const own = [...walkOutputs(context)].filter((output) => output.modelId === modelId);
    kept.hasHosted ||= own.length > 0;
    return own;
  }

  /** The task that has ended: to be placed here by its kernel, or only where less of it was left. */
  const findEnded = () => kept.over?.taskId ?? (TERMINAL.has(meta().status) ? meta().taskId : null);

  const isLeft = ({ note }) => note?.taskId === findEnded() && note.status !== "completed" && note.status !== meta().status;

  /** Outputs that still wait for this task's end: ours, and with their parts what an earlier kernel left. */
  function findWaiting(context) {
    const isAlive = ({ noted }) => !kept.over && noted?.view && manager.has_model?.(noted.view.model_id);
    const own = findOwn(context);
    const others = [...walkOutputs(context)].filter((output) => output.modelId !== modelId && !isAlive(output));
    const left = others.map((output) => ({ output, parts: describeParts(output) })).filter(({ parts }) => parts.some(isLeft));
    return [...(kept.over && !kept.over.saved ? own.map((output) => ({ output, parts: [] })) : []), ...left];
  }

  function want() {
    const context = document();
    if (!context || !findEnded() || !findWaiting(context).length) return;
    send({ t: "want", page: page.id, rank: findRank() });
    later(WANT_MS, want);
  }

  const findRank = () =>
    kept.hasPlaced ? PLACED : globalThis.document.visibilityState === "visible" ? 2 : 1;

  function answerWho() {
    const context = document();
    if (!context || !findEnded()) return;
    const isWaiting = findWaiting(context).length > 0;
    kept.hasPlaced ||= kept.hasHosted && !isWaiting && kept.over && !kept.over.saved; // the kernel's display id reached it
    if (isWaiting || kept.hasPlaced) send({ t: "me", page: page.id, rank: findRank() });
  }

  function place({ page: writer, data, metadata }) {
    const context = document();
    if (!context || meta().taskId !== findEnded()) return;
    const end = { note: metadata.longtask, bundle: data };
    for (const { output, parts } of findWaiting(context)) {
      const { bundle, note } = joinParts(parts.length ? parts.map((part) => (isLeft(part) ? end : part)) : [end]);
      replaceOutput(context, output, { data: bundle, metadata: { longtask: note } }, writer !== page.id);
      if (writer === page.id) kept.hasPlaced = true;
    }
  }

  /** The file is as the document: the kernel may close what it does not need any more. */
  function noteSaved() {
    const context = document();
    if (context && kept.over && kept.hasHosted && !findOwn(context).length) send({ t: "kept" });
  }

  const stopWatching = watchKernel(manager, look);
  const ticking = setInterval(tick, TICK_MS);
  card.noteSaved = noteSaved;
  const leave = joinPage(manager, modelId, card, mayWrite);
  lookAtComm().catch(() => {});

  return {
    hear,
    send,
    /** Take a message that is the keeper's; whether it was. */
    take(message) {
      hear();
      switch (message?.t) {
        case "frame":
          kept.frame = addStyle(message, model.get("_css") ?? "");
          return true;
        case "over":
          kept.over = message.taskId ? message : null; // null: it is tried again
          want();
          return true;
        case "who":
          answerWho();
          return true;
        case "turn":
          place(message);
          return true;
        case "pong":
          state.heardAt = performance.now();
          return true;
        default:
          return false;
      }
    },
    /** The task has ended: offer that to what an earlier kernel left. */
    noteEnd: want,
    /** A view was drawn into an output. */
    viewCame() {
      const found = document();
      if (found && !findOwn(found).length) findParts(manager);
    },
    /** The last view has gone, after the end and where no file is seen: it was replaced. */
    viewWent() {
      if (!kept.over || findDocument(manager) || state.views.size) return;
      later(TICK_MS, () => state.views.size || send({ t: "kept" }));
    },
    stop() {
      stopWatching();
      clearInterval(ticking);
      timers.forEach(clearTimeout);
      leave();
    },
  };
}
