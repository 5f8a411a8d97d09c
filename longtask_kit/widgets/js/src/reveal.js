// A fast text comes in few large messages; it is shown at the pace at which it was written.

const LONGEST_GAP_MS = 1500; // after a longer silence, what comes is shown at once

/** Nothing is shown yet. */
export function createReveal() {
  return { shown: 0, from: 0, heard: 0, heardAt: -Infinity, gapMs: 0 };
}

/** How much of a text of this length to show now; the rest follows within the gap before it. */
export function advanceReveal(reveal, length, isOver, now) {
  if (length !== reveal.heard) {
    const silentMs = now - reveal.heardAt;
    Object.assign(reveal, {
      from: reveal.shown,
      heard: length,
      heardAt: now,
      gapMs: silentMs < LONGEST_GAP_MS ? silentMs : 0,
    });
  }
  const share = isOver || !reveal.gapMs ? 1 : Math.min(1, (now - reveal.heardAt) / reveal.gapMs);
  reveal.shown = reveal.from + Math.floor((length - reveal.from) * share);
  return reveal.shown;
}

/** The longest part of a text up to `length` that halves no character. */
export function cutText(text, length) {
  const last = text.charCodeAt(length - 1);
  const isHalf = length < text.length && last >= 0xd800 && last < 0xdc00;
  return text.slice(0, isHalf ? length - 1 : length);
}
