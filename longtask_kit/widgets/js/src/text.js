// An answer on the page: its finished blocks as markdown, each drawn once, and below them the tail
// as the model writes it. The raw text beside them, shown on demand, is whole at any time.
import { advanceReveal, createReveal, cutText } from "./reveal.js";

const CHUNK = 4000; // characters a text element holds
const LOOK_MS = 100; // between two looks for finished blocks; longer where a look takes long
const AT_ONCE = 10; // blocks a draw, and
const HTML_AT_ONCE = 3000; // characters of them, so that a long answer does not block the page
const TAIL_CHUNK = 1000; // characters from which a line's end closes a chunk of the tail
const SETTLE_FRAMES = 5; // after the end, until heights that were estimated are known
const NEAR_PX = 24;
const DEFINITION = /^ {0,3}\[[^\]]+\]:/m; // of a link that blocks before it may name
const FIXED = /^(```|~~~|\|)/; // code and tables are read in columns while they grow

/** The text view in `parts`; `load` brings the markdown library, `make` makes an element. */
export function createTextView(parts, load, make) {
  const { scroller, text, rendered, tail, jump } = parts;
  let drawn = { epoch: -1, length: 0 };
  let library = null;
  let isLoading = false;
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
  });
  jump.addEventListener("click", () => {
    setFollowing(true);
    follow();
  });
  parts.raw.addEventListener("click", () => {
    wantsRaw = !wantsRaw;
    showParts();
    follow();
  });

  function setFollowing(value) {
    isFollowing = value;
    jump.hidden = value;
    // The browser keeps what a reader looks at in place; else its moves would look like a reader's.
    scroller.style.overflowAnchor = value ? "none" : "";
  }

  function follow() {
    if (!isFollowing) return;
    scroller.scrollTop = 1e9; // cheaper than asking for the height
    lastTop = scroller.scrollTop;
  }

  function showParts() {
    const isRaw = wantsRaw && library !== null;
    text.hidden = !isRaw;
    rendered.hidden = isRaw || !rendered.firstChild;
    tail.hidden = isRaw || !tail.firstChild;
    parts.raw.setAttribute("aria-pressed", String(isRaw));
    parts.raw.hidden = library === null;
  }

  function begin(epoch) {
    drawn = { epoch, length: 0, tailFrom: 0, tailTo: 0, lookedTo: 0, lookAt: 0, frames: SETTLE_FRAMES };
    Object.assign(drawn, { reveal: createReveal(), queue: [], links: {}, isDone: false, isChecked: false });
    for (const part of [text, rendered, tail]) part.replaceChildren();
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

  /** Add to the tail, in chunks of whole lines: only what is near the screen is laid out. */
  function appendTail(fresh) {
    while (fresh) {
      let chunk = tail.lastElementChild?.firstChild;
      if (!chunk || (chunk.length >= TAIL_CHUNK && chunk.data.endsWith("\n"))) {
        chunk = document.createTextNode("");
        tail.append(make("div", {}, chunk));
      }
      const lineEnd = fresh.indexOf("\n", Math.max(0, TAIL_CHUNK - chunk.length)) + 1;
      chunk.appendData(fresh.slice(0, lineEnd || fresh.length));
      fresh = lineEnd ? fresh.slice(lineEnd) : "";
    }
  }

  function dropTail(to) {
    let left = to - drawn.tailFrom;
    while (left > 0) {
      const chunk = tail.firstChild.firstChild;
      const { length } = chunk;
      if (length <= left) tail.firstChild.remove();
      else chunk.deleteData(0, left);
      left -= length;
    }
    drawn.tailFrom = to;
  }

  function growTail(whole, isOver, now) {
    const shown = cutText(whole, advanceReveal(drawn.reveal, whole.length, isOver, now)).length;
    if (shown > drawn.tailTo) appendTail(whole.slice(drawn.tailTo, shown));
    drawn.tailTo = Math.max(drawn.tailTo, shown);
  }

  /** Find the blocks of the tail that can't change any more: all but the last, of whole lines. */
  function findBlocks(whole, isOver, now) {
    const end = isOver ? whole.length : whole.lastIndexOf("\n", drawn.tailTo - 1) + 1;
    if (!isOver && (now < drawn.lookAt || end <= drawn.lookedTo)) return;
    if (isOver && !drawn.isChecked) checkLinks(whole);
    const from = drawn.tailFrom;
    const began = performance.now();
    const blocks = library.renderBlocks(whole.slice(from, end), drawn.links);
    const restMs = Math.max(LOOK_MS, 20 * (performance.now() - began));
    const ready = isOver ? blocks : blocks.slice(0, -1);
    drawn.queue = ready.map(({ html, next }) => ({ html, to: from + next }));
    if (isOver) drawn.queue.push({ html: "", to: end }); // blank lines, links that were defined
    Object.assign(drawn, { lookedTo: end, lookAt: now + restMs, isDone: isOver });
  }

  function drawBlocks() {
    for (let blocks = 0, size = 0; drawn.queue.length && blocks < AT_ONCE && size < HTML_AT_ONCE; blocks += 1) {
      const { html, to } = drawn.queue.shift();
      const piece = make("template");
      piece.innerHTML = html; // markdown-it, html:false
      rendered.append(...piece.content.children);
      dropTail(to);
      size += html.length;
    }
  }

  /** Draw all again if links are defined anywhere: blocks before may name them. */
  function checkLinks(whole) {
    drawn.isChecked = true;
    if (!DEFINITION.test(whole)) return;
    library.renderBlocks(whole, drawn.links);
    rendered.replaceChildren();
    tail.replaceChildren();
    appendTail(whole);
    drawn.tailFrom = 0;
  }

  function askLibrary(schedule) {
    if (library || isLoading) return;
    isLoading = true;
    const took = (loaded) => {
      library = loaded;
      schedule();
    };
    // The plain text stays until it comes; whoever draws next asks again.
    load().then(took, () => {}).finally(() => (isLoading = false));
  }

  /** Draw what is new; whether there is more to draw in the next frame. */
  return function draw(buffer, isOver, now, schedule) {
    if (buffer.epoch !== drawn.epoch || buffer.text.length < drawn.length) begin(buffer.epoch);
    const whole = buffer.text;
    if (!whole) return false;
    askLibrary(schedule);
    appendRaw(whole.slice(drawn.length));
    drawn.length = whole.length;
    growTail(whole, isOver, now);
    if (drawn.queue.length) drawBlocks();
    else if (library && !drawn.isDone) findBlocks(whole, isOver, now); // drawn from the next frame on
    if (library && !drawn.queue.length) {
      tail.classList.toggle("longtask-fixed", FIXED.test(whole.slice(drawn.tailFrom, drawn.tailFrom + 3)));
    }
    showParts();
    follow();
    if (drawn.queue.length || drawn.tailTo < whole.length) return true;
    if (!isOver || !library) return false;
    return !drawn.isDone || drawn.frames-- > 0;
  };
}
