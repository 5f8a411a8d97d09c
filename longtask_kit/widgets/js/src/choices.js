// A list of choices that opens over the page, for a field or a button: each says what it is.
import { make } from "./dom.js";

const ROOM_PX = 280;
let lists = 0;

/**
 * Give `anchor`, an input or a button, a list of choices; the focus stays with the anchor.
 * `find` returns the choices now, as {name, note}; `pick` gets the name of one.
 */
export function addChoices(anchor, { label, find, pick }) {
  const list = make("ul", { class: "longtask-choices", role: "listbox", id: `longtask-choices-${++lists}`, "aria-label": label, popover: "manual" });
  const state = { active: -1, isOpen: false };
  const attributes = { role: "combobox", "aria-haspopup": "listbox", "aria-expanded": "false", "aria-controls": list.id, autocomplete: "off" };
  for (const [name, value] of Object.entries(attributes)) anchor.setAttribute(name, value);
  anchor.after(list);

  function open() {
    const choices = find();
    if (!choices.length) return close();
    list.replaceChildren(...choices.map(makeChoice));
    state.active = -1;
    anchor.removeAttribute("aria-activedescendant");
    if (!state.isOpen) {
      list.showPopover?.();
      state.isOpen = true;
      anchor.setAttribute("aria-expanded", "true");
      addEventListener("scroll", follow, true);
      addEventListener("resize", close);
    }
    place();
  }

  function close() {
    if (!state.isOpen) return;
    state.isOpen = false;
    if (list.isConnected) list.hidePopover?.();
    anchor.setAttribute("aria-expanded", "false");
    anchor.removeAttribute("aria-activedescendant");
    removeEventListener("scroll", follow, true);
    removeEventListener("resize", close);
  }

  const follow = ({ target }) => target !== list && (anchor.isConnected ? place() : close());

  /** Below the anchor where there is room, else above it. */
  function place() {
    const box = anchor.getBoundingClientRect();
    const below = innerHeight - box.bottom - 8;
    const isBelow = below >= Math.min(ROOM_PX, box.top - 8);
    list.style.maxHeight = `${Math.max(80, Math.min(ROOM_PX, isBelow ? below : box.top - 8))}px`;
    const width = Math.min(Math.max(box.width, 300), innerWidth - 16);
    Object.assign(list.style, { width: `${width}px`, left: `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px` });
    list.style.top = isBelow ? `${box.bottom + 4}px` : `${box.top - 4 - list.offsetHeight}px`;
  }

  function makeChoice({ name, note }, at) {
    const choice = make("li", { role: "option", id: `${list.id}-${at}`, "aria-selected": "false" }, make("b", {}, name));
    if (note) choice.append(" ", make("span", {}, note));
    choice.dataset.name = name;
    // Not `click`: the anchor would have lost its focus, and closed us, by then.
    choice.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      take(choice);
    });
    return choice;
  }

  function take(choice) {
    close();
    pick(choice.dataset.name);
  }

  function move(by) {
    const count = list.children.length;
    list.children[state.active]?.setAttribute("aria-selected", "false");
    state.active = state.active < 0 ? (by > 0 ? 0 : count - 1) : (state.active + by + count) % count;
    const choice = list.children[state.active];
    choice.setAttribute("aria-selected", "true");
    choice.scrollIntoView({ block: "nearest" });
    anchor.setAttribute("aria-activedescendant", choice.id);
  }

  anchor.addEventListener("blur", close);
  anchor.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isArrow = event.key === "ArrowDown" || event.key === "ArrowUp";
    const isPick = event.key === "Enter" || (event.key === " " && anchor.tagName === "BUTTON");
    if (isArrow) {
      if (!state.isOpen) open();
      if (state.isOpen) move(event.key === "ArrowDown" ? 1 : -1);
    } else if (isPick && state.isOpen && state.active >= 0) take(list.children[state.active]);
    else if (event.key === "Escape" && state.isOpen && !event.shiftKey) close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return { open, close, refresh: () => state.isOpen && open(), toggle: () => (state.isOpen ? close() : open()) };
}
