// The front end of `Turn`: what was asked, and what can be asked again. All texts are data.
import { addChoices } from "./choices.js";
import { button, make, setText } from "./dom.js";

function render({ model, el }) {
  const parts = buildParts();
  el.append(parts.turn);
  const said = () => model.get("said");
  const choices = addChoices(parts.other, {
    label: "Models",
    find: () => said().models ?? [],
    pick: (name) => model.send({ t: "again", model: name }),
  });
  let draft = null; // what was sent: an answer comes as another turn, and a refusal leaves this one
  let drawnId = "";
  const edit = (isEdited) => {
    parts.edit.hidden = !isEdited;
    parts.me.hidden = isEdited;
    if (isEdited) {
      parts.field.value = draft ?? said().prompt ?? "";
      parts.field.focus();
    } else parts.change.focus();
  };
  const send = () => {
    draft = parts.field.value;
    edit(false);
    model.send({ t: "edit", prompt: draft });
  };
  const leave = () => {
    draft = null;
    edit(false);
  };
  parts.again.addEventListener("click", () => model.send({ t: "again" }));
  parts.other.addEventListener("click", () => choices.toggle());
  parts.goOn.addEventListener("click", () => model.send({ t: "continue" }));
  parts.change.addEventListener("click", () => edit(true));
  parts.send.addEventListener("click", send);
  parts.leave.addEventListener("click", leave);
  parts.edit.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    else if (event.key === "Escape" && !event.shiftKey) leave();
    else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would run the cell
  });

  function draw() {
    const { prompt = "", before = [], taskId, isTalk, isActive, models = [] } = said();
    if (taskId !== drawnId) {
      [drawnId, draft] = [taskId, null]; // what was being written is of another task
      [parts.edit.hidden, parts.me.hidden] = [true, false];
    }
    parts.turn.hidden = !taskId;
    parts.turn.classList.toggle("is-talk", Boolean(isTalk));
    setText(parts.prompt, prompt);
    parts.prompt.hidden = !isTalk;
    parts.before.hidden = !isTalk || before.length === 0;
    setText(parts.beforeHead, `${before.length} messages before`);
    parts.beforeText.replaceChildren(...before.map(makeSaid));
    parts.actions.hidden = Boolean(isActive);
    parts.change.hidden = !isTalk;
    parts.other.hidden = models.length === 0;
    parts.goOn.hidden = Boolean(isTalk);
  }
  model.on("change:said", draw);
  draw();
  return () => {
    model.off("change:said", draw);
    choices.close();
  };
}

const makeSaid = ({ role, text }) => make("p", { class: `is-${role === "user" ? "user" : "assistant"}` }, text);

function buildParts() {
  const parts = {
    prompt: make("div", { class: "longtask-prompt", tabindex: "0", role: "group", "aria-label": "You asked" }),
    change: button("Edit", "Ask in other words, in place of this"),
    again: button("Run again", "Ask the same once more"),
    other: button("Other model ▾", "Ask another model the same"),
    goOn: button("Go on as chat", "The next message continues from this answer"),
    field: make("textarea", { rows: "3", "aria-label": "Ask in other words" }),
    send: button("Send", "Ctrl+Enter"),
    leave: button("Leave as it was", "Escape"),
    beforeHead: make("summary"),
    beforeText: make("div", { tabindex: "0" }),
  };
  parts.send.classList.add("is-main");
  parts.before = make("details", { class: "longtask-before" }, parts.beforeHead, parts.beforeText);
  parts.actions = make("span", { class: "longtask-again" }, parts.change, parts.again, parts.other, parts.goOn);
  parts.me = make("div", { class: "longtask-me" }, parts.prompt, parts.actions);
  parts.edit = make("div", { class: "longtask-edit" }, parts.field, make("span", {}, parts.send, parts.leave));
  parts.edit.hidden = true;
  parts.turn = make("div", { class: "longtask-turn" }, parts.before, parts.me, parts.edit);
  return parts;
}

export default { render };
