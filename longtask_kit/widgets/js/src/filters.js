// The buttons that choose rows by their stage, each with how many there are, and the field to find some.
import { button, make, setText } from "./dom.js";

const TYPE_MS = 150;

/** Filters of `what`, as in "rows"; `ask({stage})` and `ask({word})` are called with what is chosen. */
export function createFilters({ stages, what, findIn, ask }) {
  let chosen = "";
  let typing = 0;
  const find = make("input", { type: "search", class: "longtask-find", placeholder: "find …", "aria-label": `Find in ${findIn}` });
  const filters = ["", ...stages].map((stage) => {
    const one = button(stage || "all", stage ? `Only ${what} that are ${stage}` : `All ${what}`);
    one.append(make("span"));
    one.addEventListener("click", () => choose(chosen === stage ? "" : stage));
    return [stage, one];
  });
  const el = make("span", { class: "longtask-filters", role: "group", "aria-label": `Which ${what}` }, ...filters.map(([, one]) => one));

  function choose(stage) {
    chosen = stage;
    ask({ stage });
  }

  function draw(counts, isLost) {
    const all = stages.reduce((sum, stage) => sum + counts[stage], 0);
    for (const [stage, one] of filters) {
      const count = stage ? counts[stage] : all;
      setText(one.lastChild, ` ${count.toLocaleString("en")}`);
      one.hidden = Boolean(stage) && count === 0 && chosen !== stage;
      one.setAttribute("aria-pressed", String(chosen === stage));
      one.disabled = isLost;
    }
    find.disabled = isLost;
  }

  find.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => ask({ word: find.value }), TYPE_MS);
  });

  /** Choose no stage, and have `word` in the field. */
  function reset(word = "") {
    clearTimeout(typing); // what was typed before would be found after
    chosen = "";
    find.value = word;
  }

  return { el, find, draw, reset };
}
