// The AI SDK's own chat, in each version of npm's `ai`: streams are cut after every chunk, as a
// network breaks them or as a server that ends too early does, and taken up again.
import assert from 'node:assert/strict';
import { WorkflowChatTransport } from '@ai-sdk/workflow/client';
import * as newest from 'ai';
import * as ai5 from 'ai5';
import * as ai6 from 'ai6';
import * as ai760 from 'ai7-60';
import { open } from './ai_sdk_chat.mjs';

const { BASE_URL, KEY } = process.env;
const api = `${BASE_URL}/api/chat`;
const headers = { Authorization: `Bearer ${KEY}` };
const stride = Number(process.argv[2]); // of the cuts

/** Return a `fetch` whose first answer is cut behind so many chunks. */
function cutting(count, kind) {
  let isCut = false;
  const cut = async (url, init) => {
    const answer = await fetch(url, init);
    if (isCut || !answer.ok) return answer;
    isCut = true;
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = '';
    let left = count;
    const body = new ReadableStream({
      async pull(controller) {
        while (!text.includes('\n\n')) {
          const { value, done } = await reader.read();
          if (done) return controller.close();
          text += decoder.decode(value, { stream: true });
        }
        if (left === 0) {
          cut.wasUsed = true;
          reader.cancel();
          // As Chromium words it: the SDK tells a broken network from others by that.
          if (kind === 'broken') return controller.error(new TypeError('network error'));
          return controller.close();
        }
        left -= 1;
        const end = text.indexOf('\n\n') + 2;
        controller.enqueue(new TextEncoder().encode(text.slice(0, end)));
        text = text.slice(end);
      },
    });
    return new Response(body, { status: answer.status, headers: answer.headers });
  };
  return cut;
}

const wholes = { old: 'ABCDEFGHIJKLM'.split(''), young: 'abcdefghijklm'.split('') };
const OLD = wholes.old.map((letter) => `${letter} `).join('');
const YOUNG = wholes.young.map((letter) => `${letter} `).join('');

function check(shown, where) {
  for (const text of shown) {
    assert(OLD.startsWith(text) || YOUNG.startsWith(text), `${where}: ${JSON.stringify(text)}`);
  }
  assert.equal(shown.at(-1), YOUNG, where);
}

let runs = 0;
let chats = 0;
const stamp = Date.now();

/** Ask, lose the connection behind so many chunks, and take the answer up; was it long enough? */
async function lose(version, count, kind, after) {
  const { sdk, query, isWorkflow } = version;
  const where = `${version.name}, ${kind} after ${count} chunks, ${after}`;
  const id = `${stamp}-${(chats += 1)}`;
  const fetch = cutting(count, kind);
  const make = (fetching) =>
    new sdk.DefaultChatTransport({
      api: api + query,
      headers,
      fetch: fetching,
      body: { handler: 'twice', ...version.body },
      prepareReconnectToStreamRequest: ({ api: url, id: chat, ...more }) => ({
        ...more,
        api: `${api}/${chat}/stream${query}`,
      }),
    });
  const makeWorkflow = () =>
    new WorkflowChatTransport({
      api,
      fetch,
      prepareSendMessagesRequest: ({ messages }) => ({
        api: api + query,
        headers,
        body: { id, messages, handler: 'twice' },
      }),
      prepareReconnectToStreamRequest: (asked) => ({ ...asked, headers }),
    });
  const transport = isWorkflow ? makeWorkflow() : make(fetch);
  const { chat, shown } = open(sdk, { id, transport });
  await chat.sendMessage({ text: where });
  runs += 1;
  if (isWorkflow) {
    check(shown, where);
    assert.equal(chat.status, 'ready', where);
    return fetch.wasUsed;
  }
  let page = { chat, shown };
  if (fetch.wasUsed && after !== 'same page') {
    const kept = chat.messages.filter(({ role }) => after === 'kept partial' || role === 'user');
    page = open(sdk, { id, transport: make(globalThis.fetch), messages: kept });
    page.shown.unshift(...shown);
  }
  if (fetch.wasUsed) await page.chat.resumeStream();
  check(page.shown, where);
  assert.equal(page.chat.messages.length, 2, where);
  assert.equal(page.chat.status, 'ready', where);
  const { id: message, metadata } = page.chat.messages[1];
  assert.equal(metadata.taskId, message, where);
  return fetch.wasUsed;
}

const versions = [
  { name: '7, reset', sdk: newest, query: '' },
  { name: 'workflow', sdk: newest, query: '', isWorkflow: true },
  { name: '7', sdk: newest, query: '?ai_sdk=' },
  { name: '7.0.60', sdk: ai760, query: '?ai_sdk=7.0.60' },
  { name: '6', sdk: ai6, query: '?ai_sdk=6' },
  { name: '5', sdk: ai5, query: '?ai_sdk=5.0.277' },
];
await Promise.all(
  versions.map(async (version, number) => {
    const kinds = version.isWorkflow ? ['same page'] : ['same page', 'kept partial', 'kept question'];
    let step = number;
    for (const after of kinds) {
      for (const kind of ['broken', 'clean']) {
        step += 1;
        for (let count = step % stride; await lose(version, count, kind, after); count += stride);
      }
    }
  }),
);

/** What else comes, and how it ends: the same to each version. */
async function live(version) {
  const { sdk, query, name } = version;
  const id = (what) => `${stamp} ${what} ${name}`;
  const start = async (handler, more = {}) => {
    const transport = new sdk.DefaultChatTransport({ api: api + query, headers, body: { handler } });
    const page = open(sdk, { id: id(handler), transport, ...more });
    await page.chat.sendMessage({ text: handler });
    return page;
  };
  const told = [];
  const finished = [];
  const { chat } = await start('everything', {
    onToolCall: () => assert.fail('a page was asked to run a tool'),
    sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls,
    onData: (part) => told.push(part),
    onFinish: (event) => finished.push(event.finishReason),
  });
  const { parts, metadata } = chat.messages[1];
  assert.equal(chat.messages.length, 2, 'and it was not asked again');
  const types = parts.map((part) => part.type);
  assert.deepEqual(types, ['step-start', 'reasoning', 'data-progress', 'text', 'dynamic-tool']);
  assert.equal(parts[1].text, 'Hm.');
  assert.deepEqual(parts[2].data, { done: 2, total: 2 });
  assert.deepEqual(parts[4].input, { city: 'Rome' });
  assert.equal(metadata.usage.totalTokens, 8);
  assert(told.some((part) => part.type === 'data-status' && part.data.status === 'running'));
  assert(finished.every((reason) => [undefined, 'tool-calls'].includes(reason)));

  const failed = await start('fails');
  assert.equal(failed.chat.status, 'error', name);
  assert.match(failed.chat.error.message, /on purpose/);

  const asking = new sdk.DefaultChatTransport({ api: api + query, headers, body: { handler: 'long' } });
  const { chat: stopped } = open(sdk, {
    id: id('long'),
    transport: asking,
    onData: ({ data }) =>
      data.status === 'running' &&
      fetch(`${api}/${encodeURIComponent(id('long'))}/stop`, { method: 'POST', headers }),
  });
  await stopped.sendMessage({ text: 'long' });
  assert.equal(stopped.status, 'ready', name);
  assert.equal(stopped.messages[1].metadata.status, 'cancelled', name);

  const plain = new sdk.DefaultChatTransport({ api, headers });
  const { chat: empty } = open(sdk, { id: `${stamp}-nothing`, transport: plain });
  await empty.resumeStream();
  assert.deepEqual([empty.status, empty.messages], ['ready', []]);
}
const standard = versions.filter((version) => !version.isWorkflow);
await Promise.all(standard.map(live));

// WorkflowChatTransport at the load of a page: from the beginning, from near the end, of nothing.
for (const initialStartIndex of [0, 3, -5]) {
  const transport = new WorkflowChatTransport({
    api,
    initialStartIndex,
    prepareReconnectToStreamRequest: (asked) => ({ ...asked, headers }),
  });
  const { chat, shown } = open(newest, { id: `${stamp}-1`, transport });
  await chat.resumeStream();
  check(shown, `from ${initialStartIndex}`);
  const { chat: empty } = open(newest, { id: `${stamp}-nothing`, transport });
  await empty.resumeStream();
  assert.deepEqual([empty.status, empty.messages], ['ready', []]);
}
console.log(`${runs} streams`);
