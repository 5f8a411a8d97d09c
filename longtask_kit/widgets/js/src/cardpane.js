// A chosen row's card, beside a table.

/** Draw the chosen row's card into its place, the same view while the card stays. */
export function createCardPane(model, place) {
  let shown = null;
  let turn = 0;
  return async () => {
    const mine = ++turn;
    const reference = model.get("card");
    shown?.remove();
    shown = null;
    place.replaceChildren();
    if (!reference || !model.widget_manager?.create_view) return;
    const card = await model.widget_manager.get_model(String(reference).replace("IPY_MODEL_", ""));
    const view = await model.widget_manager.create_view(card);
    if (mine !== turn) return view.remove();
    shown = view;
    place.replaceChildren(view.el);
  };
}
