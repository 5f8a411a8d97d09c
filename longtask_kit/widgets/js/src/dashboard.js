// The front end of `Dashboard`: all tasks and groups in one table, a task's card, and the side. Python
// decides what each view shows.
import { describeAge } from "./age.js";
import { button, make, setText, showParts } from "./dom.js";
import { makeFigures } from "./figures.js";
import { createFilters } from "./filters.js";
import { createListView } from "./listview.js";
import { makeLiveWidget } from "./live.js";
import { askOnce, createSide, takeBack } from "./side.js";
import { createTable } from "./table.js";

const STAGES = ["running", "waiting", "failed", "done"];
const COLUMNS = [
  ["prompt", "is-prompt"],
  ["status", "is-word"],
  ["model", "is-model"],
  ["try", "is-number is-try"],
  ["age", "is-number is-age"],
  ["tok/s", "is-number is-rate"],
  ["cost", "is-number is-cost"],
];

function createView(el, state, send) {
  const query = { stage: "", word: "", group: "" };
  const columns = [[make("span", { class: "longtask-spoken" }, "status"), "is-state"], ...COLUMNS];
  const table = createTable({ columns, label: "Tasks and groups", ask: (plan) => send({ t: "view", ...query, ...plan }), drawRow, choose });
  const side = createSide(send, find);
  const filters = createFilters({ stages: STAGES, what: "tasks", findIn: "prompts, models, errors and ids", ask: (changes) => view.ask(changes) });
  const parts = buildParts(table, side, filters);
  el.append(parts.root);
  let drawnFigures = "";
  let drawnOpen = null;
  const view = Object.assign(createListView({ parts, table, query, state, send, draw }), { hasAges: true });

  function draw(facts, isLost) {
    const [word, kind] = isLost ? ["disconnected", "quiet"] : [facts.word, facts.kind];
    setText(parts.word, word);
    parts.root.className = `longtask-card longtask-group longtask-dashboard is-${kind}${facts.open ? " is-open" : ""}`;
    const figures = JSON.stringify(facts.figures);
    if (figures !== drawnFigures) {
      drawnFigures = figures;
      parts.figures.replaceChildren(...makeFigures(facts.figures));
    }
    const note = isLost ? "The tasks go on without this kernel; what is shown is as it last was." : facts.notice;
    setText(parts.note, note);
    parts.note.hidden = !note;
    filters.draw(facts.counts, isLost);
    drawGroup(table.held?.group, isLost);
    parts.empty.hidden = (table.held?.total ?? 0) > 0;
    setText(parts.empty, query.stage || query.word || query.group ? "No task matches." : "No tasks yet: kit.submit(…), kit.map(…).");
    if (drawnOpen !== facts.open) takeBack(parts.drop); // it asked of another task
    drawnOpen = facts.open;
    table.draw(([id]) => id === facts.open);
    side.draw(facts.side);
  }

  function drawGroup(group, isLost) {
    setText(parts.groupName, group?.name ?? "");
    setText(parts.groupWord, group?.word ?? "");
    const { groupRetry, groupCancel } = parts;
    showParts(parts.root, [[parts.group, query.group], [groupRetry, !isLost && group?.failed], [groupCancel, !isLost && group?.open]]);
  }

  function drawRow(cells, [id, rows, stage, word, prompt, model, attempt, createdMs, rate, cost, error], tr) {
    const kind = `longtask-row is-${stage}${rows ? " is-many" : ""}`;
    if (tr.className !== kind) tr.className = kind;
    if (!cells[0].firstChild) cells[0].append(make("i", { class: "longtask-dot", "aria-hidden": "true" }));
    const told = error ? `${word}: ${error}` : word;
    const texts = [null, rows ? `▸ ${prompt}` : prompt, told, model, rows || attempt < 2 ? "" : String(attempt), describeAge(Date.now() - createdMs), rate, cost];
    texts.forEach((text, at) => {
      if (text === null || cells[at].textContent === text) return;
      cells[at].textContent = text;
      if (at < 4) cells[at].title = at === 1 ? `${prompt}\n${id}` : text;
    });
  }

  function choose([id, rows]) {
    if (rows) openGroup(id);
    else if (state.facts.open === id) send({ t: "close" });
    else send({ t: "open", id });
  }

  function openGroup(group) {
    filters.reset();
    view.ask({ group, stage: "", word: "" });
  }

  function remove() {
    send({ t: "delete", id: state.facts.open });
    table.focus(); // the card goes, and with it the button
    view.draw();
  }

  function find(taskId) {
    filters.reset(taskId);
    view.ask({ word: taskId, stage: "", group: "" });
    send({ t: "open", id: taskId });
  }

  parts.root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !(state.facts?.open || query.group)) return;
    event.stopPropagation();
    if (state.facts.open) view.close();
    else openGroup("");
  });
  parts.back.addEventListener("click", () => openGroup(""));
  parts.groupRetry.addEventListener("click", () => send({ t: "retry", id: query.group }));
  parts.groupCancel.addEventListener("click", () => send({ t: "cancel", id: query.group }));
  parts.drop.addEventListener("click", () => askOnce(parts.drop, "Delete for good?", remove));
  parts.close.addEventListener("click", view.close);
  return view;
}

function buildParts(table, side, filters) {
  const parts = {
    word: make("span"),
    figures: make("span", { class: "longtask-figures" }),
    note: make("div", { class: "longtask-note" }),
    empty: make("p", { class: "longtask-empty" }),
    card: make("div", { class: "longtask-chosen" }),
    close: button("Close", "Close the card (Escape)"),
    drop: button("Delete", "Delete this task, its record and its text"),
    back: button("← All", "All tasks and groups (Escape)"),
    groupName: make("b"),
    groupWord: make("span"),
    groupRetry: button("Retry failed", "Run the failed and cancelled tasks of this group again"),
    groupCancel: button("Cancel", "Cancel all of this group that has not ended"),
  };
  parts.group = make("div", { class: "longtask-opened", role: "group", "aria-label": "The opened group" }, parts.back, parts.groupName, parts.groupWord,
    make("span", { class: "longtask-actions" }, parts.groupRetry, parts.groupCancel));
  const head = make("div", { class: "longtask-head" },
    make("span", { class: "longtask-state", role: "status" }, make("i", { class: "longtask-dot", "aria-hidden": "true" }), make("span", { class: "longtask-title" }, "dashboard"), parts.word), parts.figures);
  const tools = make("div", { class: "longtask-foot" }, filters.el, filters.find);
  const list = make("div", { class: "longtask-list" }, tools, parts.group, table.el, parts.empty);
  const beside = make("div", { class: "longtask-beside", role: "region", "aria-label": "The chosen task" },
    make("span", { class: "longtask-actions" }, parts.drop, parts.close), parts.card);
  for (const part of [parts.note, parts.empty, parts.group]) part.hidden = true;
  parts.root = make("section", { class: "longtask-card longtask-group longtask-dashboard", "aria-label": "Dashboard" },
    head, parts.note, make("div", { class: "longtask-main" }, make("div", { class: "longtask-first" }, list, beside), side.el));
  return parts;
}

export default makeLiveWidget(createView);
