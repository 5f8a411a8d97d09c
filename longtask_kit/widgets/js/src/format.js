// Figures and notes as people read them; `widgets/facts.py` says the same of a saved answer, and
// test/facts_cases.json holds both to it.

export const TERMINAL = new Set(["completed", "failed", "cancelled"]);
const BLOCK_CHARS = 10_000;
const ACTIVE = new Set(["pending", "running", "retrying"]);

/** Whether a task of this status still does something. */
export const isActive = (status) => ACTIVE.has(status);

/** 850 ms, 3.2 s, 1 min 05 s, 2 h 05 min. */
export function formatDuration(ms) {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(Math.round(ms / 100) / 10).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000 + 0.05);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** Tokens a second since this text's first token, or null before there is anything to divide. What lies
 * between two attempts, of which one goes on behind the other, is nobody's pace. */
export function tokensPerSecond(meta, elapsedMs) {
  const streamingMs = elapsedMs - (meta.attemptBeganMs ?? 0) - (meta.firstTokenMs ?? 0) - (meta.silenceMs ?? 0);
  return meta.tokens > 1 && streamingMs > 100 ? (1000 * meta.tokens) / streamingMs : null;
}

const formatRate = (rate) => (rate < 10 ? (Math.round(10 * rate) / 10).toFixed(1) : String(Math.round(rate)));

/** The figures beside the state, as [before, value, after]; what is not known is left out. */
export function describeFigures(meta, elapsedMs) {
  if (!meta.taskId) return [];
  const figures = [];
  if (meta.model) figures.push(["", meta.model, ""]);
  const seams = meta.continued ?? 0;
  // A text that went on is one text, however many attempts it took.
  if (meta.attempt - seams > 1) figures.push(["attempt ", String(meta.attempt), ""]);
  if (elapsedMs != null) figures.push(["", formatDuration(elapsedMs), ""]);
  if (meta.tokens) figures.push(["", meta.tokens.toLocaleString("en"), ` ${nameUnit(meta)}`]);
  // As of the message that counted them: the clock goes on between two, and the tokens don't.
  const rate = meta.elapsedMs == null ? null : tokensPerSecond(meta, meta.elapsedMs);
  if (rate != null) figures.push(["", formatRate(rate), "/s"]);
  if (meta.firstTokenMs != null) figures.push(["first ", formatDuration(meta.firstTokenMs), ""]);
  if (meta.reasoningTokens) figures.push(["", meta.reasoningTokens.toLocaleString("en"), " for reasoning"]);
  if (seams) figures.push(["continued ", seams === 1 ? "once" : `${seams} times`, ""]);
  if (meta.costUsd != null) figures.push(["", `$${meta.costUsd.toFixed(meta.costUsd < 0.01 ? 4 : 2)}`, ""]);
  return figures;
}

/** What stands behind the number of a task's tokens, or of its handler's pieces. */
export function nameUnit({ unit, tokens }) {
  return tokens === 1 ? unit ?? "token" : `${unit ?? "token"}s`;
}

/** For how long the model has been thinking: not since its submit, but since it began to. */
export function thinkingMs(meta, elapsedMs) {
  if (meta.reasoningMs != null) return meta.reasoningMs;
  return elapsedMs == null ? null : Math.max(0, elapsedMs - (meta.attemptBeganMs ?? 0) - (meta.firstTokenMs ?? 0));
}

/** What stands between head and text: why it waits, failed or ended early; null for nothing. */
export function describeNote(meta, nextTryMs) {
  if (meta.problem) return { cause: "", cure: meta.problem, isAlert: true }; // what a button could not do
  if (meta.isDisconnected) return meta.notice ? { cause: "", cure: meta.notice } : null;
  if (meta.status === "retrying" && meta.error) {
    const of = meta.maxAttempts ? ` of ${meta.maxAttempts}` : "";
    return { cause: `Attempt ${meta.attempt}${of} failed:`, cure: `${endSentence(meta.error)}${describeNextTry(nextTryMs)}` };
  }
  // Of a task that goes on by itself, as one that was handed on does, it is no alarm.
  const isAlert = TERMINAL.has(meta.status) || meta.code === "stream";
  if (meta.error) return { cause: endSentence(meta.error), cure: meta.cure ?? "", isAlert };
  if (meta.refusal) return { cause: "The model refused:", cure: meta.refusal };
  if (meta.finishReason === "content_filter") return { cause: "Filtered by the model service:", cure: "the answer ends where its filter stopped it." };
  if (meta.notice) return { cause: "", cure: meta.notice };
  if (meta.isWatching === false && isActive(meta.status)) return { cause: "Not watching;", cure: "the task runs on." };
  return null;
}

const endSentence = (text) => (/[.!?…:]\s*$/.test(text) ? text : `${text}.`);

function describeNextTry(nextTryMs) {
  if (nextTryMs == null) return " The queue tries again by itself.";
  const seconds = Math.ceil(nextTryMs / 1000);
  return seconds > 0 ? ` Next try in about ${seconds} s.` : " The next try is due.";
}

/** A progress bar's share, null where the total is not known, and its words. */
export function describeProgress(progress) {
  if (typeof progress?.done !== "number") return null;
  const { done, total, message } = progress;
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : null;
  const count = share == null ? done.toLocaleString("en") : `${done.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  return { share, text: [count, message].filter(Boolean).join(" · ") };
}

/** A tool call as its name and arguments. */
export function describeTool(call) {
  const { name = "tool", arguments: given = "" } = call.function ?? call;
  return `${name}(${typeof given === "string" ? given : writeJson(given)})`;
}

/** What a handler gave beside its text, one block a name. */
export const describeData = (data) => Object.entries(data ?? {}).map(([name, value]) => `${name}: ${cut(writeJson(value))}`);

const cut = (text) => (text.length <= BLOCK_CHARS ? text : `${text.slice(0, BLOCK_CHARS)} …`);

/** JSON with a space behind each comma and colon. */
function writeJson(value) {
  if (Array.isArray(value)) return `[${value.map(writeJson).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, own]) => `${JSON.stringify(name)}: ${writeJson(own)}`).join(", ")}}`;
}
