// An answer on the page: markdown while it grows. Finished blocks are drawn once; the open one is drawn
// again with each piece of text. The raw text beside them, shown on demand, is whole at any time.
import { findFold } from "./fold.js";
import { morph } from "./morph.js";

const CHUNK = 4000; // characters a text element holds
const BUDGET_MS = 12; // of a draw, so that a long answer does not block the page
const LAZY = 12; // times what a look for blocks took, until the next
const SETTLE_FRAMES = 5; // until heights that were estimated are known
const NEAR_PX = 24;
const DEFINITION = /^ {0,3}\[[^\]]+\]:/m; // of a link that blocks before it may name

/** The longest part of a text up to `length` that halves no character. */
export function cutText(text, length) {
  const last = text.charCodeAt(length - 1);
  const isHalf = length < text.length && last >= 0xd800 && last < 0xdc00;
  return text.slice(0, isHalf ? length - 1 : length);
}

/** The text view in `parts`; `libraries` brings markdown and formulas, `make` makes an element. */
export function createTextView(parts, libraries, make) {
  const { scroller, text, rendered, jump } = parts;
  let drawn = { epoch: -1, length: 0 };
  const loaded = {};
  let isFollowing;
  let wantsRaw = false;
  let lastTop = 0;

  scroller.addEventListener("scroll", () => {
    const { scrollTop, scrollHeight, clientHeight } = scroller;
    const belowPx = scrollHeight - scrollTop - clientHeight;
    const isBack = !isFollowing && scrollTop > lastTop && belowPx < NEAR_PX;
    // A shorter text moves up too, but to its end; only a reader moves up and not there.
    if (belowPx < 2 || isBack) setFollowing(true);
    else if (scrollTop < lastTop - 1) setFollowing(false);
    lastTop = scrollTop;
    scroller.classList.toggle("is-cut", scrollTop > 2);
  });
  jump.addEventListener("click", () => {
    setFollowing(true);
    follow();
    scroller.focus({ preventScroll: true }); // the button goes
  });
  parts.raw.addEventListener("click", () => {
    wantsRaw = !wantsRaw;
    showForm();
    follow();
  });

  function setFollowing(value) {
    isFollowing = value;
    jump.hidden = value;
    // The browser keeps what a reader looks at in place; else its moves would look like a reader's.
    scroller.style.overflowAnchor = value ? "none" : "";
  }

  function follow() {
    if (!isFollowing || drawn.isDone) return;
    scroller.scrollTop = 1e9; // cheaper than asking for the height
    lastTop = scroller.scrollTop;
  }

  function showForm() {
    const isRaw = wantsRaw || !loaded.markdown;
    text.hidden = !isRaw;
    text.classList.toggle("is-raw", wantsRaw); // not what stands in until markdown is loaded
    rendered.hidden = isRaw;
    parts.raw.setAttribute("aria-pressed", String(wantsRaw));
  }

  function begin(epoch) {
    drawn = { epoch, length: 0, from: 0, stable: 0, lookedAt: 0, lookAt: 0, frames: SETTLE_FRAMES };
    Object.assign(drawn, { queue: [], sources: [], env: {}, isDone: false, isOver: false });
    for (const part of [text, rendered]) part.replaceChildren();
    scroller.classList.remove("is-over");
    setFollowing(true);
  }

  function appendRaw(fresh) {
    while (fresh) {
      let last = text.lastElementChild;
      if (!last || last.firstChild.length >= CHUNK) {
        last = make("span", {}, document.createTextNode(""));
        text.append(last);
      }
      const piece = cutText(fresh, Math.max(2, CHUNK - last.firstChild.length));
      last.firstChild.appendData(piece);
      fresh = fresh.slice(piece.length);
    }
  }

  /** Find the blocks behind those that are drawn; the last of a text that grows is open. */
  function findBlocks(whole, isOver, now) {
    if (isOver !== drawn.isOver) beginEnd(whole);
    drawn.isOver = isOver;
    const began = performance.now();
    // What an open text seems to define may still change.
    const env = isOver ? drawn.env : { ...drawn.env, references: { ...drawn.env.references }, isOpen: true };
    env.renderMath = loaded.math?.renderMath;
    const blocks = loaded.markdown.parseBlocks(whole.slice(drawn.from), env);
    const starts = [0, ...blocks.map(({ next }) => next)];
    drawn.queue = blocks.map(({ next, render }, at) => {
      // Final: another block has begun behind it, with a line that is whole.
      const isFinal = isOver || (at < blocks.length - 1 && whole.includes("\n", drawn.from + next));
      return { render, isFinal, from: drawn.from + starts[at], to: drawn.from + next, env };
    });
    drawn.count = drawn.stable + blocks.length;
    drawn.lookedAt = whole.length;
    drawn.lookAt = now + LAZY * Math.max(0, performance.now() - began - 4);
  }

  /** Draw all again if links are defined anywhere: blocks before may name them. */
  function beginEnd(whole) {
    if (!DEFINITION.test(whole)) return;
    loaded.markdown.parseBlocks(whole, drawn.env);
    Object.assign(drawn, { from: 0, stable: 0, sources: [] });
  }

  /** Draw what is found, within the budget of a draw that `began`: a long look leaves it to the next. */
  function drawBlocks(whole, began) {
    let at = drawn.stable;
    for (const block of [...drawn.queue]) {
      if (performance.now() - began > BUDGET_MS) return;
      const piece = make("template");
      piece.innerHTML = block.render(); // markdown-it, html:false, and our own tags
      const fresh = piece.content.firstElementChild;
      const old = rendered.children[at];
      if (!old) rendered.append(fresh);
      else morph(old, fresh);
      if (block.env.hasMath && !loaded.math) askFor("math");
      drawn.queue.shift();
      at += 1;
      if (block.isFinal) settleBlock(block, whole);
    }
    while (rendered.children.length > drawn.count) rendered.lastElementChild.remove();
  }

  function settleBlock({ from, to }, whole) {
    const source = whole.slice(from, to);
    if (!drawn.isOver && DEFINITION.test(source)) loaded.markdown.parseBlocks(source, drawn.env);
    drawn.sources.push(source);
    drawn.stable += 1;
    drawn.from = to;
  }

  /** Once: a long answer folds, and is seen from its beginning. */
  function finish() {
    drawn.isDone = true;
    const blocks = [...rendered.children];
    const at = findFold(drawn.sources);
    if (at < blocks.length) {
      const fold = make("details", { class: "longtask-fold" }, make("summary", {}, "Show all"));
      fold.append(...blocks.slice(at));
      rendered.append(fold);
    }
    scroller.classList.add("is-over");
    scroller.scrollTop = 0;
    setFollowing(true);
  }

  function askFor(name) {
    if (loaded[name] || drawn[`asks_${name}`]) return;
    drawn[`asks_${name}`] = true;
    const took = (library) => {
      loaded[name] = library;
      if (name === "math" && drawn.length) redraw();
      libraries.schedule();
    };
    // The plain text stays until it comes; whoever draws next asks again.
    libraries.load(name).then(took, () => (drawn[`asks_${name}`] = false));
  }

  /** Draw all blocks again, each where it stands. */
  function redraw() {
    const fold = rendered.querySelector(":scope > .longtask-fold");
    if (fold) fold.replaceWith(...[...fold.children].slice(1));
    Object.assign(drawn, { from: 0, stable: 0, sources: [], queue: [], lookedAt: 0, lookAt: 0, isDone: false });
  }

  /** Draw what is new; whether there is more to draw in the next frame. */
  return function draw(buffer, isOver, now) {
    if (buffer.epoch !== drawn.epoch || buffer.text.length < drawn.length) begin(buffer.epoch);
    const whole = buffer.text;
    if (!whole) return false;
    askFor("markdown");
    appendRaw(whole.slice(drawn.length));
    drawn.length = whole.length;
    const began = performance.now();
    const isNew = drawn.lookedAt < whole.length || drawn.isOver !== isOver;
    if (loaded.markdown && !drawn.isDone) {
      if (!drawn.queue.some(({ isFinal }) => isFinal) && isNew && (isOver || now >= drawn.lookAt)) findBlocks(whole, isOver, now);
      if (drawn.queue.length) drawBlocks(whole, began);
      if (isOver && drawn.isOver && !drawn.queue.length && drawn.lookedAt === whole.length) finish();
    }
    showForm();
    follow();
    if (!loaded.markdown) return false;
    if (drawn.queue.length || drawn.lookedAt < whole.length || (isOver && !drawn.isDone)) return true;
    return isOver && drawn.frames-- > 0;
  };
}
