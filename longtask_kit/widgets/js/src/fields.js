// The panel's form as it stands in the page; ipywidgets tells the kernel of a change with a delay.

const TEXT = { prompt: "textarea", model: "input", system: "textarea", maxTokens: "input" };

/** The values of the fields that are there, as what was typed. */
export function readFields(panel) {
  const fields = {};
  for (const [name, tag] of Object.entries(TEXT)) {
    const field = find(panel, name)?.querySelector(tag);
    if (field) fields[name] = field.value;
  }
  const slider = find(panel, "temperature")?.querySelector(".widget-readout");
  if (slider) fields.temperature = slider.textContent;
  return fields;
}

/** The widget of a field: `panel.py` gives each its class. */
const find = (panel, name) => panel.querySelector(`.longtask-field-${name}`);
