// Where on an x-ray's axis a time is drawn, and what stood at that time; values only.

/** The place of a time on the axis, from 0 to 1; `scale` is `[[begin s, end s, left, right], …]`. */
export function findPlace(scale, ms) {
  const s = ms / 1000;
  for (const [begin, end, left, right] of scale) {
    if (s <= end && end > begin) return left + ((right - left) * Math.max(0, s - begin)) / (end - begin);
  }
  return 1;
}

/** The time at a place of the axis, ms. */
export function findMs(scale, place) {
  for (const [begin, end, left, right] of scale) {
    if (place <= right && right > left) return 1000 * (begin + ((end - begin) * Math.max(0, place - left)) / (right - left));
  }
  return 1000 * (scale.at(-1)?.[1] ?? 0);
}

/** What happened at a time, in words; `spans` is `[[from ms, words], …]`. */
export function findWords(spans, ms) {
  return spans.findLast(([from]) => from <= ms)?.[1] ?? spans[0]?.[1] ?? "";
}

/** The text as it stood: `{reasoning, text}` of the attempt that ran then. */
export function readMoment(track, ms) {
  const attempt = track.findLast(({ from }) => from <= ms);
  const stood = { reasoning: "", text: "" };
  for (const run of attempt?.runs ?? []) {
    stood[run.kind === "reasoning" ? "reasoning" : "text"] += run.text.slice(0, countChars(run, ms));
  }
  return stood;
}

function countChars({ from, steps }, ms) {
  let at = from;
  let chars = 0;
  for (let place = 0; place < steps.length; place += 2) {
    at += steps[place];
    if (at > ms) break;
    chars += steps[place + 1];
  }
  return chars;
}

/** The next time at which something began, to the left or right. */
export function findEdge(spans, ms, endMs, isForward) {
  const edges = [0, ...spans.map(([from]) => from), endMs];
  return isForward ? (edges.find((edge) => edge > ms + 0.5) ?? endMs) : (edges.findLast((edge) => edge < ms - 0.5) ?? 0);
}
