// npm's resumable-stream as a contestant: same lines in and out as contestants.py.
// Reads the model with fetch, which costs it less than an SDK would.
import { createInterface } from "node:readline";
import { createClient } from "redis";
import { createResumableStreamContext } from "resumable-stream/redis";

const address = process.env.BENCH_REDIS_URL;
const options = address.startsWith("unix://")
  ? { socket: { path: address.slice("unix://".length) } }
  : { url: address };
const [publisher, subscriber] = [createClient(options), createClient(options)];
await Promise.all([publisher.connect(), subscriber.connect()]);
const context = createResumableStreamContext({ waitUntil: null, publisher, subscriber });

async function* readModel(prompt, model) {
  const response = await fetch(`${process.env.OPENAI_BASE_URL}/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model, messages: [{ role: "user", content: prompt }], stream: true }),
  });
  let rest = "";
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const text = JSON.parse(line.slice("data: ".length)).choices[0].delta.content;
      if (text) yield text;
    }
  }
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const task = JSON.parse(line);
  context
    .createNewResumableStream(task.id, () => ReadableStream.from(readModel(task.id, task.model)))
    .then(async (stream) => {
      console.log(task.id);
      for await (const _ of stream);
    });
}
