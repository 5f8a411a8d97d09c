// A text with marks; values only.

/** Cut a text at its marks, [begin, end) each and in order: [piece, whether it is marked]. */
export function cutMarked(text, marks) {
  const pieces = [];
  let at = 0;
  for (const [begin, end] of marks) {
    if (begin > at) pieces.push([text.slice(at, begin), false]);
    pieces.push([text.slice(begin, end), true]);
    at = end;
  }
  if (at < text.length) pieces.push([text.slice(at), false]);
  return pieces;
}
