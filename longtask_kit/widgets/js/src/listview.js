// What the views of a long table have alike, of a group's rows or of all tasks: its first window, what is
// asked of it, and the card beside it.

/** A view around `table`; `query` says which rows, and `draw(facts, isLost)` draws once something is known. */
export function createListView({ parts, table, query, state, send, draw }) {
  const view = {
    parts,
    takeWindow: table.take,
    draw() {
      if (!state.facts) return;
      if (!table.held && state.first) table.take(state.first);
      draw(state.facts, state.keeper.isLost);
    },
    /** What is held may be old. */
    catchUp() {
      view.draw();
      if (view.isSeen) table.askSeen(true);
    },
    /** Ask for other rows. */
    ask(changes) {
      Object.assign(query, changes);
      table.askAnew();
      view.draw();
    },
    /** Close the card. */
    close() {
      send({ t: "close" });
      table.focus();
      view.draw();
    },
  };
  table.redraw = view.draw;
  return view;
}
