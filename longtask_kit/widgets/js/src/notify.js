// Who looks elsewhere is told that a long task has ended: by the tab's title, and, where the browser
// has been allowed to, by a notification. Nobody is asked for that unasked.
import { isActive, TERMINAL } from "./format.js";

const LONG_MS = 10_000;
const MARKS = { completed: "✓", failed: "✗", cancelled: "–" };
// Of the page: every model evaluates this file for itself, and several may show one task.
const SHARED = Symbol.for("longtask_kit.notify");
// The ids that were told; the title without our mark, while it bears one.
const shared = () => (globalThis[SHARED] ??= { told: new Set(), plain: null, mark: "" });

/** Whether an end is worth telling: seen here, of a long task, while nobody looks. */
export const isWorthTelling = (before, meta, isHidden) =>
  isHidden && isActive(before) && TERMINAL.has(meta.status) && !meta.isReplay && (meta.elapsedMs ?? 0) >= LONG_MS;

/** Tell of a task's end, if it is one; `before` is the status that it had. */
export function tellEnd(before, meta) {
  if (!isWorthTelling(before, meta, document.hidden) || shared().told.has(meta.taskId)) return;
  shared().told.add(meta.taskId);
  const word = meta.word ?? meta.status;
  setMark(`${MARKS[meta.status]} ${word}`);
  if (globalThis.Notification?.permission !== "granted") return;
  try {
    const note = new Notification(`Task ${word}`, { body: meta.prompt ?? "", tag: meta.taskId });
    note.onclick = () => window.focus();
  } catch {
    // some browsers only have them in service workers
  }
}

function setMark(text) {
  const title = shared();
  const isFirst = title.plain === null;
  if (isFirst) title.plain = document.title;
  title.mark = `${text} · `;
  document.title = title.mark + title.plain;
  if (!isFirst) return;
  const watch = new MutationObserver(() => {
    if (document.title.startsWith(title.mark)) return;
    title.plain = document.title; // the notebook has set its own anew
    document.title = title.mark + title.plain;
  });
  watch.observe(document.head, { subtree: true, childList: true, characterData: true });
  const look = () => {
    if (document.hidden) return;
    document.removeEventListener("visibilitychange", look);
    watch.disconnect();
    document.title = title.plain;
    title.plain = null;
  };
  document.addEventListener("visibilitychange", look);
}

export const canAskToNotify = () => globalThis.Notification?.permission === "default" && globalThis.isSecureContext;

export const askToNotify = () => Notification.requestPermission();
