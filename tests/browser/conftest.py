"""One JupyterLab and one Chromium a session, a fresh page a test; visibly skipped without them."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import longtask_kit as lt
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS, JupyterServer, Notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_MISSING = [
    *([] if Path(CHROMIUM).exists() else ["no chromium on this machine (apt install chromium)"]),
    *(f"no {name} (pip install -e '.[dev]')" for name in ("jupyterlab", "playwright", "voila")
      if importlib.util.find_spec(name) is None),
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(_is_browser_test, items):
        item.add_marker(pytest.mark.timeout(120))
        # asyncio's and tornado's own leftovers in the server and driver are not ours.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if _MISSING and "build" not in item.path.name:
            item.add_marker(pytest.mark.skip(reason=", ".join(_MISSING)))


def _is_browser_test(item: pytest.Item) -> bool:
    return "tests/browser/" in item.path.as_posix()


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


@pytest.fixture
def open_notebook(
    jupyter: JupyterServer, browser: "Browser", request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    contexts = []

    def open_one(*cells: str) -> Notebook:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(30_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        name = f"nb{len(contexts)}_{abs(hash(request.node.name)) % 10**8}.ipynb"
        return Notebook(jupyter, context.new_page(), name, list(cells))

    yield open_one
    for context in contexts:
        context.close()
    jupyter.end_sessions()
