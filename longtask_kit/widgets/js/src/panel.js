// The front end of `TaskHistory`: earlier tasks, what went wrong, and the panel's keys.
import { button, make, setText } from "./dom.js";
import { readFields } from "./fields.js";
import { describeAge, findRows } from "./history.js";
import { askToNotify, canAskToNotify } from "./notify.js";

const LIST_MS = 5000; // how often an open list is brought up to date
const SURE_MS = 4000; // for how long a second click deletes

function render({ model, el }) {
  const parts = buildParts();
  el.append(parts.problem, parts.history);
  const drawn = { key: "" };

  function draw() {
    const problem = model.get("problem");
    parts.problem.hidden = !problem;
    setText(parts.problemText, problem);
    const rows = model.get("rows");
    const found = findRows(rows, parts.find.value);
    parts.notify.hidden = !canAskToNotify();
    setText(parts.none, rows.length ? "None of the tasks fits." : "No tasks yet: what is submitted here, or anywhere, is listed.");
    parts.none.hidden = found.length > 0;
    const now = Date.now();
    const key = JSON.stringify([found, model.get("shown"), found.map((row) => describeAge(now - row.createdMs))]);
    if (key === drawn.key || parts.list.querySelector("[data-sure]")) return;
    drawn.key = key;
    const focused = parts.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    parts.list.replaceChildren(...found.map((row) => makeRow(row, now)));
    if (focused) parts.list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function makeRow(row, now) {
    const act = (t) => () => model.send({ t, taskId: row.id });
    const open = make("button", { type: "button", class: "longtask-row-open", title: "Show it, with the form as it was", onclick: act("open") },
      make("i", { class: `longtask-dot is-${row.kind}`, "aria-hidden": "true" }),
      make("span", { class: "longtask-row-prompt" }, row.prompt || "(no text)"),
      make("span", { class: "longtask-row-facts" }, [row.word, row.model, describeAge(now - row.createdMs)].filter(Boolean).join(" · ")));
    const keep = button("Continue", "The next message continues from its answer", act("continue"));
    const remove = makeDelete(act("delete"));
    const keyed = { open, continue: keep, delete: remove };
    for (const [name, element] of Object.entries(keyed)) element.dataset.key = `${name} ${row.id}`;
    const item = make("li", {}, open, keep, remove);
    if (row.id === model.get("shown")) item.setAttribute("aria-current", "true");
    return item;
  }

  /** A button that asks once. */
  function makeDelete(act) {
    const remove = button("Delete", "Delete the task and its text");
    const rest = () => {
      delete remove.dataset.sure;
      setText(remove, "Delete");
    };
    remove.addEventListener("click", () => {
      if (remove.dataset.sure) {
        rest();
        return act();
      }
      remove.dataset.sure = "1";
      setText(remove, "Delete it?");
      setTimeout(() => remove.isConnected && rest(), SURE_MS);
    });
    remove.addEventListener("blur", rest);
    return remove;
  }

  const isSeen = () => parts.history.offsetParent !== null && !document.hidden;
  const refresh = () => isSeen() && model.send({ t: "list" });
  const seen = new IntersectionObserver(([entry]) => entry.isIntersecting && refresh());
  seen.observe(parts.history);
  const clock = setInterval(() => {
    refresh();
    if (isSeen()) draw();
  }, LIST_MS);
  parts.find.addEventListener("input", draw);
  parts.dismiss.addEventListener("click", () => model.send({ t: "dismiss" }));
  parts.notify.addEventListener("click", async () => {
    await askToNotify();
    draw();
  });
  model.on("change", draw);
  const address = () => model.get("is_page") && nameTask(model.get("shown"));
  model.on("change:shown", address);
  draw();
  if (model.get("shown")) address();
  const unbind = bindPanel(el, model);
  return () => {
    model.off("change", draw);
    model.off("change:shown", address);
    clearInterval(clock);
    seen.disconnect();
    unbind();
  };
}

function buildParts() {
  const parts = {
    problemText: make("span"),
    dismiss: button("Dismiss", "Take this note away"),
    find: make("input", { type: "search", placeholder: "Find: words, model, status, id", "aria-label": "Find in earlier tasks" }),
    notify: button("Notify me when a long task ends", "The browser asks whether this page may"),
    list: make("ul", { class: "longtask-rows" }),
    none: make("p", { class: "longtask-none" }),
  };
  parts.problem = make("div", { class: "longtask-problem", role: "alert" }, parts.problemText, parts.dismiss);
  parts.history = make("section", { class: "longtask-history", "aria-label": "Earlier tasks" },
    make("div", { class: "longtask-find" }, parts.find, parts.notify), parts.list, parts.none);
  return parts;
}

/** Have the page's address name the task that is shown: the address shares it. */
function nameTask(taskId) {
  const url = new URL(location.href);
  if (taskId) url.searchParams.set("task", taskId);
  else url.searchParams.delete("task");
  history.replaceState(history.state, "", url);
}

/** Bind the panel's keys, and tell its folds' state, once ipywidgets has put us into it. */
function bindPanel(el, model) {
  let panel = null;
  let stopped = false;
  const onKey = (event) => {
    if (event.target.closest?.(".longtask-edit")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would run the cell
      model.send({ t: "submit", fields: readFields(panel) });
    } else if (event.key === "Escape" && event.shiftKey) {
      event.preventDefault(); // Escape alone leaves the field, as everywhere in JupyterLab
      event.stopPropagation();
      model.send({ t: "cancel" });
    }
  };
  const tellFolds = () => {
    for (const toggle of panel.querySelectorAll(".longtask-form-settings.jupyter-button, .longtask-form-earlier, .longtask-form-chat")) {
      const name = toggle.classList.contains("longtask-form-chat") ? "aria-pressed" : "aria-expanded";
      toggle.setAttribute(name, String(toggle.classList.contains("mod-active")));
    }
  };
  const folds = new MutationObserver(tellFolds);
  const find = () => {
    panel = el.closest(".longtask-panel");
    if (panel) {
      panel.addEventListener("keydown", onKey, true);
      folds.observe(panel.querySelector(".longtask-form"), { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
      tellFolds();
      panel.querySelector(".longtask-field-prompt textarea")?.setAttribute("aria-label", "Prompt");
    } else if (!stopped) requestAnimationFrame(find); // ipywidgets attaches views after render
  };
  find();
  return () => {
    stopped = true;
    folds.disconnect();
    panel?.removeEventListener("keydown", onKey, true);
  };
}

export default { render };
