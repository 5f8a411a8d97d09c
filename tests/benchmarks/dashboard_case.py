"""A thousand tasks in the dashboard: what following them costs, and the page's pauses."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from longtask_kit import Kit, connect
from longtask_kit.client.overview_watch import OverviewWatch
from tests.benchmarks.map_case import counting
from tests.benchmarks.measure import Row
from tests.benchmarks.widget_case import find_missing
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS, JupyterServer, Notebook

if TYPE_CHECKING:
    from tests.benchmarks.workbench import Workbench

_SETTLED_S = 20.0  # until the burst of the first look is paid off
_CELL = "import longtask_kit as lt\nlt.connect(quiet=True).dashboard()"
_SCROLL = """async t => {
  for (let y = 0; y < t.scrollHeight; y += 400) {
    t.scrollTop = y;
    await new Promise(requestAnimationFrame);
  }
}"""


def measure_dashboard(bench: Workbench) -> list[Row]:
    """Commands of one who follows while tasks run; the page's longest task while it is scrolled.

    Bound by the two commands a second that a view may cost, and by fifty rows drawn at once.
    """
    rows = bench.scaled(1000, 60)
    with contextlib.redirect_stdout(io.StringIO()):  # what `map` says
        asked = [f"Row {number} of a dashboard" for number in range(rows)]
        bench.kit.map(asked, model="demo-fast", max_tokens=2, parallelism=50).results(300)
        found = [_measure_commands(bench, bench.kit)]
    return [*found, *_measure_page(bench, rows)]


def _measure_commands(bench: Workbench, kit: Kit) -> Row:
    """Of one who follows what runs and what arrives, which another process has queued."""
    kit.map([f"Followed {n} {time.time()}" for n in range(40)], model="demo@20", parallelism=4)
    counted: list[str] = []
    watch = OverviewWatch(kit._door)
    watch.hold("bench")
    if not bench.is_quick:
        time.sleep(_SETTLED_S)
    url, key = (bench.stack.environment[f"LONGTASK_{name}"] for name in ("BASE_URL", "API_KEY"))
    with counting(counted), connect(url, api_key=key, quiet=True) as arriving:
        began = time.perf_counter()
        for number in range(bench.scaled(20, 2)):
            arriving.submit(f"Arrival {number}", model="demo-fast", max_tokens=2)
            time.sleep(1.0)
        rate = len(counted) / (time.perf_counter() - began)
    watch.release("bench")
    kit.groups(limit=1)[0].cancel()
    aim = None if bench.is_quick else 2.2
    return Row(
        benchmark="dashboard", what="commands a second", unit="commands", values=[rate], aim=aim
    )


def _measure_page(bench: Workbench, rows: int) -> list[Row]:
    """Show them, one a row, and scroll through; no row where no browser is."""
    if find_missing("dashboard"):
        return []
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = JupyterServer(Path(folder), bench.stack.environment)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, headless=True
        )
        try:
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            notebook = Notebook(server, page, "dashboard.ipynb", [_CELL])
            notebook.run_all()
            board = notebook.output(0).locator(".longtask-dashboard")
            board.get_by_text("QStash", exact=True).wait_for()
            longest = [_scroll(notebook, rows) for _ in range(bench.runs)]
        finally:
            browser.close()
            server.stop()
    what = f"{rows:,} tasks: longest task in the page"
    return [Row(benchmark="dashboard", what=what, unit="ms", values=longest, aim=50)]


def _scroll(notebook: Notebook, rows: int) -> float:
    board = notebook.output(0).locator(".longtask-dashboard")
    notebook.start_tracing()
    board.get_by_role("button", name="done").click()
    # The newest thousand: those that were followed are among them.
    count = f"document.querySelector('.longtask-dashboard table').ariaRowCount > {rows // 3}"
    notebook.page.wait_for_function(count)
    board.locator(".longtask-table").evaluate(_SCROLL)
    notebook.page.wait_for_timeout(500)  # what is asked for last is drawn
    board.get_by_role("button", name="done").click()
    return notebook.stop_tracing()
