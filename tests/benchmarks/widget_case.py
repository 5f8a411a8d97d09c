"""A 10,000-token answer on its way into a notebook: a real kernel's wire, and a real browser."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Row
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS, JupyterServer, Notebook
from tests.kernel_wire import (
    TOKENS,
    WiredKernel,
    count_bytes,
    find_peak,
    recite,
    submit_answer,
    write_answer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longtask_kit import Kit
    from tests.benchmarks.workbench import Workbench
    from tests.kernel_wire import Message

_SHOWN_3 = "for _ in range(3): display(task)\nawait task"
_OUTPUTS_3 = "outputs = [TaskOutput(task) for _ in range(3)]\nawait task"
_RATES = {0: "unlimited", 500: "500 tok/s", 50: "50 tok/s"}
_CELLS = """
import longtask_kit as lt
from longtask_kit.widgets import TaskOutput
kit = lt.connect(quiet=True)
output = TaskOutput()
output
"""


def measure_widget(bench: Workbench) -> list[Row]:
    """Bytes and messages of the live output, whole as ZMQ carries them, and the page's pauses.

    Bound by some 750 bytes of headers a message: at 50 tokens a second, which are shown as they
    come, they are most of it. Opening a widget (its JavaScript, 18 KB) and the static text at the
    end stand in rows of their own. The longest task is CPU of the page's main thread.
    """
    kit = bench.kit
    kit.serve(handlers={"recite": recite})
    kernel = WiredKernel(bench.stack.environment)
    try:
        rows = _measure_wire(bench, kit, kernel)
    finally:
        kernel.close()
    return rows + _measure_page(bench, kit)


def _measure_wire(bench: Workbench, kit: Kit, kernel: WiredKernel) -> list[Row]:
    rows: list[Row] = []
    for language, rate, what, cell in (
        ("en", 0, "", "display(task)\nawait task"),
        ("zh", 0, "", "display(task)\nawait task"),
        ("en", 500, "", "display(task)\nawait task"),
        ("zh", 500, "", "display(task)\nawait task"),
        ("en", 500, ", shown 3 times", _SHOWN_3),
        ("en", 500, ", 3 outputs", _OUTPUTS_3),
        ("en", 50, "", "display(task)\nawait task"),
        ("en", 50, ", 3 outputs", _OUTPUTS_3),
    ):
        # 10,000 tokens at 50 a second are minutes, and cost what 1,000 do, ten times.
        tokens = bench.scaled(1000 if rate == 50 else TOKENS, 500 if rate == 0 else 25)
        size = len("".join(write_answer(language, tokens)).encode())
        runs = [
            kernel.show(submit_answer(kit, language, rate, tokens), cell) for _ in range(bench.runs)
        ]
        name = f"{language}, {_RATES[rate]}{what}"
        # Outputs made one by one each carry the text; 1 task at 50 tok/s is never cheap.
        is_aimed = rate != 50 and cell != _OUTPUTS_3 and not bench.is_quick
        rows += _describe_wire(name, runs, size, aim=1.5 if is_aimed else None)
    return rows


def _describe_wire(
    name: str, runs: list[list[Message]], size_bytes: int, *, aim: float | None
) -> list[Row]:
    live = [count_bytes(run, "comm_msg") / size_bytes for run in runs]
    last = runs[-1]
    count = sum(message.type == "comm_msg" for message in last)
    opening, static = count_bytes(last, "comm_open"), count_bytes(last, "update_display_data")
    note = f"{count} messages, {count_bytes(last, 'comm_msg'):,} bytes; opened by {opening:,} bytes"
    note += f", saved as {static / size_bytes:.1f} x" if static else ""
    peaks = [find_peak(run) for run in runs]
    return [
        Row(
            benchmark="widget",
            what=f"{name}: wire / text",
            unit="x",
            values=live,
            aim=aim,
            note=note,
        ),
        Row(benchmark="widget", what=f"{name}: peak", unit="msg/s", values=peaks, aim=60),
    ]


def find_missing(benchmark: str) -> list[str]:
    """Return what a page needs and is not there, and say that it is left out."""
    missing = [] if Path(CHROMIUM).exists() else ["chromium"]
    missing += [n for n in ("jupyterlab", "playwright") if importlib.util.find_spec(n) is None]
    if missing:
        told = f"the page is left out, since there is no {', '.join(missing)}"
        sys.stderr.write(f"{benchmark}: {told}\n")
    return missing


def _measure_page(bench: Workbench, kit: Kit) -> list[Row]:
    with open_notebook(bench, "widget", _CELLS) as notebook:
        if notebook is None:
            return []
        notebook.run_all()
        return [_measure_tasks(bench, kit, notebook, language) for language in ("en", "zh")]


@contextlib.contextmanager
def open_notebook(bench: Workbench, name: str, *cells: str) -> Iterator[Notebook | None]:
    """Yield a notebook in JupyterLab; None, and the reason said, where that can't run."""
    if find_missing(name):
        yield None
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = JupyterServer(Path(folder), bench.stack.environment)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, headless=True
        )
        try:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            yield Notebook(server, page, f"{name}.ipynb", list(cells))
        finally:
            browser.close()
            server.stop()


def _measure_tasks(bench: Workbench, kit: Kit, notebook: Notebook, language: str) -> Row:
    longest = []
    rates = [0] if bench.is_quick else [0, 5000]
    for rate in rates * bench.runs:
        tokens = bench.scaled(TOKENS, 500)
        task_id = submit_answer(kit, language, rate, tokens)
        notebook.start_tracing()
        notebook.run_code(f"task = kit.attach({task_id!r}); output.watch(task); task.result()")
        notebook.page.wait_for_timeout(200)  # a draw: before it, the answer shown is the last one
        notebook.output(0).locator('.longtask-output[data-status="completed"]').wait_for()
        notebook.output(0).locator(".longtask-scroller.is-over").wait_for()
        longest.append(notebook.stop_tracing())
        shown = notebook.page.evaluate("document.querySelector('.longtask-text').textContent")
        assert shown == "".join(write_answer(language, tokens))
    return Row(
        benchmark="widget",
        what=f"{language}: longest task in the page",
        unit="ms",
        values=longest,
        aim=50,
        note=" and ".join(f"{rate} tok/s" if rate else "unlimited" for rate in rates),
    )
