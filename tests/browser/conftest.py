"""One JupyterLab and one Chromium a session, a fresh page a test; visibly skipped without them."""

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import longtask_kit as lt
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS, DESCRIBE, JupyterServer, Notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_MISSING = [
    *([] if Path(CHROMIUM).exists() else ["no chromium on this machine (apt install chromium)"]),
    *(f"no {name} (pip install -e '.[dev]')"
      for name in ("jupyterlab", "notebook", "playwright", "voila")
      if importlib.util.find_spec(name) is None),
]  # fmt: skip

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(_is_browser_test, items):
        item.add_marker(pytest.mark.timeout(120))
        # asyncio's and tornado's own leftovers in the server and driver are not ours.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if _MISSING and "build" not in item.path.name:
            item.add_marker(pytest.mark.skip(reason=", ".join(_MISSING)))


def _is_browser_test(item: pytest.Item) -> bool:
    return "tests/browser/" in item.path.as_posix()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what rounds have measured: how long pages took to tell that their kernel is gone."""
    taken_ms: dict[str, list[float]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "loss" and report.when == "call":
                taken_ms.setdefault(value[0], []).append(value[1])
    if terminalreporter.config.getoption("--rounds") > 1 and taken_ms:
        terminalreporter.write_sep("=", "from the kernel's loss to the card that says so")
        for what, all_ms in taken_ms.items():
            most, count = max(all_ms), len(all_ms)
            terminalreporter.write_line(f"{what}: at most {most:.0f} ms, {count} times")


@pytest.fixture(scope="session")
def jupyter(
    stack: lt.LocalStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterServer]:
    environment = stack.environment | {"LONGTASK_HOME": os.environ["LONGTASK_HOME"]}
    server = JupyterServer(tmp_path_factory.mktemp("jupyter"), environment)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, headless=True
        )
        yield launched
        launched.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, and tell in what state it leaves its pages."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    if report.failed and call.when == "call" and isinstance(item, pytest.Function):
        browser = cast("Browser | None", item.funcargs.get("browser"))
        contexts = browser.contexts if browser else []
        for number, page in enumerate(page for c in contexts for page in c.pages):
            report.sections.append((f"page {number}", _describe(page)))
    return report


def _describe(page: "Page") -> str:
    """Return what explains why a page did not do what a test waited for."""
    try:
        return json.dumps(page.evaluate(DESCRIBE), indent=1, ensure_ascii=False)
    except Exception as exc:  # noqa: BLE001 - a page that crashed may not hide the failure
        return f"can't be described: {exc!r}"


@pytest.fixture(scope="session")
def kept() -> list["Page"]:
    """The page with JupyterLab in it that the next test may have, if there is one."""
    return []


@pytest.fixture
def open_notebook(
    jupyter: JupyterServer, browser: "Browser", kept: list["Page"], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    names = (f"nb{n}_{abs(hash(request.node.name)) % 10**8}.ipynb" for n in itertools.count())
    plain: list[Notebook] = []

    def open_one(
        *cells: str, front_end: str = "/doc/tree", url: str = "", own_page: bool = False
    ) -> Notebook:
        """Open it where the test before had its own, unless the page itself is the subject."""
        is_plain = (front_end, url, own_page) == ("/doc/tree", "", False)
        page = kept.pop() if is_plain and kept else _open_page(browser)
        page.set_viewport_size({"width": 1280, "height": 900})
        notebook = Notebook(jupyter, page, next(names), list(cells), front_end, url)
        if is_plain:
            plain.append(notebook)
        return notebook

    yield open_one
    left = next((notebook for notebook in plain if not notebook.page.is_closed()), None)
    if left is not None and not request.node.stash[_FAILED]:
        left.leave()
        kept[:] = [left.page]
    for page in [page for context in browser.contexts for page in context.pages]:
        if page not in kept:
            page.close()
    for context in browser.contexts:
        if not context.pages:
            context.close()
    jupyter.end_sessions()


def _open_page(browser: "Browser") -> "Page":
    context = browser.new_context()
    context.set_default_timeout(30_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    return context.new_page()
