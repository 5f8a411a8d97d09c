"""What is much in the page, an answer of 10,000 tokens, a table of 1,000 rows: light, readable."""

import math
from collections.abc import Callable

import pytest

import longtask_kit as lt
from tests.browser.jupyter import Notebook
from tests.browser.test_group import map_cell, scroll_through, wait_for_word
from tests.browser.test_panel import CONNECT, Open, text_of, wait_until_rendered
from tests.kernel_wire import recite, submit_answer, write_answer

pytestmark = pytest.mark.thorough


@pytest.fixture
def serving(kit: lt.Kit) -> lt.Kit:
    """A kit whose handler recites a long answer, outside of the kernel."""
    kit.serve(handlers={"recite": recite})
    return kit


def open_output(open_notebook: Open) -> Notebook:
    """Open a notebook whose second cell shows an empty output."""
    form = "from longtask_kit.widgets import TaskOutput\noutput = TaskOutput()\noutput"
    notebook = open_notebook(CONNECT, form)
    notebook.run_all()
    notebook.output(1).locator(".longtask-output").wait_for()
    return notebook


def check_longest_task(watch: Callable[[int], float]) -> None:
    """Check that the page had no task over 50 ms.

    In one of five: on a shared machine a pause may be somebody else's, a lasting one is ours.
    """
    longest: list[float] = []
    while len(longest) < 5 and min(longest, default=math.inf) > 50:
        longest.append(watch(len(longest)))
    assert min(longest) <= 50, f"CPU of the longest task in the page, in ms: {longest}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_ten_thousand_tokens_stay_light(
    open_notebook: Open, serving: lt.Kit, language: str
) -> None:
    notebook = open_output(open_notebook)
    check_longest_task(lambda _: watch_ten_thousand_tokens(notebook, serving, language))
    rows = notebook.output(1).locator(".longtask-rendered tr")
    assert rows.count() > 150, "the long table is one"
    assert notebook.output(1).locator(".longtask-rendered pre code").count() == 2


def watch_ten_thousand_tokens(notebook: Notebook, kit: lt.Kit, language: str) -> float:
    """Stream a long answer, check its messages, and return the page's longest task, in ms."""
    text = "".join(write_answer(language))
    notebook.comm_bytes.clear()
    notebook.start_tracing()
    task_id = submit_answer(kit, language, 0)
    notebook.run_code(f"task = kit.attach({task_id!r}); output.watch(task); task.result()")
    notebook.page.wait_for_timeout(200)  # a draw: before it, the answer shown is the last one
    wait_until_rendered(notebook)
    longest_ms = notebook.stop_tracing()
    assert text_of(notebook) == text
    # The markdown library is sent once a page, and is no part of the answer.
    updates = [size for size in notebook.comm_bytes if size < 90_000]
    assert updates
    assert sum(updates) <= 1.5 * len(text.encode())
    return longest_ms


def test_a_thousand_rows_stay_light(open_notebook: Open) -> None:
    check_longest_task(lambda run: watch_a_thousand_rows(open_notebook, run))


def watch_a_thousand_rows(open_notebook: Open, run: int) -> float:
    """Run and scroll through a group, and return the page's longest task, in ms."""
    cell = map_cell(1000, name=f"1000 rows {run}").replace("name=NAME", "name=NAME, reuse=False")
    notebook = open_notebook(CONNECT, cell)
    notebook.run_all()
    notebook.page.wait_for_function(
        "parseFloat(document.querySelector('.longtask-shares .is-done')?.style.width) > 10"
    )
    notebook.start_tracing()  # JupyterLab's own work after a cell is over
    wait_for_word(notebook, "done", timeout_s=100)
    scroll_through(notebook, 1000)
    longest_ms = notebook.stop_tracing()
    assert notebook.errors == []
    notebook.page.close()
    return longest_ms


WATCH_THE_READER = """() => {
  const blocks = document.querySelector(".longtask-rendered");
  const scroller = document.querySelector(".longtask-scroller");
  window.kept = [...blocks.children].slice(0, 10);
  window.areKept = () => window.kept.every((block) => block.isConnected);
  window.look = () => {
    const { left, top } = scroller.getBoundingClientRect();
    const seen = document.elementFromPoint(left + 40, top + 120);
    const before = seen.getBoundingClientRect().top;
    window.movedPx = () => seen.getBoundingClientRect().top - before;
  };
  window.belowPx = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
}"""


def test_a_long_answer_can_be_read_while_it_streams(open_notebook: Open, serving: lt.Kit) -> None:
    notebook = open_output(open_notebook)
    page = notebook.page
    notebook.run_code(f"output.watch(kit.attach({submit_answer(serving, 'en', 500, 5000)!r}))")
    blocks = notebook.output(1).locator(".longtask-rendered > *")
    blocks.nth(10).wait_for(state="attached")
    page.evaluate(WATCH_THE_READER)
    blocks.nth(40).wait_for(state="attached")
    assert page.evaluate("window.belowPx()") < 40, "the newest text is in sight"
    scroller = notebook.output(1).locator(".longtask-scroller")
    scroller.hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function("window.belowPx() > 200")
    page.evaluate("window.look()")
    blocks.nth(80).wait_for(state="attached")
    assert abs(page.evaluate("window.movedPx()")) < 5, "a reader is left alone"
    notebook.output(1).get_by_role("button", name="Jump to latest").click()
    blocks.nth(100).wait_for(state="attached")
    assert page.evaluate("window.belowPx()") < 40
    wait_until_rendered(notebook)
    assert page.evaluate("window.areKept()"), "a block that was drawn stays"
