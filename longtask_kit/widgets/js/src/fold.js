// Where a long answer is folded; `widgets/fold.py` folds a saved one at the same place.

const LINE = 88; // characters of a line of text
const TALLEST = 22; // lines a box of code or a table shows before it scrolls
const LONGEST = 40; // lines of an answer that is not folded
const SHOWN = 24; // lines of one that is, at least

/** How many lines a block takes, about; `source` is its markdown. */
export function countLines(source) {
  const text = source.trim();
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil([...line].length / LINE)), 0);
  return 1 + (/^(```|~~~|\||\$\$)/.test(text) ? Math.min(lines, TALLEST) : lines);
}

/** How many blocks stand above the fold: all of them when there is nothing to fold. */
export function findFold(sources) {
  const lines = sources.map(countLines);
  if (lines.reduce((sum, count) => sum + count, 0) <= LONGEST) return sources.length;
  let shown = 0;
  const at = lines.findIndex((count) => (shown += count) >= SHOWN) + 1;
  return at === sources.length - 1 ? sources.length : at;
}
