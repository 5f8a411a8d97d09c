"""The panel as a web page: `longtask app`, from a phone's width to a desk's."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import longtask_kit as lt
from tests.browser.jupyter import SHOTS, answers, find_children, find_running
from tests.serving import free_port
from tests.wait import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def page_url(stack: lt.LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a command that finds its services in the `.env` of its folder."""
    folder = tmp_path_factory.mktemp("app")
    lines = [f"{name}={value}\n" for name, value in stack.environment.items()]
    (folder / ".env").write_text("".join(lines))
    port = free_port()
    command = [sys.executable, "-m", "longtask_kit.cli", "app", "--no-browser", "--port", str(port)]
    serving = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/voila/static/"), timeout_s=60)
    yield url
    children = find_children(serving.pid)
    serving.terminate()
    serving.wait(20)
    assert find_running(children) == [], "no server is left"


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        *(
            pytest.param(*form, marks=pytest.mark.thorough)
            for form in [(360, "light"), (1280, "light"), (1280, "dark")]
        ),
    ],
)
@pytest.mark.thorough
def test_the_page_submits_streams_and_cancels(
    browser: "Browser", page_url: str, kit: lt.Kit, width: int, scheme: str
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    before = [task.id for task in kit.tasks(limit=1000)]
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]  # light or dark
    )
    page = context.new_page()
    page.set_default_timeout(40_000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_url)
    if scheme == "dark":
        page.wait_for_url("**theme=dark")
    page.locator(".longtask-output").wait_for()
    page.locator(".longtask-panel textarea").first.fill("Explain tides")
    page.locator(".longtask-panel input[type=text]").first.fill("demo-fast")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Submit").click()
    page.locator('.longtask-output[data-status="completed"]').wait_for()
    assert page.locator(".longtask-text").evaluate("e => e.textContent") == plain
    known = [task.id for task in kit.tasks(limit=1000)]
    assert len(known) == len(before) + 1, "it went to the services of the .env"
    page.wait_for_function("document.querySelector('.longtask-tail').hidden")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(
        path=SHOTS / f"page-{width}-{scheme}.png", full_page=True, animations="disabled"
    )
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(int(part) for part in re.findall(r"\d+", paper)[:3]) < 300
    assert is_dark == (scheme == "dark")
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "nothing to scroll sideways"
    page.locator(".longtask-panel input[type=text]").first.fill("demo@5")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Submit").click()
    page.locator('.longtask-output[data-status="running"]').wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator('.longtask-output[data-status="cancelled"]').wait_for()
    away = [url for url in asked if not url.startswith((page_url, "data:", f"blob:{page_url}"))]
    assert asked
    assert away == [], "the page works without a network"
    context.close()
