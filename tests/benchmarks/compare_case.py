"""Models side by side in a page: 4 x 25 answers in one widget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row
from tests.benchmarks.widget_case import open_notebook

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench
    from tests.browser.jupyter import Notebook

_CONNECT = "import longtask_kit as lt\nkit = lt.connect(quiet=True)"
_SCROLL = """async () => {
  const box = document.querySelector(".longtask-scroll");
  for (let y = 0; y < box.scrollHeight; y += 400) {
    box.scrollTop = y;
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
}"""


def measure_compare(bench: Workbench) -> list[Row]:
    """25 prompts of 4 models of 50 tokens a second, scrolled through while they stream.

    Bound by the page's layout of what is seen; what is not seen is neither followed nor drawn.
    """
    prompts, tokens = bench.scaled(25, 4), bench.scaled(200, 40)
    with open_notebook(bench, "compare", _CONNECT) as notebook:
        if notebook is None:
            return []
        notebook.run_all()
        longest, messages = [], []
        for run in range(bench.runs):
            longest_ms, rate = _measure_run(notebook, run, prompts=prompts, tokens=tokens)
            longest.append(longest_ms)
            messages.append(rate)
    what = f"4 x {prompts} answers of {tokens} tokens"
    return [
        Row(
            benchmark="compare",
            what=f"{what}: longest task in the page",
            unit="ms",
            values=longest,
            aim=50,
        ),
        Row(benchmark="compare", what=f"{what}: messages", unit="msg/s", values=messages, aim=5),
    ]


def _measure_run(notebook: Notebook, run: int, *, prompts: int, tokens: int) -> tuple[float, float]:
    """Return the page's longest task in ms, and the messages a second that reached it."""
    models = [f"demo@{50 + at}" for at in range(4)]
    notebook.page.evaluate(
        "source => window.jupyterapp.shell.currentWidget.context.model.cells.get(0)"
        ".sharedModel.setSource(source)",
        f"group = kit.compare([f'Explain tides {run}, {{i}}' for i in range({prompts})], {models}, "
        f"max_tokens={tokens}, parallelism=100)\ngroup",
    )
    notebook.comm_bytes.clear()
    notebook.start_tracing()
    began = time.perf_counter()
    notebook.run_cell(0)
    notebook.page.locator(".longtask-band").first.wait_for()
    notebook.page.evaluate(_SCROLL)
    state = notebook.output(0).locator(".longtask-compare.is-warn, .longtask-compare.is-good")
    state.first.wait_for(timeout=120_000)
    took_s = time.perf_counter() - began
    return notebook.stop_tracing(), len(notebook.comm_bytes) / took_s
