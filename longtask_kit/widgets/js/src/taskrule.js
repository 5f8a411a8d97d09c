// GFM's task lists: `- [x] done`, as text that a screen reader reads.

const BOX = /^\[([ xX])\]\s+(?=\S)/;

/** The markdown-it plugin. */
export function taskRule(md) {
  md.core.ruler.after("inline", "task", ({ tokens, Token }) => {
    for (let at = 2; at < tokens.length; at += 1) {
      if (tokens[at].type === "inline" && tokens[at - 2].type === "list_item_open") markTask(tokens[at], tokens[at - 2], Token);
    }
  });
  md.renderer.rules.task = (tokens, index) => {
    const isDone = tokens[index].markup !== " ";
    return `<span class="longtask-check" role="img" aria-label="${isDone ? "done" : "to do"}">${isDone ? "☑" : "☐"}</span> `;
  };
}

function markTask(inline, item, Token) {
  const [first] = inline.children;
  const box = first?.type === "text" && BOX.exec(first.content);
  if (!box) return;
  first.content = first.content.slice(box[0].length);
  const check = new Token("task", "", 0);
  check.markup = box[1];
  inline.children.unshift(check);
  item.attrJoin("class", "longtask-task");
}
