// TeX in markdown, taken out before markdown sees it: $…$, $$…$$, \(…\), \[…\].
// `widgets/mathrule.py` finds the same in a saved answer; test/markdown_cases.json holds both to it.

// What links, styles, loads, or changes what later formulas mean: such TeX stays text.
const REFUSED =
  /\\(?:href|url|style|class|cssId|data|html\w*|require|unicode|bbox|action|toggle|mathtip|texttip|tooltip|mmlToken|label|e?q?ref|tag|csname|catcode|special|input|include\w*|write|[gex]?def|let|futurelet|global|(?:re)?newcommand|providecommand|(?:re)?newenvironment|newextarrow|DeclareMathOperator|DeclarePairedDelimiters?\w*)(?![a-zA-Z])/;
const LONGEST = 4000;
const CLOSER = { "$$": "$$", "\\[": "\\]", "\\(": "\\)" };

/** Whether TeX is only a formula. */
export const isFormula = (tex) => tex.trim() !== "" && tex.length <= LONGEST && !REFUSED.test(tex);

/** The formula that begins at `at` of a text: its TeX, whether it stands alone, and its end; or null. */
export function findMath(text, at) {
  const opener = text.slice(at, at + 2);
  if (opener in CLOSER) {
    const to = text.indexOf(CLOSER[opener], at + 2);
    return to < 0 ? null : checkMath(text.slice(at + 2, to), opener !== "\\(", to + 2);
  }
  return text[at] === "$" ? findDollars(text, at) : null;
}

/** `$…$` that hugs what it encloses, and is no price. */
function findDollars(text, at) {
  if (/[\w$]/.test(text[at - 1] ?? "") || !/[^\s$]/.test(text[at + 1] ?? "")) return null;
  for (let to = text.indexOf("$", at + 2); to > 0; to = text.indexOf("$", to + 1)) {
    if (text[to - 1] === "\\") continue;
    const isClosing = !/\s/.test(text[to - 1]) && !/[\w$]/.test(text[to + 1] ?? "");
    return isClosing ? checkMath(text.slice(at + 1, to), false, to + 1) : null;
  }
  return null;
}

const checkMath = (tex, isDisplay, end) =>
  isFormula(tex) && !/\n\s*\n/.test(tex) ? { tex, isDisplay, end } : null;

/** The markdown-it plugin; `env.isOpen` says that a text still grows, and so a formula at its end. */
export function mathRule(md) {
  md.inline.ruler.before("escape", "math", (state, silent) => {
    const found = findMath(state.src, state.pos);
    if (!found || found.end > state.posMax) return false;
    if (!silent) addMath(state.push("math", "", 0), found);
    state.pos = found.end;
    return true;
  });
  md.block.ruler.before("fence", "math_block", findBlock, { alt: ["paragraph", "reference", "blockquote", "list"] });
}

function addMath(token, { tex, isDisplay }) {
  token.content = tex.trim();
  token.markup = isDisplay ? "$$" : "$";
}

function findBlock(state, startLine, endLine, silent) {
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const first = readLine(state, startLine).trimStart();
  const closer = ["$$", "\\["].includes(first.slice(0, 2)) && CLOSER[first.slice(0, 2)];
  if (!closer) return false;
  const lines = [first.slice(2)];
  let line = startLine;
  while (!isClosed(lines, closer)) {
    line += 1;
    if (line < endLine && state.sCount[line] >= state.blkIndent && !state.isEmpty(line)) lines.push(readLine(state, line));
    else if (state.env.isOpen && line >= endLine) break;
    else return false;
  }
  const tex = lines.join("\n").trimEnd();
  const isWhole = line < endLine;
  const formula = isWhole ? tex.slice(0, -closer.length) : tex;
  if (isWhole && !isFormula(formula)) return false;
  if (formula.includes(closer)) return false;
  if (silent) return true;
  const token = state.push(isWhole ? "math_block" : "math_open", "", 0);
  addMath(token, { tex: formula, isDisplay: true });
  token.block = true;
  token.map = [startLine, Math.min(line + 1, endLine)];
  state.line = token.map[1];
  return true;
}

const readLine = (state, line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);

/** Whether the lines so far end with the closer; the opener alone is no closer. */
const isClosed = (lines, closer) => lines.at(-1).trimEnd().endsWith(closer);
