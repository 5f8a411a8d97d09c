// The panel's form as it stands in the page; ipywidgets tells the kernel of a change with a delay.

const TAGS = { prompt: "textarea", model: "input", system: "textarea", temperature: "input", maxTokens: "input", params: "textarea" };

/** The values of the fields that are there, as what was typed. */
export function readFields(panel) {
  const fields = {};
  for (const [name, tag] of Object.entries(TAGS)) {
    // `widgets/form.py` gives each its class
    const field = panel.querySelector(`.longtask-field-${name} ${tag}`);
    if (field) fields[name] = field.value;
  }
  return fields;
}
