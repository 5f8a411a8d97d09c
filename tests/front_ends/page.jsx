// A whole page: an answer survives a reload, a second tab, a network that breaks.
import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useEffect } from 'react';
import { createRoot } from 'react-dom/client';

const { api, chatId, body } = window.config; // '/api/chat', the chat's id, { model: … }
const transport = new DefaultChatTransport({ api, body });
const kept = JSON.parse(localStorage.getItem(chatId) ?? '[]');
const shown = (parts) => parts.slice(parts.map((part) => part.type).lastIndexOf('data-restart') + 1);

function Chat() {
  const { messages, sendMessage, status, stop, resumeStream } = useChat({
    id: chatId, messages: kept, transport, resume: true, // an answer that was under way
    onError: (error) => error instanceof TypeError && setTimeout(resumeStream, 500), // the network
  });
  const standing = messages.map((message) => ({ ...message, parts: shown(message.parts) }));
  useEffect(() => localStorage.setItem(chatId, JSON.stringify(standing)), [messages]);
  const end = () => { stop(); fetch(`${api}/${chatId}/stop`, { method: 'POST' }); };
  const ask = (form) => sendMessage({ text: form.get('text') });
  return <main data-status={status}>
    {standing.map(({ id, role, parts }) => <p key={id} className={role}>
      {parts.map((part) => part.type === 'text' && part.text)}
    </p>)}
    <form action={ask}><input name="text" /><button>Ask</button></form>
    <button onClick={end}>Stop</button>
  </main>;
}
createRoot(document.body).render(<Chat />);
