"""A group as a person sees and uses it: progress, table, a row's card beside it."""

from collections.abc import Callable
from typing import Any

import pytest

import longtask_kit as lt
from tests.browser.jupyter import SHOTS, Notebook
from tests.browser.test_panel import CONNECT

pytestmark = pytest.mark.gate

Open = Callable[..., Notebook]
VIEW = "application/vnd.jupyter.widget-view+json"
MAP = (
    "rows = [f'Explain tides to {i} people' for i in range(COUNT)]\n"
    "group = kit.map(rows, model=MODEL, max_tokens=12, prices=(0.15, 0.6), name=NAME)\ngroup"
)


def map_cell(count: int, *, model: str = "demo-fast", name: str) -> str:
    return f"COUNT, MODEL, NAME = {count}, {model!r}, {name!r}\n{MAP}"


def wait_for_word(notebook: Notebook, word: str, cell: int = 1, timeout_s: float = 60) -> None:
    state = notebook.output(cell).locator(".longtask-group .longtask-state", has_text=word)
    state.wait_for(timeout=timeout_s * 1000)


def shown_rows(notebook: Notebook, cell: int = 1) -> list[int]:
    numbers = notebook.output(cell).locator(".longtask-row:visible > td:first-child")
    return [int(number) for number in numbers.all_text_contents()]


def wait_for_rows(notebook: Notebook, condition: str) -> None:
    rows = "[...document.querySelectorAll('.longtask-row:not([hidden])')].map(r => r.cells)"
    notebook.page.wait_for_function(f"() => {{ const rows = {rows}; return {condition}; }}")


def scroll_through(notebook: Notebook, count: int) -> None:
    """Scroll a table of so many rows from its first to its last."""
    notebook.output(1).locator(".longtask-table").evaluate(
        "async t => { for (let y = 0; y < t.scrollHeight; y += 500) {"
        " t.scrollTop = y; await new Promise(requestAnimationFrame); } }"
    )
    wait_for_rows(notebook, f"rows.at(-1)[0].textContent === '{count - 1}'")


def test_many_rows_are_seen_sorted_found_and_opened(open_notebook: Open) -> None:
    count = 200
    notebook = open_notebook(CONNECT, map_cell(count, name=f"{count} rows"))
    notebook.run_all()
    wait_for_word(notebook, "done", timeout_s=100)
    scroll_through(notebook, count)
    output, last = notebook.output(1), f"textContent === '{count - 1}'"
    output.get_by_role("button", name="row", exact=True).click()
    wait_for_rows(notebook, f"rows[0][0].{last}")
    output.get_by_role("searchbox").fill("to 77 people")
    wait_for_rows(notebook, "rows.length === 1 && rows[0][0].textContent === '77'")
    output.locator(".longtask-row", has_text="to 77 people").click()
    beside = output.get_by_role("region", name="The chosen row")
    beside.get_by_role("heading", name="Tides to 77 people").wait_for()
    notebook.shoot(output, "group-open-light")
    notebook.page.keyboard.press("Escape")
    beside.wait_for(state="hidden")
    output.get_by_role("searchbox").fill("")
    wait_for_rows(notebook, f"rows[0][0].{last}")
    output.get_by_role("button", name="Copy as CSV").click()
    notebook.page.wait_for_function(
        f"navigator.clipboard.readText().then(t => t.split('\\n').length > {count})"
    )
    assert notebook.errors == []


CLICKED = (
    "group = kit.map(['bad', *[f'Slow {i}' for i in range(3)]], lambda row: {'prompt': row, "
    "'model': 'demo-bad-key' if row == 'bad' else 'demo@2'}, name='clicked')\ngroup"
)
BESIDE = "beside = kit.compare(['bad and slow'], ['demo-bad-key', 'demo@2'])\nbeside"


def test_failed_rows_are_retried_and_the_rest_is_cancelled_by_a_click(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT, CLICKED, BESIDE)
    notebook.run_all()
    for cell, name, rows in ((1, "group", 4), (2, "beside", 2)):
        output = notebook.output(cell)
        retry = output.get_by_role("button", name="Retry failed")
        retry.wait_for()
        if cell == 1:  # a comparison has no filters
            output.get_by_role("button", name="failed 1").click()
            wait_for_rows(notebook, "rows.length === 1")
            assert shown_rows(notebook) == [0]
            output.get_by_role("button", name="all 4").click()
            wait_for_rows(notebook, "rows.length === 4")
        retry.click()
        notebook.run_code(
            f"import asyncio\nwhile {name}.tasks[0].attempt < 2:\n    await asyncio.sleep(0.05)"
        )
        output.get_by_role("button", name="Cancel").click()
        state = output.locator(".longtask-state", has_text=f"{rows} failed").first
        state.wait_for(timeout=60_000)
        assert output.get_by_role("button", name="Cancel").is_hidden()
    assert notebook.errors == []


def test_the_table_is_walked_by_keys(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT, map_cell(60, name="keys"))
    notebook.run_all()
    wait_for_word(notebook, "done")
    rows = notebook.output(1).locator(".longtask-row")
    rows.first.focus()
    number = "() => document.activeElement.cells?.[0].textContent"
    for key, reached in (("ArrowDown", "1"), ("End", "59"), ("ArrowUp", "58"), ("Home", "0")):
        notebook.page.keyboard.press(key)
        notebook.page.wait_for_function(f"({number})() === {reached!r}")
    notebook.page.keyboard.press("Enter")
    beside = notebook.output(1).get_by_role("region", name="The chosen row")
    beside.get_by_role("heading", name="Tides to 0 people").wait_for()
    notebook.page.keyboard.press("Escape")
    beside.wait_for(state="hidden")
    assert notebook.page.evaluate(number) == "0"


def test_a_reload_shows_the_same_and_what_is_saved_needs_no_kernel(
    open_notebook: Open, kit: lt.Kit
) -> None:
    notebook = open_notebook(CONNECT, map_cell(30, name="kept"))
    notebook.run_all()
    wait_for_word(notebook, "done")
    [output] = [o for o in find_outputs(notebook.save()) if "text/html" in o["data"]]
    assert VIEW not in output["data"], "nobody without a kernel could draw it"
    plain = "".join(output["data"]["text/plain"])
    assert plain.startswith("kept: 30 rows, 30 done")
    notebook.reload()
    wait_for_word(notebook, "done")
    wait_for_rows(notebook, "rows.length === 30")
    notebook.restart()
    wait_for_rows(notebook, "rows.length === 30")
    notebook.wait_ready()
    group_id = next(group.id for group in kit.groups() if group.name == "kept")
    assert group_id in plain
    tab = notebook.open_stranger(notebook.save())
    saved = tab.locator(".longtask-saved-group", has_text="kept")
    saved.wait_for()
    saved.screenshot(path=SHOTS / "group-saved-light.png")
    assert notebook.errors == []


def find_outputs(document: dict[str, Any]) -> list[dict[str, Any]]:
    cells = document["cells"]
    return [o for cell in cells for o in cell.get("outputs", []) if "data" in o]


@pytest.mark.thorough
def test_nothing_is_read_for_a_page_that_is_not_seen(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT, map_cell(4, model="demo@1", name="unseen"), own_page=True)
    notebook.run_all()
    wait_for_word(notebook, "running")
    notebook.run_code("assert group._watch.is_running")
    notebook.page.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'hidden'});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    notebook.run_code(
        "import asyncio\nwhile group._watch.is_running:\n    await asyncio.sleep(0.05)"
    )
    notebook.run_code("group.cancel()")


@pytest.mark.thorough
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_every_width_is_readable(open_notebook: Open, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    rows = "['Explain <b>tides</b>', 'x'] + [f'Tides, {i}, {theme}' for i in range(40)]"
    notebook = open_notebook(
        CONNECT,
        f"theme = {theme!r}\ngroup = kit.map({rows}, lambda row: {{'prompt': row, 'model': "
        "'demo-bad-key' if row == 'x' else 'demo@90'}, parallelism=10, prices=(0.15, 0.6), "
        "name=f'axe {theme}')\ngroup",
    )
    notebook.set_theme(theme)
    notebook.run_all()
    wait_for_word(notebook, "running")
    notebook.page.wait_for_function("document.querySelectorAll('.longtask-row.is-done').length > 3")
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.shoot(notebook.output(1), f"group-running-{width}-{theme}")
    notebook.page.set_viewport_size({"width": 1400, "height": 900})
    wait_for_word(notebook, "failed")
    notebook.output(1).locator(".longtask-row").nth(3).click()
    notebook.output(1).locator(".longtask-beside .longtask-output").wait_for()
    found = Axe().run(notebook.page, context=".longtask-group").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.shoot(notebook.output(1), f"group-open-{width}-{theme}")
    assert notebook.errors == []
