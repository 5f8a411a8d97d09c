// The official openai package for node: what its users write, against the app of `longtask up`.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
const cuts = Number(process.argv[2]);
const question = { model: 'demo@400', input: 'Explain tides' };

async function read(events, most = Infinity) {
  const seen = [];
  for await (const event of events) {
    seen.push(event);
    if (seen.length >= most) break; // which aborts the request
  }
  return seen;
}

// Background mode, polled.
let response = await client.responses.create({ ...question, background: true });
while (['queued', 'in_progress'].includes(response.status)) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  response = await client.responses.retrieve(response.id);
}
assert.equal(response.status, 'completed');

// Streamed, left, and continued behind the last number that was seen.
const whole = await read(await client.responses.retrieve(response.id, { stream: true }));
assert.equal(whole.at(-1).response.output[0].content[0].text, response.output_text);
for (let cut = 0; cut < cuts; cut++) {
  const seen = await read(
    await client.responses.retrieve(response.id, { stream: true }),
    1 + (cut % (whole.length - 1)),
  );
  const starting_after = seen.at(-1).sequence_number;
  const rest = await client.responses.retrieve(response.id, { stream: true, starting_after });
  assert.deepEqual([...seen, ...(await read(rest))], whole, `cut ${cut}`);
}

// Live: the first few events of a new response, then the rest.
const live = await read(await client.responses.create({ ...question, stream: true }), 9);
const { id } = live[0].response;
const starting_after = live.at(-1).sequence_number;
const rest = await read(await client.responses.retrieve(id, { stream: true, starting_after }));
const text = [...live, ...rest].map((event) => (event.delta ?? '')).join('');
assert.equal(text, (await client.responses.retrieve(id)).output_text);

// The helper, from the beginning and from a place.
for (const model of ['demo-reason@400', 'demo-tools', 'demo-refuse', 'demo-length']) {
  const stream = client.responses.stream({ ...question, model, background: true });
  const final = await stream.finalResponse();
  const again = client.responses.stream({ response_id: final.id, starting_after: 1 });
  assert.equal((await again.finalResponse()).output_text, final.output_text);
}

// A reader before whose eyes an attempt starts over; the poll gets the latest.
const prompt = `${question.input} ${Date.now()}`;
const cut = await read(
  await client.responses.create({ model: 'demo-cut-then-ok', input: prompt, stream: true }),
);
assert.equal(cut.at(-1).type, 'response.failed');

// Chat completions.
const messages = [{ role: 'user', content: 'Hi' }];
const chat = { model: 'demo-fast', messages };
const answer = (await client.chat.completions.create(chat)).choices[0].message.content;
assert.equal((await client.chat.completions.stream(chat).finalContent()), answer);
const broken = { model: 'demo-cut-then-ok', messages: [{ role: 'user', content: prompt + 'c' }] };
await assert.rejects(read(await client.chat.completions.create({ ...broken, stream: true })), /over/);

// Stop, forget, and what is refused.
const running = await client.responses.create({ ...question, model: 'demo', background: true });
assert.equal((await client.responses.cancel(running.id)).status, 'cancelled');
await client.responses.delete(running.id);
await assert.rejects(client.responses.retrieve(running.id), OpenAI.NotFoundError);
const headers = { 'Idempotency-Key': prompt };
const keyed = await client.responses.create(question, { headers });
assert.equal((await client.responses.create(question, { headers })).id, keyed.id);
await assert.rejects(
  client.responses.create({ ...question, input: 'else' }, { headers }),
  OpenAI.ConflictError,
);
await assert.rejects(
  client.responses.create({ ...question, tools: [{ type: 'web_search' }] }),
  OpenAI.BadRequestError,
);
console.log('ok');
