// A text that still grows, drawn as what it is about to be: no mark of markdown stands as such.

const LONE_MARK = /(^|\n)[ \t]*(?:>[ \t]*)*(?:#{1,6}|[-+*]{1,2}|\d{1,9}[.)]?|>|`{1,2}|~{1,2}|=+|\||\$|\\|\\?\[[ xX]?\]?|[-+*][ \t]+\[[ xX]?\]?)[ \t]*$/;
const DEFINITION = /(^|\n) {0,3}\[[^\]\n]+\]:[^\n]*$/;
const HEADER = /(^|\n)( {0,3}\|[^\n]*)(\n {0,3}\|?[|:\- \t]*)?$/;
const DELIMITER = /^\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*$/;

/** Drop the mark that a last line has begun with, and complete a table's head. */
export function mendText(text) {
  const cut = text.replace(LONE_MARK, "$1").replace(DEFINITION, "$1");
  return completeTable(cut);
}

/** A table is one from its first line on. */
function completeTable(text) {
  const found = HEADER.exec(text);
  if (!found) return text;
  const [whole, before, header, delimiter = ""] = found;
  const earlier = text.slice(0, found.index).split("\n").at(-1);
  if (/^ {0,3}\|/.test(earlier)) return text; // a row of a table that has its head
  const columns = countColumns(header);
  if (DELIMITER.test(delimiter) && countColumns(delimiter.trim()) >= columns && /\|[ \t]*$/.test(delimiter)) return text;
  const closed = /\|[ \t]*$/.test(header) && header.trim() !== "|" ? header : `${header} |`;
  return `${text.slice(0, text.length - whole.length)}${before}${closed}\n|${"---|".repeat(columns)}`;
}

const countColumns = (row) => Math.max(1, row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).length);

/** Close what a line of text has opened; leave out what says nothing yet. */
export function mendInline(text) {
  const { open, end, code } = scan(text);
  if (code) return text.slice(end).replace(/^`+\s*/, "") ? text + code : text.slice(0, end);
  const trimmed = mendLink(text.slice(0, end));
  const [, body, space] = /^([\s\S]*?)(\s*)$/.exec(trimmed);
  return body + open.reverse().join("") + space;
}

/** The marks that are open at the end of a text, and where the text without a trailing one ends. */
function scan(text) {
  const open = [];
  let at = 0;
  while (at < text.length) {
    const mark = text[at];
    if (mark === "\\") {
      at += 2;
      continue;
    }
    const run = /^(`+|\*+|_+|~+)/.exec(text.slice(at, at + 64))?.[0];
    if (!run) {
      at += 1;
      continue;
    }
    const after = at + run.length;
    if (mark === "`") {
      const close = findRun(text, run, after);
      if (close < 0) return { open, end: at, code: run };
      at = close + run.length;
      continue;
    }
    const isEnd = after >= text.length;
    const canClose = at > 0 && !/\s/.test(text[at - 1]);
    const canOpen = !isEnd && !/\s/.test(text[after]) && !(mark === "_" && /\w/.test(text[at - 1] ?? ""));
    const isPair = mark !== "~" || run.length === 2;
    if (canClose && open.at(-1) === run) open.pop();
    else if (isEnd && (open.at(-1)?.[0] === mark || !canClose || mark !== "_")) return { open, end: at };
    else if (canOpen && isPair && run.length <= 3) open.push(run);
    at = after;
  }
  return { open, end: text.length };
}

/** Where a run of backticks of this very length stands. */
function findRun(text, run, from) {
  for (let at = text.indexOf(run, from); at >= 0; at = text.indexOf(run, at + 1)) {
    const to = at + run.length;
    if (text[to] !== "`" && text[at - 1] !== "`") return at;
    while (text[at + 1] === "`") at += 1;
  }
  return -1;
}

/** A link that has no address yet is its text. */
function mendLink(text) {
  const from = Math.max(0, text.length - 2000);
  const tail = text.slice(from).replace(/!?\[([^\][\n]*)\]\([^)\n]*$/, "$1").replace(/!?\[([^\][\n]*)\]?$/, "$1").replace(/!$/, "");
  return text.slice(0, from) + tail;
}
