// What keeps a live output of many tasks, or an x-ray, in its notebook: a static form beside its view,
// which the page writes in the view's place when the notebook is saved, and the view again where the
// kernel still lives.
import { describeKernel, watchKernel } from "./notebook.js";
import { joinPage } from "./page.js";

/**
 * Have `state.keeper` keep a model, and the two functions called with what comes of it; returns what
 * ends that. `cameBack` is called when the kernel is there again, or is not any more.
 */
export function keepLive(model, state, { takeState, takeMessage, cameBack }) {
  const take = (message) => {
    state.keeper.take(message);
    takeMessage(message);
  };
  state.keeper = createLiveKeeper(model, state, cameBack);
  model.on("change:snapshot", takeState);
  model.on("msg:custom", take);
  takeState();
  return () => {
    model.off("change:snapshot", takeState);
    model.off("msg:custom", take);
    state.keeper.stop();
  };
}

/** A keeper; `cameBack` is called when the kernel is there again, or is not any more. */
function createLiveKeeper(model, state, cameBack) {
  const manager = model.widget_manager;
  const { modelId, mayWrite } = model.get("snapshot")?.place ?? {};
  const keeper = { isLost: false, send, take, stop };
  let saved = null; // the static form, as the kernel last made it
  let isGone = false;

  function lose(how) {
    isGone ||= how === "gone";
    if (keeper.isLost) return;
    keeper.isLost = true;
    cameBack();
  }

  function send(message) {
    if (isGone) return;
    try {
      model.send(message);
    } catch {
      lose("gone"); // its comm has ended with the kernel
    }
  }

  function take(message) {
    if (message?.t === "saved") saved = message.data;
    if (!keeper.isLost) return;
    keeper.isLost = isGone = false;
    cameBack();
  }

  function look(kernel) {
    if (kernel === "gone" || kernel === "away") lose(kernel);
    else if (kernel === "there" && keeper.isLost && !isGone) {
      keeper.isLost = false;
      cameBack();
    }
  }

  const card = {
    get note() {
      return state.facts?.note ?? { groupId: state.facts?.groupId };
    },
    get isGone() {
      return isGone;
    },
    describe: (had) => state.facts && (saved ?? had),
    noteSaved() {},
  };
  const leave = joinPage(manager, modelId, card, mayWrite);
  const stopWatching = watchKernel(manager, look);
  lookAtComm().catch(() => {});

  /** A model that was restored from the file has no kernel that knows it. */
  async function lookAtComm() {
    const own = await manager?.get_model?.(modelId);
    if (own?.comm_live === false && describeKernel(manager) !== null) lose("gone");
  }

  function stop() {
    stopWatching();
    leave();
  }
  return keeper;
}
