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
    from playwright.sync_api import Browser, Page


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
        (390, "dark"),
        *(
            pytest.param(*form, marks=pytest.mark.thorough)
            for form in [(390, "light"), (1400, "light"), (1400, "dark")]
        ),
    ],
)
@pytest.mark.thorough
def test_the_page_submits_streams_and_cancels(
    browser: "Browser", page_url: str, kit: lt.Kit, width: int, scheme: str
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    newest = kit.tasks(limit=1)[0].id
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]  # light or dark
    )
    page = context.new_page()
    page.set_default_timeout(40_000)
    asked: list[str] = []
    complaints = collect_complaints(page)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_url, wait_until="commit")
    if scheme == "dark":
        page.wait_for_url("**theme=dark", wait_until="commit")
    page.locator("#loading_text", has_text="Starting a Python kernel").wait_for()
    page.locator(".longtask-output").wait_for()
    page.locator(".longtask-panel textarea").first.fill("Explain tides")
    model = page.get_by_role("combobox", name="Model", exact=True)
    model.fill("demo-fast")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Submit").click()
    page.locator('.longtask-output[data-status="completed"]').wait_for()
    assert page.locator(".longtask-text").evaluate("e => e.textContent") == plain
    assert kit.tasks(limit=1)[0].id != newest, "it went to the services of the .env"
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(
        path=SHOTS / f"page-{width}-{scheme}.png", full_page=True, animations="disabled"
    )
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = sum(int(part) for part in re.findall(r"\d+", paper)[:3]) < 300
    assert is_dark == (scheme == "dark")
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "nothing to scroll sideways"
    model.fill("demo@5")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Submit").click()
    page.locator('.longtask-output[data-status="running"]').wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator('.longtask-output[data-status="cancelled"]').wait_for()
    away = [url for url in asked if not url.startswith((page_url, "data:", f"blob:{page_url}"))]
    assert asked
    assert away == [], "the page works without a network"
    assert complaints == []
    context.close()


@pytest.mark.thorough
def test_the_address_of_the_page_shares_a_task(
    browser: "Browser", page_url: str, kit: lt.Kit
) -> None:
    task = kit.submit("Explain tides", model="demo-fast", system="Be brief.")
    text = task.result(30)
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(40_000)
    complaints = collect_complaints(page)
    page.goto(f"{page_url}/?task={task.id}")
    page.wait_for_url("**theme=dark", wait_until="commit")
    page.locator('.longtask-output[data-status="completed"]').wait_for()
    assert page.locator(".longtask-text").evaluate("e => e.textContent") == text
    assert page.locator(".longtask-panel textarea").first.input_value() == "Explain tides"
    page.get_by_role("button", name="Run again").click()
    page.wait_for_function(f"!location.search.includes('{task.id}')")
    [newest] = kit.tasks(limit=1)
    assert f"task={newest.id}" in page.url
    assert complaints == []
    gone = "task_" + "0" * 22
    page.goto(f"{page_url}/?task={gone}")
    page.get_by_role("alert").get_by_text(gone).wait_for()
    context.close()


@pytest.mark.thorough
def test_the_dashboard_is_a_page_too(browser: "Browser", page_url: str, kit: lt.Kit) -> None:
    task = kit.submit("Explain a page of what happens", model="demo-fast", max_tokens=10)
    task.result(30)
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    page.set_default_timeout(40_000)
    complaints = collect_complaints(page)
    page.goto(f"{page_url}/?view=dashboard")
    page.locator(".longtask-row", has_text="Explain a page of what happens").click()
    page.locator('.longtask-output[data-status="completed"]').wait_for()
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "nothing to scroll sideways"
    assert complaints == []
    page.screenshot(path=SHOTS / "page-dashboard-390-light.png", animations="disabled")
    page.context.close()


def collect_complaints(page: "Page") -> list[str]:
    """Return a list that fills with the errors of a page and of its console."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    return found
