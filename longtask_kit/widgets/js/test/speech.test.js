import assert from "node:assert/strict";
import test from "node:test";
import { createSpeech, takeSentences, takeSpeech } from "../src/speech.js";

const text = "One. Two.";

test("a text that grows is spoken by whole sentences, each once", () => {
  const speech = createSpeech(0);
  const meta = { status: "running", elapsedMs: 1000 };
  assert.equal(takeSpeech(speech, { text: "", meta }, 500), "");
  assert.equal(takeSpeech(speech, { text: "One. Tw", meta }, 1000), "One.");
  assert.equal(takeSpeech(speech, { text, meta: { status: "completed", elapsedMs: 90_000 } }, 90_000), "Two.");
  assert.equal(takeSpeech(speech, { text, meta: { status: "completed" } }, 92_000), "");
});

test("an ended task shown afresh says only that it ended", () => {
  for (const meta of [{ elapsedMs: 30_000 }, { elapsedMs: 40, isReplay: true }]) {
    const speech = createSpeech(0);
    const ended = { text, meta: { status: "completed", tokens: 4, ...meta } };
    assert.equal(takeSpeech(speech, ended, 1500), "completed, 4 tokens");
    assert.equal(takeSpeech(speech, ended, 3500), "");
  }
});

test("what a handler gave is counted in pieces", () => {
  const ended = { text, meta: { status: "completed", tokens: 2, unit: "piece", isReplay: true } };
  assert.equal(takeSpeech(createSpeech(0), ended, 1500), "completed, 2 pieces");
});

test("a running task shown afresh is spoken from here on", () => {
  const speech = createSpeech(0);
  const meta = { status: "running", elapsedMs: 30_000 };
  assert.equal(takeSpeech(speech, { text, meta }, 1500), "");
  assert.equal(takeSpeech(speech, { text: `${text} Three.`, meta }, 3500), "Three.");
});

test("a short live answer, and a later attempt's, are spoken whole", () => {
  for (const meta of [{ elapsedMs: 40 }, { elapsedMs: 61_000, attemptBeganMs: 60_000 }]) {
    assert.equal(takeSpeech(createSpeech(0), { text, meta: { status: "completed", ...meta } }, 1500), text);
  }
});

test("sentences of any script end", () => {
  const first = takeSentences("One. Two and a ha", 0);
  assert.deepEqual(first, { spoken: "One.", end: 4 });
  assert.equal(takeSentences("一句话。下一", 0).spoken, "一句话。");
});
