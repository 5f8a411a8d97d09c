// Figures beside a state: each `[before, value, after]`.
import { make } from "./dom.js";

export const makeFigures = (figures) =>
  figures.map(([before, value, after]) => make("span", { class: "longtask-figure" }, before, make("b", {}, value), after));
