// A page without a browser: the SDK's chat, and every text that it has shown.

/** Return what stands of an answer: where `ai` can't take text back, that behind the last mark. */
export function show(message) {
  const marks = message.parts.map((part) => part.type).lastIndexOf('data-restart');
  const parts = message.parts.slice(marks + 1);
  return parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
}

/** A page: a chat, and every text that it has shown. */
export function open(sdk, options) {
  const { messages: first = [], ...rest } = options;
  const shown = [];
  const state = {
    status: 'ready',
    error: undefined,
    messages: structuredClone(first),
    look() {
      const last = this.messages.at(-1);
      if (last?.role === 'assistant') shown.push(show(last));
    },
    pushMessage(message) {
      this.messages = [...this.messages, message];
      this.look();
    },
    popMessage() {
      this.messages = this.messages.slice(0, -1);
    },
    replaceMessage(index, message) {
      this.messages = this.messages.with(index, structuredClone(message));
      this.look();
    },
    snapshot: (value) => structuredClone(value),
  };
  class Chat extends sdk.AbstractChat {}
  const chat = new Chat({ state, ...rest });
  return { chat, shown };
}
