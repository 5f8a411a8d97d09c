// Which rows of a long table are held and shown; values only.

export const ROW_PX = 31; // of `group.css`
const BEYOND = 20; // rows held above and below those that are seen
const MARGIN = 6; // of them left before others are asked for

/** The rows that are seen: the first, and the one behind the last. */
export function findSeen(scrollTop, heightPx, total) {
  const first = Math.min(Math.floor(scrollTop / ROW_PX), Math.max(0, total - 1));
  return [first, Math.min(total, Math.ceil((scrollTop + heightPx) / ROW_PX))];
}

/** The rows to ask for, `{begin, size}`; null while those held will do. */
export function planWindow([first, behind], held, total) {
  const isHeld =
    held !== null &&
    (held.begin === 0 || held.begin <= first - MARGIN) &&
    (held.begin + held.rows.length >= total || held.begin + held.rows.length >= behind + MARGIN);
  if (isHeld) return null;
  return { begin: Math.max(0, first - BEYOND), size: behind - first + 2 * BEYOND };
}

/** Where the active row goes by a key; null for a key that moves nothing. */
export function moveActive(key, active, total, page) {
  const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: total - 1 };
  return key in moves && total > 0 ? Math.max(0, Math.min(total - 1, moves[key])) : null;
}

/** The scroll position at which a row is seen. */
export function scrollTo(row, scrollTop, heightPx) {
  if (row * ROW_PX < scrollTop) return row * ROW_PX;
  const least = (row + 1) * ROW_PX - heightPx;
  return Math.max(scrollTop, least);
}
