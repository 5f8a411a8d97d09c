// The front end of `GroupOutput`: progress of a group, its table, a row's card beside it. Python
// decides what each view shows.
import { button, copyText, make, setText } from "./dom.js";
import { createFilters } from "./filters.js";
import { buildHead, drawHead } from "./grouphead.js";
import { createListView } from "./listview.js";
import { makeLiveWidget } from "./live.js";
import { createTable } from "./table.js";

const STAGES = ["done", "running", "waiting", "failed", "skipped"];
const COLUMNS = [
  ["row", "row", "is-number"],
  ["status", "", "is-state"],
  ["prompt", "prompt", "is-prompt"],
  ["answer", "answer", "is-answer"],
  ["tokens", "tokens", "is-number"],
  ["time", "s", "is-number"],
];
const LARGEST_FIRST = ["tokens", "time"];
const TASK_ID = 7; // of a row

function createView(el, state, send) {
  const query = { sort: "row", isDescending: false, stage: "", word: "" };
  const sorters = COLUMNS.map(([sort, label]) => {
    const sorter = make("button", { type: "button", class: "longtask-sort" }, label || make("span", { class: "longtask-spoken" }, sort));
    sorter.addEventListener("click", () => view.ask({ sort, isDescending: query.sort === sort ? !query.isDescending : LARGEST_FIRST.includes(sort) }));
    return sorter;
  });
  const columns = COLUMNS.map(([, , kind], at) => [sorters[at], kind]);
  const table = createTable({ columns, label: "Rows", ask: (plan) => send({ t: "view", ...query, ...plan }), drawRow, choose });
  const filters = createFilters({ stages: STAGES, what: "rows", findIn: "prompts and answers", ask: (changes) => view.ask(changes) });
  const parts = buildParts(send, table, filters);
  el.append(parts.group);
  const view = createListView({ parts, table, query, state, send, draw });
  view.take = ({ t, text }) => t === "csv" && copyText(text, parts.csv);

  function draw(facts, isLost) {
    drawHead(parts, parts.group, facts.open ? "is-open" : "", facts, isLost);
    filters.draw(facts.counts, isLost);
    COLUMNS.forEach(([sort], at) => {
      const order = query.sort !== sort ? "none" : query.isDescending ? "descending" : "ascending";
      const head = sorters[at].closest("th");
      if (head.getAttribute("aria-sort") !== order) head.setAttribute("aria-sort", order);
    });
    parts.empty.hidden = (table.held?.total ?? 0) > 0;
    table.draw((row) => Boolean(row[TASK_ID]) && facts.open === row[TASK_ID]);
  }

  function drawRow(cells, [number, stage, word, prompt, answer, tokens, runMs], tr) {
    if (!cells[1].firstChild) cells[1].append(make("i", { class: "longtask-dot", "aria-hidden": "true" }), make("span", { class: "longtask-spoken" }));
    const kind = `longtask-row is-${stage === word ? stage : "odd"}`;
    if (tr.className !== kind) tr.className = kind;
    setText(cells[0], String(number));
    setText(cells[1].lastChild, word);
    cells[1].title = word;
    setCell(cells[2], prompt);
    setCell(cells[3], answer);
    setText(cells[4], tokens == null ? "" : tokens.toLocaleString("en"));
    setText(cells[5], runMs == null ? "" : (runMs / 1000).toFixed(1));
  }

  function setCell(cell, text) {
    if (cell.textContent === text) return;
    cell.textContent = text;
    cell.title = text;
  }

  function choose(row) {
    const taskId = row[TASK_ID];
    if (!taskId) return;
    send(state.facts.open === taskId ? { t: "close" } : { t: "open", id: taskId });
  }

  parts.group.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !state.facts?.open) return;
    event.stopPropagation();
    view.close();
  });
  parts.close.addEventListener("click", view.close);
  return view;
}

function buildParts(send, table, filters) {
  const parts = {
    ...buildHead(send),
    empty: make("p", { class: "longtask-empty" }, "No row matches."),
    card: make("div", { class: "longtask-chosen" }),
    close: button("Close", "Close the card (Escape)"),
  };
  const foot = make("div", { class: "longtask-foot" }, filters.el, filters.find, parts.id);
  const list = make("div", { class: "longtask-list" }, table.el, parts.empty, foot);
  const beside = make("div", { class: "longtask-beside", role: "region", "aria-label": "The chosen row" }, parts.close, parts.card);
  parts.empty.hidden = true;
  parts.group = make("section", { class: "longtask-card longtask-group", "aria-label": "Group" },
    parts.head, parts.bar, parts.note, make("div", { class: "longtask-main" }, list, beside));
  return parts;
}

export default makeLiveWidget(createView);
