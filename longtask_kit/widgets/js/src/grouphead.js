// The head that the views of a group have alike, table or comparison, with its bar and its note.
import { button, copyText, make, setText, showParts } from "./dom.js";
import { makeFigures } from "./figures.js";

const SHARES = ["done", "running", "failed", "waiting"];

/** The parts of the head, the bar and the note; `tools` stand before the buttons that all have. */
export function buildHead(send, ...tools) {
  const parts = {
    title: make("span", { class: "longtask-title" }),
    word: make("span"),
    figures: make("span", { class: "longtask-figures" }),
    retry: button("Retry failed", "Run the failed and cancelled rows again", () => send({ t: "retry" })),
    csv: button("Copy as CSV", "Copy all rows with their whole answers", () => send({ t: "csv" })),
    cancel: button("Cancel", "Cancel all that has not ended", () => send({ t: "cancel" })),
    bar: make("div", { class: "longtask-shares", "aria-hidden": "true" }, ...SHARES.map((stage) => make("i", { class: `is-${stage}` }))),
    note: make("div", { class: "longtask-note" }),
    id: button("", "Copy the code that brings this group back"),
    drawn: "",
  };
  parts.cancel.classList.add("is-main");
  parts.id.classList.add("longtask-id");
  parts.id.addEventListener("click", () => copyText(parts.id.dataset.label ?? parts.id.textContent, parts.id)); // not "Copied"
  for (const part of [parts.retry, parts.csv, parts.cancel, parts.note]) part.hidden = true;
  const dot = make("i", { class: "longtask-dot", "aria-hidden": "true" });
  parts.head = make("div", { class: "longtask-head" },
    make("span", { class: "longtask-state", role: "status" }, dot, parts.title, parts.word), parts.figures,
    make("span", { class: "longtask-actions" }, ...tools, parts.retry, parts.csv, parts.cancel));
  return parts;
}

/** Draw them; `group` is the section around them, `classes` what it is beside its state. */
export function drawHead(parts, group, classes, facts, isLost) {
  const isAway = isLost && !facts.isOver;
  const [word, kind] = isAway ? ["disconnected", "quiet"] : [facts.word, facts.kind];
  setText(parts.title, facts.title);
  setText(parts.word, word);
  group.className = `longtask-card longtask-group ${classes} is-${kind}`;
  const figures = JSON.stringify(facts.figures);
  if (figures !== parts.drawn) {
    parts.drawn = figures;
    parts.figures.replaceChildren(...makeFigures(facts.figures));
  }
  const rows = facts.bar.reduce((sum, count) => sum + count, 0) || 1;
  facts.bar.forEach((count, at) => {
    const width = `${(100 * count) / rows}%`;
    if (parts.bar.children[at].style.width !== width) parts.bar.children[at].style.width = width;
  });
  const note = isAway ? "The rows go on without this kernel; what is shown is as it last was." : facts.notice;
  setText(parts.note, note);
  parts.note.hidden = !note;
  setText(parts.id, `kit.attach_group("${facts.groupId}")`);
  const { csv, retry, cancel } = parts;
  showParts(group, [[csv, !isLost], [retry, !isLost && facts.counts.failed > 0], [cancel, !isLost && !facts.isOver]]);
}
