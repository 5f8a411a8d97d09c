// The official AG-UI client, both majors, verification on: what a page does, against `longtask up`.
import assert from 'node:assert/strict';
import { HttpAgent as Agent1 } from '@ag-ui/client';
import { HttpAgent as Agent0 } from '@ag-ui/client-0';

const CUT = 'cut by the test';
const most = Number(process.argv[2]);
const url = `${process.env.BASE_URL}/api/agui`;
const headers = { Authorization: `Bearer ${process.env.KEY}` };
const stamp = Date.now();
// A broken body is also rejected inside of the client, where nobody catches it.
process.on('unhandledRejection', (error) => assert.match(String(error?.cause ?? error), /cut/));
console.error = () => {}; // where the client tells of each cut
console.warn = (...said) => assert.fail(said.join(' '));

// A fetch whose body breaks, or ends cleanly, behind so many events.
const cutBehind = (count, isClean) => async (...request) => {
  const answer = await fetch(...request);
  if (!answer.ok) return answer;
  let seen = 0;
  const cut = new TransformStream({
    transform(bytes, body) {
      for (const frame of new TextDecoder().decode(bytes, { stream: true }).split(/(?<=\n\n)/)) {
        if (seen >= count) return isClean ? body.terminate() : body.error(new TypeError(CUT));
        body.enqueue(new TextEncoder().encode(frame));
        seen += frame.endsWith('\n\n');
      }
    },
  });
  return new Response(answer.body.pipeThrough(cut), answer);
};

class Page {
  constructor(Agent, { fetch, messages, thread = 'thread' }) {
    this.agent = new Agent({ url, headers, threadId: thread, initialMessages: messages });
    if (fetch) this.agent.fetch = fetch;
    this.texts = [];
    this.events = [];
    this.failure = null;
  }

  async run(runId, model, more = {}) {
    const note = ({ messages }) => this.texts.push(textOf(messages));
    const watch = {
      onEvent: ({ event }) => void this.events.push(event),
      onMessagesChanged: note,
      onRunErrorEvent: ({ event }) => void (this.failure = event),
    };
    const { tools = [], ...props } = more;
    const forwardedProps = { model, ...props };
    await this.agent.runAgent({ runId, tools, forwardedProps }, watch);
    return this;
  }

  get said() {
    return JSON.stringify(this.agent.messages.slice(1)); // behind the question
  }
}

const textOf = (messages) =>
  messages.filter((m) => m.role === 'assistant').map((m) => m.content ?? '').join('|');
const ask = (text) => [{ id: 'q', role: 'user', content: text }];
const kinds = (page) => page.events.map((event) => event.type);
const look = { name: 'look', description: 'Look.', parameters: { type: 'object' } };
const tools = [look];

let cuts = 0;
async function cutEverywhere(Agent, id, model, question, whole, more) {
  const count = whole.events.length;
  const step = Math.max(1, Math.floor(count / most));
  for (let at = 0; at < count; at += step) {
    for (const isClean of [false, true]) {
      const page = new Page(Agent, { fetch: cutBehind(at, isClean), messages: question });
      await page.run(id, model, more).catch((error) => assert.match(String(error), /cut/));
      page.agent.fetch = fetch;
      await page.run(id, model, more);
      assert.equal(page.said, whole.said, `${model} behind ${at}`);
      const text = textOf(whole.agent.messages);
      for (const shown of page.texts) assert(text.startsWith(shown), `${shown} is mixed`);
      cuts += 1;
    }
  }
}

const MODELS = [
  'demo@400', 'demo-reason@2000', 'demo-tools@2000', 'demo-json@2000', 'demo-refuse@2000',
  'demo-length', 'demo-429-then-ok@2000', 'demo-cut-then-ok@2000', 'demo-500@2000',
  'demo-cut@2000', 'demo-bad-key@2000', 'demo-slow-start@2000',
];

async function tryModel(name, Agent, model) {
  const id = `${name} ${model} ${stamp}`;
  const question = ask(`Explain tides ${id}`);
  const more = model.startsWith('demo-tools') ? { tools } : { maxTokens: 90 };
  const live = await new Page(Agent, { messages: question }).run(id, model, more);
  const text = textOf(live.agent.messages);
  for (const shown of live.texts) assert(text.startsWith(shown), `${shown} is mixed`);
  const isFailure = /-(500|cut|bad-key)@/.test(model);
  assert.equal(live.failure !== null, isFailure, model);
  assert.equal(kinds(live).at(-1), isFailure ? 'RUN_ERROR' : 'RUN_FINISHED');
  const again = await new Page(Agent, { messages: question }).run(id, model, more);
  assert.equal(again.said, live.said, `${model} twice`);
  if (!isFailure) assert(again.events.at(-1).usage[0].outputTokens > 0, 'tokens are counted');
  await cutEverywhere(Agent, id, model, question, again, more);
}

async function tryClient(name, Agent) {
  await Promise.all(MODELS.map((model) => tryModel(name, Agent, model)));

  // An attempt that starts over before the page's eyes.
  const restarted = new Page(Agent, { messages: ask(`Restart ${name} ${stamp}`) });
  await restarted.run(`restart ${name} ${stamp}`, 'demo-cut-then-ok@100');
  assert(kinds(restarted).includes('MESSAGES_SNAPSHOT'));

  // Cut while it is said, in one page that asks again and again.
  for (const at of [3, 9, 20]) {
    const id = `live ${name} ${at} ${stamp}`;
    const page = new Page(Agent, { fetch: cutBehind(at, false), messages: ask(id) });
    await page.run(id, 'demo@400').catch((error) => assert.match(String(error), /cut/));
    page.agent.fetch = cutBehind(2 * at, true);
    await page.run(id, 'demo@400');
    page.agent.fetch = fetch;
    await page.run(id, 'demo@400');
    const whole = await new Page(Agent, { messages: ask(id) }).run(id, 'demo@400');
    assert.equal(page.said, whole.said);
    for (const shown of page.texts) assert(textOf(whole.agent.messages).startsWith(shown));
  }

  // A tool of the page, its answer, and the conversation that goes on.
  const chat = new Page(Agent, { messages: ask(`Look ${name} ${stamp}`) });
  await chat.run(`tool ${name} ${stamp}`, 'demo-tools@2000', { tools });
  const [call] = chat.agent.messages.at(-1).toolCalls;
  assert.equal(call.function.name, 'look');
  chat.agent.messages.push({ id: 't', role: 'tool', toolCallId: call.id, content: 'a river' });
  await chat.run(`then ${name} ${stamp}`, 'demo-tools@2000', { tools });
  assert.match(chat.agent.messages.at(-1).content, /river/);
  const image = { type: 'image', source: { type: 'url', value: 'https://example.org/a.png' } };
  const parts = [{ type: 'text', text: 'And this?' }, image];
  chat.agent.messages.push({ id: 'q2', role: 'user', content: parts });
  await chat.run(`image ${name} ${stamp}`, 'demo-fast');
  assert.equal(chat.agent.messages.length, 6);

  // A stop: the run finishes, with what it said.
  const id = `stop ${name} ${stamp}`;
  const stopped = new Page(Agent, { messages: ask(id) });
  const running = stopped.run(id, 'demo');
  while (!stopped.texts.at(-1)) await new Promise((resolve) => setTimeout(resolve, 5));
  const body = JSON.stringify({ runId: id });
  const json = { 'Content-Type': 'application/json', ...headers };
  const answer = await fetch(`${url}/stop`, { method: 'POST', headers: json, body });
  assert.equal(answer.status, 200);
  await running;
  const outcome = name === '1.0' ? { type: 'cancelled' } : undefined;
  assert.deepEqual(stopped.events.at(-1).outcome, outcome);
  assert(kinds(stopped).includes('CUSTOM'));

  // The same id, another question.
  const other = new Page(Agent, { messages: ask('something else') });
  await assert.rejects(other.run(id, 'demo'), /409.*used before/);
}
await Promise.all([tryClient('1.0', Agent1), tryClient('0.0.58', Agent0)]);
console.log(`ok ${cuts}`);
