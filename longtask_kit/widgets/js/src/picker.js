// The front end of `ModelPicker`: a field with a list of the models, each with what it is.
import { addChoices } from "./choices.js";
import { make } from "./dom.js";

let fields = 0;

function render({ model, el }) {
  const id = `longtask-model-${++fields}`;
  const input = make("input", { id, type: "text", spellcheck: "false", placeholder: "the server's" });
  const arrow = make("button", { type: "button", class: "longtask-picker-arrow", tabindex: "-1", "aria-label": "Show the models" }, "▾");
  el.append(make("span", { class: "longtask-picker" }, make("label", { for: id }, "Model"), input, arrow));
  let isTyped = false;
  const set = (value) => {
    model.set("value", value);
    model.save_changes();
  };
  const find = () => {
    const notes = model.get("notes");
    const typed = isTyped ? input.value.trim().toLowerCase() : "";
    const names = model.get("options").filter((name) => name.toLowerCase().includes(typed));
    return names.map((name) => ({ name, note: notes[name] ?? "" }));
  };
  const choices = addChoices(input, {
    label: "Models",
    find,
    pick: (name) => {
      input.value = name;
      set(name);
    },
  });
  input.addEventListener("input", () => {
    isTyped = true;
    set(input.value);
    choices.open();
    isTyped = false;
  });
  arrow.addEventListener("pointerdown", (event) => {
    event.preventDefault(); // the focus stays in the field, or goes there
    input.focus();
    choices.toggle();
  });
  const draw = () => {
    if (input.value !== model.get("value")) input.value = model.get("value");
  };
  model.on("change:value", draw);
  model.on("change:options", choices.refresh);
  draw();
  return () => {
    model.off("change:value", draw);
    model.off("change:options", choices.refresh);
    choices.close();
  };
}

export default { render };
