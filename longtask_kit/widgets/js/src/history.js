// Earlier tasks, the pure half: which fit what is looked for, and how old they are.

/** The rows that hold every word of `query` somewhere. */
export function findRows(rows, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    const text = [row.prompt, row.model, row.word, row.status, row.id].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** An age in its largest whole unit; `client/listed.py` says the same. */
export function describeAge(ms) {
  for (const [unit, length] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000]]) {
    if (ms >= length) return `${Math.floor(ms / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(ms / 1000))} s`;
}
