// How old something is, in its largest whole unit; `client/listed.py` says the same.

const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60]];

/** An age in ms as people read it; a clock that is behind makes nothing younger than now. */
export function describeAge(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const [unit, length] = UNITS.find(([, least]) => seconds >= least) ?? ["s", 1];
  return `${Math.floor(seconds / length)} ${unit}`;
}
