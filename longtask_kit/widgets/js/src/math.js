// TeX to MathML, which the browser itself draws: no fonts, no style sheets from elsewhere. Loaded once a
// page, when the first formula comes.
import temml from "temml/dist/temml.mjs";

const OPTIONS = { throwOnError: true, trust: false, maxExpand: 100, maxSize: [20, 100], strict: false };

/** A formula as MathML, or null where it is none. */
export function renderMath(tex, isDisplay) {
  try {
    return temml.renderToString(tex, { ...OPTIONS, displayMode: isDisplay, macros: {} });
  } catch {
    return null;
  }
}
