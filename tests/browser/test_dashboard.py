"""The dashboard as a person sees and uses it: tasks, groups, a card, what the queue gave up."""

import re
from collections.abc import Callable

import pytest

import longtask_kit as lt
from tests.browser.jupyter import SHOTS, Notebook
from tests.browser.test_panel import CONNECT
from tests.wait import wait_until

pytestmark = pytest.mark.gate

Open = Callable[..., Notebook]
SHOW = "board = kit.dashboard()\nboard"


def fill(kit: lt.Kit, name: str) -> tuple[lt.TaskGroup, lt.Task, lt.Task]:
    """Have a group, a task that failed, and one whose prompt is markup."""
    rows = [f"Explain tides to {i} people, {name}" for i in range(6)]
    group = kit.map(rows, model="demo-fast", max_tokens=20, rpm=600, prices=(0.15, 0.6), name=name)
    group.results(60)
    failed = kit.submit(f"Nobody answers {name}", model="demo-bad-key")
    wait_until(lambda: failed.status == "failed")
    markup = kit.submit(f"<img src=x onerror=alert(1)> {name}", model="demo-fast", max_tokens=30)
    markup.result(60)
    return group, failed, markup


def count_rows(notebook: Notebook, condition: str) -> None:
    rows = "[...document.querySelectorAll('.longtask-row:not([hidden])')]"
    notebook.page.wait_for_function(f"() => {{ const rows = {rows}; return {condition}; }}")


def test_tasks_and_groups_are_sought_opened_retried_and_deleted(
    open_notebook: Open, kit: lt.Kit
) -> None:
    group, failed, markup = fill(kit, "clicked")
    notebook = open_notebook(CONNECT, SHOW)
    notebook.run_all()
    board, page = notebook.output(1).locator(".longtask-dashboard"), notebook.page
    newest = board.locator(".longtask-row:visible").first
    newest.get_by_text("<img src=x onerror=alert(1)> clicked").wait_for()
    board.get_by_text("QStash", exact=True).wait_for()
    notebook.shoot(board, "dashboard-click-light")

    newest.click()
    beside = board.get_by_role("region", name="The chosen task")
    beside.locator('.longtask-output[data-status="completed"]').wait_for()
    beside.get_by_role("button", name="Delete").click()
    beside.get_by_role("button", name="Delete for good?").wait_for()
    board.locator(".longtask-row:not(.is-many):visible").nth(1).click()
    beside.get_by_role("button", name="Delete", exact=True).wait_for(timeout=4000)
    newest.click()
    board.locator("[aria-selected=true]", has_text="alert(1)> clicked").wait_for()
    beside.get_by_role("button", name="Delete").click()
    beside.get_by_role("button", name="Delete for good?").click()
    beside.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.closest('.longtask-table') !== null")
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(markup.id)
    count_rows(notebook, "!rows.some(r => r.textContent.includes('alert(1)> clicked'))")

    board.locator(".longtask-row:visible", has_text="clicked · 6 rows").click()
    count_rows(notebook, "rows.length === 6")
    notebook.shoot(board, "dashboard-group-light")
    page.keyboard.press("Escape")
    board.locator(".longtask-row:visible", has_text="clicked · 6 rows").wait_for()

    board.get_by_role("searchbox").fill(failed.id)
    count_rows(notebook, "rows.length === 1")
    letters = board.locator(".longtask-letters li", has_text="401")
    letters.first.wait_for()
    attempt, first = kit.attach(failed.id).attempt, "document.querySelector('.longtask-letters li')"
    letter_id = f"{first}?.querySelector('button').dataset.name"
    before = page.evaluate(letter_id)
    letters.first.get_by_role("button", name="Retry").click()
    wait_until(lambda: kit.attach(failed.id).attempt == attempt + 1, timeout_s=30)
    count_rows(notebook, "rows[0].querySelector('td.is-try').textContent === '2'")

    page.wait_for_function(f"before => ({letter_id} ?? before) !== before", arg=before)
    board.get_by_role("searchbox").fill("")
    letters.first.get_by_role("button", name="Show").click()
    count_rows(notebook, "rows.length === 1")
    assert board.get_by_role("searchbox").input_value() == failed.id
    again = page.evaluate(letter_id)
    letters.first.get_by_role("button", name="Delete").click()
    letters.first.get_by_role("button", name="Delete for good?").click()
    page.wait_for_function(f"again => {letter_id} !== again", arg=again)
    assert kit.attach(failed.id).status == "failed", "its task stays"

    slow = kit.map([f"Slow {i}" for i in range(4)], model="demo@2", name="opened")
    board.get_by_role("searchbox").fill("")
    board.locator(".longtask-row:visible", has_text="opened · 4 rows").click()
    opened = board.get_by_role("group", name="The opened group")
    opened.get_by_role("button", name="Cancel").click()
    count_rows(notebook, "rows.length === 4 && rows.every(r => r.className.includes('is-failed'))")
    retry = opened.get_by_role("button", name="Retry failed")
    retry.press("Enter")
    count_rows(notebook, "rows.some(r => r.className.includes('is-running'))")
    retry.wait_for(state="hidden")
    page.keyboard.press("Escape")  # the keys go on though their button has gone
    beside.wait_for(state="hidden")
    page.keyboard.press("Escape")
    opened.wait_for(state="hidden")
    slow.cancel()
    board.get_by_role("searchbox").fill("")
    board.get_by_role("button", name="failed").click()
    count_rows(notebook, "rows.every(r => r.className.includes('is-failed'))")
    submitted = kit.submit("Explain news", model="demo-fast", max_tokens=5)
    board.get_by_role("button", name=re.compile("^all")).click()
    board.locator(".longtask-row:visible", has_text="Explain news").wait_for()
    submitted.result(30)
    assert group.id not in board.inner_text()
    assert notebook.errors == []


def test_the_keys_walk_the_rows_and_what_is_saved_needs_no_kernel(
    open_notebook: Open, kit: lt.Kit
) -> None:
    fill(kit, "walked")
    notebook = open_notebook(CONNECT, SHOW)
    notebook.run_all()
    rows = notebook.output(1).locator(".longtask-row:visible")
    rows.first.focus()
    number = "() => document.activeElement.getAttribute('aria-rowindex')"
    for key, reached in (("ArrowDown", "3"), ("ArrowUp", "2")):
        notebook.page.keyboard.press(key)
        notebook.page.wait_for_function(f"({number})() === {reached!r}")
    notebook.page.keyboard.press("Enter")
    beside = notebook.output(1).get_by_role("region", name="The chosen task")
    beside.locator(".longtask-output").wait_for()
    notebook.page.keyboard.press("Escape")
    beside.wait_for(state="hidden")
    notebook.page.wait_for_function(f"({number})() === '2'")
    saved = notebook.save()
    [output] = [o for c in saved["cells"] for o in c["outputs"] if "text/html" in o.get("data", {})]
    assert "".join(output["data"]["text/plain"]).startswith("dashboard: ")
    tab = notebook.open_stranger(saved)
    kept = tab.locator(".longtask-saved-dashboard", has_text="walked · 6 rows")
    kept.wait_for()
    kept.screenshot(path=SHOTS / "dashboard-saved-light.png")
    assert notebook.errors == []


@pytest.mark.thorough
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_every_width_is_readable(
    open_notebook: Open, kit: lt.Kit, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    fill(kit, f"axe {theme}")
    slow = kit.map(
        [f"Slow tides {i} {theme}" for i in range(8)], model="demo@3", rpm=60, name="slow"
    )
    notebook = open_notebook(CONNECT, SHOW)
    notebook.set_theme(theme)
    notebook.run_all()
    board = notebook.output(1).locator(".longtask-dashboard")
    board.locator(".longtask-row.is-running").first.wait_for()
    board.locator(".longtask-limits li").first.wait_for()
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 1000})
        notebook.shoot(board, f"dashboard-{width}-{theme}")
    notebook.page.set_viewport_size({"width": 1400, "height": 1000})
    board.locator(".longtask-row:not(.is-many)").first.click()
    board.locator(".longtask-beside .longtask-output").wait_for()
    found = Axe().run(notebook.page, context=".longtask-dashboard").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 1000})
        notebook.shoot(board, f"dashboard-open-{width}-{theme}")
    slow.cancel()
    assert notebook.errors == []


@pytest.mark.thorough
def test_nothing_is_read_for_a_page_that_is_not_seen(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT, SHOW, own_page=True)
    notebook.run_all()
    notebook.output(1).locator(".longtask-dashboard").wait_for()
    running = "import asyncio\nwhile board._watch.is_running is {}:\n    await asyncio.sleep(0.05)"
    notebook.run_code(running.format(False))
    notebook.page.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'hidden'});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    notebook.run_code(running.format(True))
