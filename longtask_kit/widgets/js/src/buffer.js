// The protocol of `longtask_kit/widgets/output.py`, the pure half: a snapshot and updates become
// one text with its figures; a hole says that the snapshot must be asked for.

/** An empty buffer: nothing heard yet. */
export function createBuffer() {
  return { epoch: 0, seq: -1, text: "", reasoning: "", meta: { status: "idle" } };
}

/** Take a snapshot in; whether it changed anything. An older one than what we have is dropped. */
export function takeSnapshot(buffer, snapshot) {
  if (!snapshot || snapshot.epoch === undefined) return false;
  const isOlder =
    snapshot.epoch < buffer.epoch || (snapshot.epoch === buffer.epoch && snapshot.seq < buffer.seq);
  if (isOlder) return false;
  Object.assign(buffer, { epoch: snapshot.epoch, seq: snapshot.seq, text: snapshot.text, reasoning: snapshot.reasoning ?? "" });
  buffer.meta = { ...snapshot.meta };
  return true;
}

/** Take an update in: "applied", "dropped" (known already) or "hole" (ask for the snapshot). */
export function takeUpdate(buffer, update) {
  if (update.e < buffer.epoch) return "dropped";
  if (update.e > buffer.epoch) {
    if (update.s !== 0) return "hole";
    Object.assign(buffer, { epoch: update.e, seq: -1, text: "", reasoning: "" });
  }
  if (update.s <= buffer.seq) return "dropped";
  if (update.s !== buffer.seq + 1) return "hole";
  buffer.seq = update.s;
  if (update.d) buffer.text += update.d;
  if (update.r) buffer.reasoning += update.r;
  // The first update of a text carries all that is known, the others what has changed.
  if (update.m) buffer.meta = update.s === 0 ? { ...update.m } : { ...buffer.meta, ...update.m };
  return "applied";
}
