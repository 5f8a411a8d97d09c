"""A task's x-ray as a person sees and uses it: the picture, the text of a moment, what is saved."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.jupyter import SHOTS, Notebook
from tests.browser.test_panel import CONNECT

pytestmark = pytest.mark.gate

Open = Callable[..., Notebook]
VIEW = "application/vnd.jupyter.widget-view+json"
# Breaks off after a third, and is tried again at once: nobody waits for the queue's 12 s.
BROKEN = """
import time
task = kit.submit("Explain tides", model="demo-cut-then-ok@60", max_tokens=90)
while task.status in ("pending", "running"):
    time.sleep(0.02)
time.sleep(1)
while task.status == "retrying" and not task._door.ask(lambda b: b.try_now(task.id)):
    time.sleep(0.05)
text = task.result(30)
task.xray()
"""
MOMENT = ".longtask-xray .longtask-moment"


def wait_for_word(notebook: Notebook, word: str) -> None:
    state = notebook.output(1).locator(".longtask-xray .longtask-state", has_text=word)
    state.wait_for(timeout=60_000)


def find_saved(notebook: Notebook) -> dict[str, Any]:
    """Save, and return the x-ray's output."""
    outputs = notebook.save()["cells"][1]["outputs"]
    [output] = [o for o in outputs if "text/html" in o.get("data", {})]
    found: dict[str, Any] = output
    return found


def test_any_moment_of_a_task_is_seen_by_mouse_and_by_keys(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT, BROKEN)
    notebook.run_all()
    wait_for_word(notebook, "stopped at max_tokens")
    xray = notebook.output(1).locator(".longtask-xray")
    picture = xray.locator(".longtask-picture")
    for words in ("queue", "attempt 1", "attempt 2", "✕", "90 tokens"):
        assert words in (picture.text_content() or "")
    stage = xray.get_by_role("slider", name="Moment")
    stage.press("End")
    said = xray.locator(".longtask-said")
    notebook.page.wait_for_function(
        f"document.querySelector('{MOMENT} .longtask-said').textContent.length > 100"
    )
    whole = said.text_content() or ""
    notebook.page.keyboard.press("Home")
    assert said.text_content() == ""
    assert "waiting in the queue" in xray.locator(".longtask-when").inner_text()
    # Along the edges: delivery, first token, streaming, the break, and the wait behind it.
    heard = []
    for _ in range(12):
        notebook.page.keyboard.press("PageUp")
        heard.append(xray.locator(".longtask-when").inner_text().split(": ")[-1])
    for words in ("attempt 1, streaming", "attempt 1, waiting for the next try"):
        assert words in heard
    assert said.text_content() == whole
    box = picture.bounding_box()
    assert box is not None
    notebook.page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + 60)
    shown = said.text_content() or ""
    assert 0 < len(shown) < len(whole)
    assert whole.startswith(shown), "what stood then is how the text begins"
    notebook.page.mouse.move(box["x"] + box["width"] * 2, box["y"] + 60)
    notebook.shoot(notebook.output(1), "xray-cursor-light")
    assert notebook.errors == []


def test_a_running_task_is_drawn_as_it_runs_and_stays_in_the_file(open_notebook: Open) -> None:
    live = 'task = kit.submit("Explain tides", model="demo-reason@60", max_tokens=120)\ntask.xray()'
    notebook = open_notebook(CONNECT, live)
    notebook.run_all()
    wait_for_word(notebook, "running")
    wait_for_word(notebook, "stopped at max_tokens")
    notebook.page.wait_for_function("document.querySelector('.longtask-xray .reasoning')")
    [output] = [
        o for o in notebook.save()["cells"][1]["outputs"] if "text/html" in o.get("data", {})
    ]
    assert VIEW not in output["data"], "nobody without a kernel could draw it"
    plain, html = ("".join(output["data"][name]) for name in ("text/plain", "text/html"))
    assert plain.startswith("stopped at max_tokens")
    assert "120 tokens" in plain
    assert "<svg" in html
    notebook.restart()
    notebook.reload()
    saved = notebook.output(1).locator(".longtask-saved-xray")
    saved.locator("text=attempt 1").wait_for()
    notebook.shoot(saved, "xray-saved-light")
    document = notebook.save()
    document["cells"][1]["source"] = "# changed by a stranger, so that no signature fits"
    tab = notebook.open_stranger(document)
    strange = tab.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").first
    strange.locator("text=attempt 1").first.wait_for()
    strange.screenshot(path=SHOTS / "xray-untrusted-light.png")
    assert notebook.errors == []


@pytest.mark.thorough
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_every_width_is_readable(open_notebook: Open, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    notebook = open_notebook(CONNECT, BROKEN)
    notebook.set_theme(theme)
    notebook.run_all()
    wait_for_word(notebook, "stopped at max_tokens")
    xray = notebook.output(1).locator(".longtask-xray")
    xray.get_by_role("slider", name="Moment").focus()
    for _ in range(20):
        notebook.page.keyboard.press("ArrowLeft")
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.shoot(notebook.output(1), f"xray-{width}-{theme}")
        wide = xray.evaluate("e => e.scrollWidth > e.clientWidth + 1")
        assert not wide, f"nothing is cut off at {width} px"
    found = Axe().run(notebook.page, context=".longtask-xray").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert notebook.errors == []


GROUP = (
    "rows = [f'Explain tides to {i} people' for i in range(12)]\n"
    "group = kit.map(rows, model='demo@60', max_tokens=60, parallelism=4, name='rays')\n"
    "group.xray()"
)


def test_a_group_shows_what_ran_at_once_and_what_waited(open_notebook: Open) -> None:
    from axe_playwright_python.sync_playwright import Axe

    notebook = open_notebook(CONNECT, GROUP)
    notebook.run_all()
    wait_for_word(notebook, "done")
    xray = notebook.output(1).locator(".longtask-xray")
    assert "at once: 4" in (xray.locator(".longtask-picture").text_content() or "")
    xray.get_by_role("slider", name="Moment").press("Home")
    when = xray.locator(".longtask-when")
    assert "in the queue" in when.inner_text()
    for _ in range(400):  # as far as it takes: on a busy machine they start one by one
        notebook.page.keyboard.press("ArrowRight")
        if "4 at work" in when.inner_text():
            break
    assert "4 at work" in when.inner_text()
    assert xray.locator(".longtask-said").is_hidden(), "many texts at once can't be read"
    for width, theme in ((1400, "light"), (390, "light"), (700, "dark"), (390, "dark")):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.set_theme(theme)
        notebook.shoot(notebook.output(1), f"xray-group-{width}-{theme}")
    found = Axe().run(notebook.page, context=".longtask-xray").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    [output] = [
        o for o in notebook.save()["cells"][1]["outputs"] if "text/html" in o.get("data", {})
    ]
    assert "".join(output["data"]["text/plain"]).startswith("done · 12 tasks")
    assert notebook.errors == []
