// What stands beside the tasks: services, queue with its dead letters, limits. Texts are texts.
import { button, make, setText } from "./dom.js";

/** The side of a dashboard; `send(message)` is what a button asks for, `find(taskId)` shows a task. */
export function createSide(send, find) {
  const health = make("ul", { class: "longtask-services" });
  const queue = make("p");
  const dead = make("ul", { class: "longtask-letters" });
  const limits = make("ul", { class: "longtask-limits" });
  const notes = make("p", { class: "longtask-aside" });
  const limitsPart = part("Limits", limits);
  const queuePart = part("Queue", queue, dead);
  const el = make("aside", { class: "longtask-side", "aria-label": "Services, queue and limits" }, part("Services", health), queuePart, limitsPart, notes);
  let drawn = "";
  let drawnDead = "";

  function draw(side) {
    const now = JSON.stringify(side);
    if (now === drawn) return;
    drawn = now;
    const focused = el.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    health.replaceChildren(...side.health.map(drawService));
    queuePart.hidden = !side.queue && !side.error;
    setText(queue, side.error || describeQueue(side.queue));
    queue.classList.toggle("is-wrong", Boolean(side.error));
    const letters = side.queue?.dead ?? [];
    if (JSON.stringify(letters) !== drawnDead) dead.replaceChildren(...letters.map(drawLetter)); // else a question is open
    drawnDead = JSON.stringify(letters);
    limitsPart.hidden = side.limits.length === 0;
    limits.replaceChildren(...side.limits.map(drawLimit));
    setText(notes, side.notes.join(" "));
    notes.hidden = !side.notes.length;
    if (focused) el.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  }

  function drawLetter([id, reason, taskId]) {
    const drop = button("Delete", "Delete this dead letter", () => askOnce(drop, "Delete for good?", () => send({ t: "letter-delete", id })));
    const again = button("Retry", taskId ? "Run its task again" : "Send the message again", () => send({ t: "letter-retry", id, task: taskId }));
    const show = button("Show", "Show its task", () => find(taskId));
    [drop, again, show].forEach((one, at) => (one.dataset.name = `${id} ${at}`));
    show.hidden = !taskId;
    return make("li", {}, make("span", { class: "longtask-reason", title: reason }, reason), make("span", { class: "longtask-does" }, show, again, drop));
  }

  return { el, draw };
}

function part(name, ...children) {
  return make("section", {}, make("h4", {}, name), ...children);
}

function drawService([name, isWell, latency, detail]) {
  const state = isWell === true ? "is-done" : isWell === false ? "is-failed" : "is-skipped";
  const word = isWell === true ? "answers" : isWell === false ? "does not answer" : "not asked";
  const item = make("li", { class: state, title: detail },
    make("i", { class: "longtask-dot", "aria-hidden": "true" }), make("span", {}, name), make("span", { class: "longtask-latency" }, latency || word));
  if (isWell === false) item.append(make("span", { class: "longtask-reason is-wrong" }, detail));
  return item;
}

function describeQueue(queue) {
  if (!queue) return "";
  const count = (n) => n.toLocaleString("en");
  const letters = queue.deadCount === 1 ? "1 dead letter" : `${count(queue.deadCount)} dead letters`;
  const shown = queue.deadCount > queue.dead.length ? `, the newest ${queue.dead.length}:` : "";
  return `${count(queue.waiting)} waiting · ${count(queue.inFlight)} in flight · ${letters}${shown}`;
}

function drawLimit([model, share, words, waits]) {
  const bar = make("i", {});
  bar.style.width = `${100 * share}%`;
  return make("li", { class: share >= 1 || waits ? "is-waiting" : "is-running" }, make("b", {}, model), make("span", {}, words),
    make("span", { class: "longtask-level", "aria-hidden": "true" }, bar), ...(waits ? [make("span", {}, waits)] : []));
}

/** Ask on the button itself, for a while; the second click does it. */
export function askOnce(asking, question, act) {
  if (takeBack(asking)) return act();
  asking.dataset.label = asking.textContent;
  asking.textContent = question;
  asking.dataset.until = setTimeout(() => takeBack(asking), 5000);
}

/** Take back what a button asks, as when it was asked of something else; whether it did ask. */
export function takeBack(asking) {
  const { label, until } = asking.dataset;
  if (!label) return false;
  clearTimeout(Number(until));
  asking.textContent = label;
  delete asking.dataset.label;
  return true;
}
