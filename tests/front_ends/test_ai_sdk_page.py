"""`page.jsx`, the page that README shows, in Chromium: reloaded, opened twice, cut off."""

import asyncio
import importlib.util
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import Route

import longtask_kit as lt
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS
from tests.front_ends.conftest import FOLDER, RunNode
from tests.proxy import Proxy, proxy_to
from tests.serving import free_port, serve
from tests.wait import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.gate,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("default"),  # asyncio's own leftovers in the driver are not ours
    pytest.mark.skipif(
        not Path(CHROMIUM).exists() or importlib.util.find_spec("playwright") is None,
        reason="no chromium, or no playwright, on this machine",
    ),
]
_ESBUILD = ("--bundle", "--jsx=automatic", '--define:process.env.NODE_ENV="production"')
_WATCH = """
window.seen = [];
const look = () => {
  window.seen.push([...document.querySelectorAll('.assistant')].at(-1)?.textContent);
};
const changes = { subtree: true, childList: true, characterData: true };
new MutationObserver(look).observe(document, changes);
"""
OLD, NEW = (" ".join(f"{word}{n}" for n in range(30)) + " " for word in ("old", "new"))


class Model:
    """Says the texts in turn: the first attempt up to its middle, the next one to its end.

    Attributes:
        may_say: How many words of the latest attempt may be said.
    """

    def __init__(self) -> None:
        self.may_say = 0
        self.said = 0

    async def answer(self, context: lt.TaskContext) -> AsyncIterator[str]:
        """Say one word after the other, as far as the test lets it."""
        words = (OLD if context.attempt == 1 else NEW).split()
        self.said = 0
        for word in words:
            while self.may_say <= self.said:  # noqa: ASYNC110 - another thread changes it
                await asyncio.sleep(0.005)
            yield f"{word} "
            self.said += 1
            if context.attempt == 1 and self.said == 15:
                self.may_say = 0
                raise lt.RetryableError("broken", retry_after_s=0)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def entrance(node: RunNode, settings: lt.Settings, model: Model, tmp_path: Path) -> Iterator[Proxy]:
    """The way of pages to an app that has them beside its chats."""
    del node  # it has installed what the page is made of
    script = tmp_path / "page.js"
    subprocess.run(
        [FOLDER / "node_modules/.bin/esbuild", "page.jsx", *_ESBUILD, f"--outfile={script}"],
        cwd=FOLDER,
        check=True,
        capture_output=True,
    )
    config = '{ api: "/api/chat", chatId: "chat", body: { handler: "words" } }'
    html = f"<body></body><script>window.config = {config}</script><script src=page.js></script>"
    port = free_port()
    own = settings.model_copy(update={"base_url": f"http://127.0.0.1:{port}"})
    app = lt.create_app(own, front_ends=["ai_sdk"], handlers={"words": model.answer})
    app.router.routes += [
        Route("/", lambda _: HTMLResponse(html)),
        Route("/page.js", lambda _: FileResponse(script)),
    ]
    with serve(app, port=port) as url, proxy_to(url) as proxy:
        yield proxy


@pytest.fixture
def page() -> Iterator["Page"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, headless=True
        )
        context = chromium.new_context()
        context.add_init_script(_WATCH)
        yield context.new_page()
        chromium.close()


def read(page: "Page") -> str:
    """Return the answer as it is shown."""
    answers: Any = page.eval_on_selector_all(".assistant", "all => all.map(a => a.textContent)")
    return str(answers[-1]) if answers else ""


def test_a_page_with_usechat_survives_a_reload_a_second_tab_and_a_broken_network(
    page: "Page", entrance: Proxy, model: Model, kit: lt.Kit
) -> None:
    def wait_for_words(text: str, count: int, *, where: "Page" = page) -> None:
        shown = " ".join(text.split()[:count]) + " "
        where.wait_for_function(
            "text => [...document.querySelectorAll('.assistant')].at(-1)?.textContent === text",
            arg=shown,
        )

    page.goto(entrance.url)
    model.may_say = 5
    page.fill("input", "Count")
    page.click("text=Ask")
    wait_for_words(OLD, 5)
    page.reload()
    wait_for_words(OLD, 5)
    entrance.cut_all()
    model.may_say = 10
    wait_for_words(OLD, 10)
    tab = page.context.new_page()
    tab.goto(entrance.url)
    wait_for_words(OLD, 10, where=tab)
    model.may_say = 15
    wait_until(lambda: model.may_say == 0)
    model.may_say = 8
    for shown in (page, tab):
        wait_for_words(NEW, 8, where=shown)
    entrance.is_down = True
    entrance.cut_all()
    page.wait_for_selector("[data-status=error]")
    model.may_say = 30
    entrance.is_down = False
    for shown in (page, tab):
        wait_for_words(NEW, 30, where=shown)
        shown.wait_for_selector("[data-status=ready]")
        seen: list[str | None] = shown.evaluate("window.seen")
        assert all(OLD.startswith(t or "") or NEW.startswith(t or "") for t in seen), set(seen)
        assert shown.locator("p").count() == 2
    page.fill("input", "Count again")
    page.click("text=Ask")
    wait_until(lambda: model.said == 15)
    [task] = kit.tasks(limit=1)
    page.click("text=Stop")
    wait_until(lambda: task.status == "cancelled")
