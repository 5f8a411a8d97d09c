// How long a task has been running, between two messages that say so.
import { isActive } from "./format.js";

/** A clock that has heard nothing yet. */
export function createClock() {
  return { taskId: null, heardMs: null, isRunning: false, at: 0 };
}

/** Set the clock by what was heard; what says nothing new about the time leaves it going. */
export function setClock(clock, meta, now) {
  const heard = { taskId: meta.taskId, heardMs: meta.elapsedMs ?? null, isRunning: isActive(meta.status) && !meta.isDisconnected };
  if (Object.entries(heard).every(([name, value]) => clock[name] === value)) return;
  Object.assign(clock, heard, { at: now });
}

/** The time since the task began, in ms; null when that is not known. */
export function readClock(clock, now) {
  return clock.isRunning ? (clock.heardMs ?? 0) + now - clock.at : clock.heardMs;
}
