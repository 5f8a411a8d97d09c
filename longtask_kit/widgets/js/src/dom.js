// Elements, and the clipboard.

/** An element with attributes and children; text children are text, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const button = (label, title, onclick = () => {}) =>
  make("button", { type: "button", class: "longtask-button", title, onclick }, label);

/** Set a text only where it differs: what is set is drawn again, and read aloud again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show parts or hide them. Who had the focus on one that goes has it on the whole: keys go on, and Tab from there. */
export function showParts(whole, shown) {
  const { activeElement } = whole.getRootNode();
  for (const [part, isShown] of shown) part.hidden = !isShown;
  if (!whole.contains(activeElement) || !activeElement.closest("[hidden]")) return;
  whole.tabIndex = -1; // not for ever: a click in the card would be taken from the notebook
  whole.addEventListener("blur", () => whole.removeAttribute("tabindex"), { once: true });
  whole.focus({ preventScroll: true });
}

/** Copy a text, and say so on the button for a moment. */
export async function copyText(text, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No permission, or no secure context: the old way, which takes the focus.
    const { activeElement } = document;
    const area = make("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    activeElement?.focus({ preventScroll: true });
  }
  const before = label.dataset.label ?? label.textContent;
  label.dataset.label = before;
  label.textContent = "Copied";
  setTimeout(() => (label.textContent = before), 1500);
}
