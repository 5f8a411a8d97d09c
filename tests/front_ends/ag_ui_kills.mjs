// Runs each prompt, and runs it again by the same id whatever happens, as a page does. Prints a line
// of JSON for each: what was shown, and how often the connection was lost.
import { HttpAgent as Agent1 } from '@ag-ui/client';
import { HttpAgent as Agent0 } from '@ag-ui/client-0';

const url = `${process.env.BASE_URL}/api/agui`;
const forwardedProps = { model: 'demo', maxTokens: 1000 };
process.on('unhandledRejection', () => {}); // a broken body, once more, inside of the client
console.error = () => {};

const textOf = (messages) => messages.findLast((m) => m.role === 'assistant')?.content ?? '';

for (const [number, content] of JSON.parse(process.argv[2]).entries()) {
  const Agent = [Agent1, Agent0][number % 2];
  const agent = new Agent({ url, initialMessages: [{ id: 'q', role: 'user', content }] });
  const runId = `${Date.now()}-${number}`;
  const shown = [''];
  let lost = -1;
  let isOver = false;
  const watch = {
    onMessagesChanged: ({ messages }) => {
      if (textOf(messages) !== shown.at(-1)) shown.push(textOf(messages));
    },
    onRunFinishedEvent: () => void (isOver = true),
  };
  while (!isOver) {
    lost += 1;
    await agent.runAgent({ runId, forwardedProps }, watch).catch(() => {});
  }
  console.log(JSON.stringify({ prompt: content, lost, texts: shown.slice(1) }));
}
