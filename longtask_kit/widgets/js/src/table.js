// A long table of which the page holds a window: it asks for the rows that are seen, and is walked by
// keys. Who uses it draws a row's cells and says what a choice means.
import { make } from "./dom.js";
import { findSeen, moveActive, planWindow, ROW_PX, scrollTo } from "./rows.js";

const ASK_MS = 80; // between two requests while one scrolls

/**
 * A table; `ask(plan)` asks for rows, `drawRow(cells, row, tr)` fills a line, `choose(row)` is a click.
 * A column is `[head, class]`, its head a text or an element.
 */
export function createTable({ columns, label, ask, drawRow, choose }) {
  const space = () => make("tr", { class: "longtask-space", role: "presentation", "aria-hidden": "true" });
  const [above, below] = [space(), space()];
  const heads = columns.map(([head, kind]) => make("th", { class: kind, scope: "col" }, head));
  const body = make("tbody", {}, above, below);
  const grid = make("table", { class: "longtask-rows", role: "grid", "aria-label": label }, make("thead", {}, make("tr", { "aria-rowindex": "1" }, ...heads)), body);
  const el = make("div", { class: "longtask-table" }, grid);
  const lines = [];
  let held = null;
  let active = 0;
  let isFocusDue = false;
  let askedAt = -Infinity;
  let asking = 0;
  let asked = null; // what is on its way

  const total = () => held?.total ?? 0;
  const height = () => el.clientHeight || 400;

  function request(plan) {
    asked = plan;
    askedAt = performance.now();
    ask(plan);
  }

  function askAnew() {
    el.scrollTop = 0;
    active = 0;
    request(planWindow(findSeen(0, height(), 1e9), null, 1e9));
  }

  /** Ask for what is seen, unless it is held or on its way; `isForced`, whatever is. */
  function askSeen(isForced = false) {
    if (isForced) asked = null;
    const seen = findSeen(el.scrollTop, height(), Math.max(total(), 1));
    const plan = planWindow(seen, isForced ? null : held, total());
    if (plan && JSON.stringify(plan) !== JSON.stringify(asked)) request(plan);
  }

  function take(window) {
    held = window;
    asked = null;
  }

  function draw(isSelected) {
    const { begin, rows } = held ?? { begin: 0, rows: [] };
    const count = total();
    grid.setAttribute("aria-rowcount", count + 1);
    above.style.height = `${begin * ROW_PX}px`;
    below.style.height = `${Math.max(0, count - begin - rows.length) * ROW_PX}px`;
    active = Math.max(0, Math.min(active, count - 1));
    while (lines.length < rows.length) addLine();
    // Something must be reached by Tab, also where the active row is far away.
    const reached = Math.max(0, Math.min(active - begin, rows.length - 1));
    lines.forEach((line, at) => {
      const row = rows[at];
      Object.assign(line, { row, at: begin + at });
      line.tr.hidden = !row;
      line.tr.tabIndex = at === reached ? 0 : -1;
      if (!row) return;
      line.tr.setAttribute("aria-rowindex", line.at + 2);
      line.tr.setAttribute("aria-selected", String(isSelected(row)));
      drawRow(line.cells, row, line.tr);
    });
    if (isFocusDue && active >= begin && active < begin + rows.length) {
      isFocusDue = false;
      lines[active - begin].tr.focus({ preventScroll: true });
    }
  }

  function addLine() {
    const cells = columns.map(([, kind]) => make("td", { class: kind }));
    const line = { tr: make("tr", {}, ...cells), cells, row: null, at: 0 };
    lines.push(line);
    body.insertBefore(line.tr, below);
  }

  const lineOf = (target) => lines.find((line) => line.tr === target.closest?.("tr"));

  function pick(line) {
    if (!line?.row) return;
    active = line.at;
    choose(line.row);
  }

  body.addEventListener("click", ({ target }) => {
    if (!String(getSelection())) pick(lineOf(target)); // else somebody marks a text
  });
  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const line = lineOf(event.target);
    if (line) active = line.at;
    const row = moveActive(event.key, active, total(), Math.max(1, Math.floor(el.clientHeight / ROW_PX) - 2));
    if (row !== null) {
      active = row;
      isFocusDue = true;
      el.scrollTop = scrollTo(row, el.scrollTop, el.clientHeight - ROW_PX);
      table.redraw();
      askSeen();
    } else if (event.key === "Enter" || event.key === " ") pick(line);
    else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would move to another cell
  });
  el.addEventListener("scroll", () => {
    clearTimeout(asking);
    asking = setTimeout(askSeen, Math.max(0, askedAt + ASK_MS - performance.now()));
  }, { passive: true });

  const table = { el, draw, take, askAnew, askSeen, redraw: () => {}, focus: () => (isFocusDue = true) };
  Object.defineProperty(table, "held", { get: () => held });
  return table;
}
