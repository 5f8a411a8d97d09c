// Figures as people read them.

export const TERMINAL = new Set(["completed", "failed", "cancelled"]);
const ACTIVE = new Set(["pending", "running", "retrying"]);

/** Whether a task of this status still does something. */
export const isActive = (status) => ACTIVE.has(status);

/** 850 ms, 3.2 s, 1 min 05 s. */
export function formatDuration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

/** Tokens a second since this attempt's first token, or null before there is anything to divide. */
export function tokensPerSecond(meta, elapsedMs) {
  const streamingMs = elapsedMs - (meta.attemptBeganMs ?? 0) - (meta.firstTokenMs ?? 0);
  return meta.tokens > 1 && streamingMs > 100 ? (1000 * meta.tokens) / streamingMs : null;
}

/** The word of the badge: a retry says which attempt comes. */
export function describeStatus(meta) {
  return meta.status === "retrying" ? `retrying ${(meta.attempt ?? 0) + 1}` : meta.status ?? "idle";
}

/** The figures beside the badge, as [name, value] pairs; what is not known is left out. */
export function describeFigures(meta, elapsedMs) {
  const figures = [];
  if (meta.model) figures.push(["model", meta.model]);
  if (elapsedMs != null && meta.status !== "idle") figures.push(["time", formatDuration(elapsedMs)]);
  if (meta.tokens) figures.push(["tokens", meta.tokens.toLocaleString("en")]);
  // As of the message that counted them: the clock goes on between two, and the tokens don't.
  const rate = meta.elapsedMs == null ? null : tokensPerSecond(meta, meta.elapsedMs);
  if (rate != null) figures.push(["tokens/s", rate.toFixed(rate < 10 ? 1 : 0)]);
  if (meta.firstTokenMs != null) figures.push(["first token", formatDuration(meta.firstTokenMs)]);
  return figures;
}
