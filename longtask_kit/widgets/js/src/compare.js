// The front end of `CompareOutput`: a column a model, a band a prompt. Python decides what stands
// where and whose name is shown; the page says which bands are seen: their answers grow.
import { cutMarked } from "./compared.js";
import { button, copyText, make, setText } from "./dom.js";
import { makeFigures } from "./figures.js";
import { buildHead, drawHead } from "./grouphead.js";
import { makeLiveWidget } from "./live.js";

const SEEN_MS = 100; // between two reports while one scrolls
const NEAR_PX = 24; // from its end a text counts as read to the end, and is kept there

function createView(el, state, send) {
  const marks = button("Differences", "Mark the words in which answers differ", () => send({ t: "marks" }));
  const blind = button("Blind", "Hide names and figures until a prompt's best answer was voted for", () => send({ t: "blind" }));
  const head = buildHead(send, marks, blind);
  const parts = { ...head, ...buildBody() };
  parts.group.prepend(head.head, head.bar, head.note);
  parts.foot.append(head.id);
  el.append(parts.group);
  const view = { parts, draw, take, takeWindow, catchUp };
  const bands = new Map(); // by number
  const near = new Set(); // numbers of those that are seen
  let begin = 0;
  let wanted = 0; // where the page begins that is on its way: until it is there this one stands
  let total = 0;
  let reporting = 0;
  let drawnModels = "";
  const observer = new IntersectionObserver(noteSeen, { root: parts.scroller });

  function askAnew() {
    send({ t: "view", begin: wanted, seen: wanted === begin ? [...near] : [] });
  }

  /** What the kernel last said may be old. */
  function catchUp() {
    if (!bands.size && state.first) takeWindow(state.first);
    if (view.isSeen) askAnew();
    draw();
  }

  function noteSeen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) near.add(Number(target.dataset.row));
      else near.delete(Number(target.dataset.row));
    }
    clearTimeout(reporting);
    reporting = setTimeout(() => view.isSeen && send({ t: "seen", seen: [...near] }), SEEN_MS);
  }

  function take(message) {
    if (message.t === "csv") copyText(message.text, parts.csv);
    if (message.t === "prompt") bands.get(message.row)?.write(message.text);
  }

  function takeWindow(window) {
    total = window.total;
    if (window.begin !== begin) {
      for (const band of bands.values()) band.remove();
      bands.clear();
      near.clear();
      begin = wanted = window.begin;
      parts.scroller.scrollTop = 0;
    }
    // First all that asks for the layout, then all that changes it.
    for (const row of window.rows) bands.get(row.row)?.look();
    for (const row of window.rows) {
      let band = bands.get(row.row);
      if (!band) {
        band = createBand(row.row, row.answers.length, send, () => state.keeper.isLost);
        bands.set(row.row, band);
        parts.list.append(band.el);
        observer.observe(band.el);
      }
      band.take(row);
    }
    requestAnimationFrame(() => {
      const due = window.rows.map((row) => bands.get(row.row)).filter((band) => band && near.has(band.number));
      const found = due.map((band) => band.measure());
      due.forEach((band, at) => band.settle(found[at]));
    });
  }

  function turn(by) {
    wanted = Math.max(0, begin + by);
    askAnew();
  }

  function draw() {
    const { facts } = state;
    if (!facts) return;
    const isLost = state.keeper.isLost;
    drawHead(parts, parts.group, `longtask-compare ${facts.open ? "is-open" : ""}`, facts, isLost);
    marks.setAttribute("aria-pressed", String(facts.isMarking));
    blind.setAttribute("aria-pressed", String(facts.isBlind));
    marks.disabled = blind.disabled = isLost;
    drawModels(facts.models);
    for (const band of bands.values()) band.draw(facts, isLost);
    const last = Math.min(total, begin + facts.pageSize);
    parts.pager.hidden = total <= facts.pageSize;
    setText(parts.place, `${begin + 1}–${last} of ${total}`);
    parts.before.disabled = isLost || begin === 0;
    parts.after.disabled = isLost || last >= total;
  }

  /** Close the card; who had the focus in it has it on what opened it. */
  function close() {
    const opener = parts.list.querySelector(".longtask-under > :last-child[aria-pressed=true]");
    send({ t: "close" });
    if (parts.beside.contains(document.activeElement)) (opener ?? parts.scroller).focus({ preventScroll: true });
  }

  function drawModels(models) {
    const now = JSON.stringify(models);
    if (now === drawnModels) return;
    drawnModels = now;
    parts.group.style.setProperty("--lt-models", models.length);
    parts.models.replaceChildren(
      ...models.map(({ name, figures }) => make("div", { class: "longtask-model" }, make("b", { title: name }, name), make("span", { class: "longtask-figures" }, ...makeFigures(figures)))),
    );
  }

  parts.before.addEventListener("click", () => turn(-state.facts.pageSize));
  parts.after.addEventListener("click", () => turn(state.facts.pageSize));
  parts.close.addEventListener("click", close);
  parts.group.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !state.facts?.open) return;
    event.stopPropagation();
    close();
  });
  return view;
}

function buildBody() {
  const models = make("div", { class: "longtask-models" });
  const list = make("div", { class: "longtask-bands" });
  const scroller = make("div", { class: "longtask-scroll", tabindex: "0", role: "region", "aria-label": "Prompts and answers" }, make("div", { class: "longtask-wide" }, models, list));
  const before = button("Earlier", "The prompts before these");
  const after = button("Later", "The prompts after these");
  const place = make("span");
  const pager = make("span", { class: "longtask-pager", hidden: "" }, before, place, after);
  const close = button("Close", "Close the card (Escape)");
  const card = make("div", { class: "longtask-chosen" });
  const beside = make("div", { class: "longtask-beside", role: "region", "aria-label": "The chosen answer" }, close, card);
  const foot = make("div", { class: "longtask-foot" }, pager);
  const group = make("section", { class: "longtask-card longtask-group longtask-compare", "aria-label": "Comparison" }, scroller, beside, foot);
  return { models, list, scroller, before, after, place, pager, close, card, beside, foot, group };
}

/** A prompt with its answers. */
function createBand(number, count, send, isLost) {
  const prompt = make("p", { class: "longtask-prompt" });
  const tie = button("Tie", "None of these answers is the best", () => vote("tie"));
  const edit = button("Edit", "Ask this in other words, all models", begin);
  const area = make("textarea", { class: "longtask-edit", rows: "3", "aria-label": `Prompt ${number} in other words` });
  const run = button("Run in all models", "Ask it of every model (Ctrl+Enter)", submit);
  const leave = button("Keep", "Leave the prompt as it is (Escape)", end);
  run.classList.add("is-main");
  const form = make("div", { class: "longtask-form", hidden: "" }, area, make("span", {}, run, leave));
  const cells = Array.from({ length: count }, (_, at) => createAnswer(at, number, vote, (id) => send({ t: "open", id })));
  const head = make("div", { class: "longtask-ask" }, make("span", { class: "longtask-number", "aria-hidden": "true" }, String(number)), prompt, make("span", { class: "longtask-tools" }, tie, edit));
  const el = make("article", { class: "longtask-band", "data-row": String(number), "aria-label": `Prompt ${number}` }, head, form, make("div", { class: "longtask-answers" }, ...cells.map((cell) => cell.el)));
  const held = { vote: null, marks: null };

  function take(row) {
    setText(prompt, row.prompt);
    prompt.title = row.prompt;
    held.vote = row.vote;
    held.marks = row.marks;
    row.answers.forEach((answer, at) => cells[at].take(answer));
    cells.forEach((cell, at) => cell.drawText(row.marks?.[at] ?? null));
  }

  function draw(facts, lost) {
    tie.setAttribute("aria-pressed", String(held.vote === "tie"));
    tie.disabled = edit.disabled = run.disabled = lost;
    const hidden = facts.isBlind && held.vote === null;
    cells.forEach((cell, at) => cell.draw(held.vote === at, facts.open, lost, hidden));
  }

  function vote(at) {
    send({ t: "vote", row: number, at: held.vote === at ? null : at });
  }

  function begin() {
    if (!form.hidden) return end();
    send({ t: "edit", row: number });
  }

  function write(text) {
    area.value = text;
    form.hidden = false;
    edit.setAttribute("aria-expanded", "true");
    area.focus();
  }

  function end() {
    form.hidden = true;
    edit.setAttribute("aria-expanded", "false");
    edit.focus();
  }

  function submit() {
    if (!area.value.trim() || isLost()) return;
    send({ t: "anew", row: number, prompt: area.value });
    end();
  }

  edit.setAttribute("aria-expanded", "false");
  area.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab would run the cell, or leave it
    if (event.key === "Escape") end();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    }
  });
  const look = () => cells.forEach((cell) => cell.look());
  const measure = () => cells.map((cell) => cell.measure());
  const settle = (heights) => cells.forEach((cell, at) => cell.settle(heights[at]));
  return { el, number, take, draw, write, look, measure, settle, remove: () => el.remove() };
}

function createAnswer(at, number, vote, open) {
  const name = make("b", { class: "longtask-name" });
  const figures = make("span", { class: "longtask-figures" });
  const word = make("span", { class: "longtask-end" });
  const note = make("p", { class: "longtask-why", hidden: "" });
  const text = make("div", { class: "longtask-said" });
  const best = button("Best", "This answer is the best", () => vote(at));
  const card = button("Open", "Open its card", () => held.id && open(held.id));
  const dot = make("i", { class: "longtask-dot", "aria-hidden": "true" });
  const head = make("div", { class: "longtask-facts" }, make("span", { class: "longtask-state" }, dot, name), word, figures);
  const el = make("div", { class: "longtask-answer" }, head, note, text, make("div", { class: "longtask-under" }, best, card));
  const held = { id: null, text: "", kind: "", drawn: null, isAtEnd: true };

  /** Whether what comes is to be scrolled to. */
  function look() {
    if (held.kind === "run") held.isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR_PX;
  }

  const measure = () => [text.scrollHeight, text.clientHeight];

  function settle([whole, shown]) {
    // What scrolls must be reached by keys.
    if (whole > shown + 1) text.tabIndex = 0;
    else text.removeAttribute("tabindex");
    if (held.kind === "run" && held.isAtEnd && whole > shown) text.scrollTop = whole;
  }

  function take(answer) {
    if (answer === null) return;
    Object.assign(held, { id: answer.id, kind: answer.kind, text: "add" in answer ? held.text + answer.add : answer.text });
    setText(name, answer.name);
    name.title = answer.name;
    setText(word, answer.word);
    word.hidden = !answer.word;
    figures.replaceChildren(...makeFigures(answer.figures));
    setText(note, answer.note);
    note.hidden = !answer.note;
    el.className = `longtask-answer is-${answer.kind}`;
    best.setAttribute("aria-label", `Best: ${answer.name}, prompt ${number}`);
    card.setAttribute("aria-label", `Open ${answer.name}, prompt ${number}`);
  }

  function drawText(marks) {
    const now = marks ? JSON.stringify(marks) : "";
    if (!now && held.drawn?.marks === "" && held.text.startsWith(held.drawn.text)) {
      const more = held.text.slice(held.drawn.text.length);
      if (!more) return;
      if (text.lastChild) text.lastChild.appendData(more);
      else text.append(more);
    } else if (held.drawn?.marks !== now || held.drawn.text !== held.text) {
      text.replaceChildren(...cutMarked(held.text, marks ?? []).map(([piece, isMarked]) => (isMarked ? make("mark", {}, piece) : piece)));
    }
    held.drawn = { text: held.text, marks: now };
  }

  function draw(isBest, opened, isLost, isHidden) {
    el.classList.toggle("is-best", isBest);
    best.setAttribute("aria-pressed", String(isBest));
    best.disabled = isLost;
    card.disabled = isLost;
    card.hidden = isHidden || !held.id;
    card.setAttribute("aria-pressed", String(Boolean(held.id) && opened === held.id));
  }

  return { el, take, draw, drawText, look, measure, settle };
}

export default makeLiveWidget(createView);
