// What a screen reader is told of a text that grows.
import { nameUnit, TERMINAL } from "./format.js";

const SLACK_MS = 2000; // a view hears of an attempt a little after it began

/** Nothing has been said of a text that the view has seen since `seenAt`. */
export function createSpeech(seenAt) {
  return { end: null, seenAt };
}

/** What to say next, perhaps nothing. What was there before the view is not read aloud. */
export function takeSpeech(speech, { text, meta }, now) {
  if (!text) return "";
  if (speech.end === null) {
    speech.end = 0;
    if (isOld(meta, now - speech.seenAt)) {
      speech.end = text.length;
      return TERMINAL.has(meta.status) ? `${meta.status}, ${meta.tokens ?? 0} ${nameUnit(meta)}` : "";
    }
  }
  const { spoken, end } = takeSentences(text, speech.end);
  speech.end = end;
  return spoken;
}

/** Whether a text had been under way for longer than the view has seen it. */
function isOld(meta, seenMs) {
  const attemptMs = (meta.elapsedMs ?? 0) - (meta.attemptBeganMs ?? 0);
  return Boolean(meta.isReplay) || attemptMs > seenMs + SLACK_MS;
}

/** Complete sentences of `text` after `from`, and where they end. */
export function takeSentences(text, from) {
  const fresh = text.slice(from);
  const match = /^[\s\S]*[.!?。！？:\n](?=\s|$|[^\w])/u.exec(fresh);
  return match ? { spoken: match[0].trim(), end: from + match[0].length } : { spoken: "", end: from };
}
