// The notebook around a widget: JupyterLab's and Notebook 7's widget manager has its document as
// `context`. That is public there, but not promised to widgets: every step is guarded, and null or
// nothing means that a page can't be written, or its kernel not be seen, here.

export const VIEW = "application/vnd.jupyter.widget-view+json";
const GONE = new Set(["restarting", "autorestarting", "terminating", "dead"]);

/** The document of a manager, or null. */
export function findDocument(manager) {
  const context = manager?.context;
  if (!context || context.isDisposed) return null;
  return context.model?.cells && context.saveState ? context : null;
}

/** Every output of a document that shows something: its list, its place in it, what it holds. */
export function* walkOutputs(context) {
  const { cells } = context.model;
  for (let at = 0; at < cells.length; at += 1) {
    const { type, outputs } = cells.get(at);
    if (type !== "code") continue;
    for (let index = 0; index < outputs.length; index += 1) {
      const { data, metadata } = outputs.get(index);
      yield { outputs, index, data, modelId: data?.[VIEW]?.model_id, noted: metadata?.longtask };
    }
  }
}

/** Replace an output for good. Quietly: another page writes the file, this one only shows it. */
export function replaceOutput(context, { outputs, index }, bundle, isQuiet) {
  const wasDirty = context.model.dirty;
  outputs.set(index, { output_type: "display_data", ...bundle });
  if (isQuiet) context.model.dirty = wasDirty;
}

/** Call `look` now and whenever the kernel's state may have changed; returns what ends that. */
export function watchKernel(manager, look) {
  const { statusChanged, kernelChanged, connectionStatusChanged } = manager?.context?.sessionContext ?? {};
  const signals = [statusChanged, kernelChanged, connectionStatusChanged].filter((signal) => signal?.connect);
  const told = (_, change) => {
    const isOther = change?.oldValue?.id && change.oldValue.id !== change.newValue?.id;
    look(isOther ? "gone" : describeKernel(manager));
  };
  for (const signal of signals) signal.connect(told);
  told();
  return () => signals.forEach((signal) => signal.disconnect?.(told));
}

/** "there", "away" (it may come back), "gone" (with all it knew), or null: it can't be seen. */
export function describeKernel(manager) {
  const session = manager?.context?.sessionContext;
  if (!session || session.session === undefined) return null;
  const kernel = session.session?.kernel;
  if (!kernel) return session.isReady === false ? null : "gone";
  if (GONE.has(kernel.status)) return "gone";
  if (!kernel.connectionStatus) return null;
  return kernel.connectionStatus === "connected" ? "there" : "away";
}

/** Have `change` look at what is written whenever the document is saved; once a document. */
export function watchSaves(context, change, saved) {
  const { model } = context;
  const write = model.toJSON;
  model.toJSON = function toJSON() {
    const content = write.call(this);
    try {
      change(content);
    } catch (error) {
      console.error("longtask_kit: the notebook is saved as it is", error);
    }
    return content;
  };
  context.saveState.connect((_, state) => state === "completed" && saved());
}
