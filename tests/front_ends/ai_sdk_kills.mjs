// Asks each prompt in a chat of its own, and asks again whatever happens, as a person does. Prints a
// line of JSON for each: what was shown, and how often the connection was lost.
import * as newest from 'ai';
import * as ai6 from 'ai6';
import { open } from './ai_sdk_chat.mjs';

const api = `${process.env.BASE_URL}/api/chat`;
const body = { model: 'demo', maxTokens: 1000 };
const kinds = [
  { sdk: newest, query: '?ai_sdk=7.0.70' },
  { sdk: ai6, query: '' },
  { sdk: newest, query: '' },
];

/** As a browser words it; a server that has been killed is the same to it. */
async function fetchAsInBrowsers(url, init) {
  const answer = await fetch(url, init);
  const reader = answer.body?.getReader();
  const pull = async (controller) => {
    try {
      const { value, done } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value);
    } catch {
      controller.error(new TypeError('network error'));
    }
  };
  const { status } = answer;
  return new Response(reader && new ReadableStream({ pull }), { status, headers: answer.headers });
}

for (const [number, prompt] of JSON.parse(process.argv[2]).entries()) {
  const { sdk, query } = kinds[number % kinds.length];
  const transport = new sdk.DefaultChatTransport({
    api: api + query,
    body,
    fetch: fetchAsInBrowsers,
    prepareReconnectToStreamRequest: ({ id }) => ({ api: `${api}/${id}/stream${query}` }),
  });
  const { chat, shown } = open(sdk, { id: `${Date.now()}-${number}`, transport });
  await chat.sendMessage({ text: prompt });
  let lost = 0;
  while (chat.messages.at(-1).metadata?.status !== 'completed') {
    lost += 1;
    if (chat.messages.at(-1).role === 'user') await chat.sendMessage(); // no answer has begun
    else await chat.resumeStream();
  }
  const texts = shown.filter((text, index) => text !== shown[index - 1]);
  console.log(JSON.stringify({ prompt, lost, texts }));
}
