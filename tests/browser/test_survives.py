"""Whatever happens to page or kernel, a task's cell names it, and ends with its text.

Each once; `--rounds=20` does each so often, and says how long a page took to tell of a loss: the
aims are 2 s where it sees the kernel's state, else 10 s with the ping. A task's second half waits
until the test lets it go.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import nbformat
import pytest
from nbconvert import HTMLExporter

import longtask_kit as lt
from longtask_kit.widgets.saved import read_style
from tests.browser.jupyter import SHOTS, JupyterServer, Notebook, answers
from tests.browser.test_panel import CONNECT
from tests.proxy import Proxy
from tests.serving import free_port
from tests.wait import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

Open = Callable[..., Notebook]
PROMPT = "Explain <b>tides</b> & ebbs"
FIRST = "## Tides\n\nThe Moon <b>pulls</b> at the sea. "
REST = "So does the Sun, at **half** its strength.\n\n- springs\n- neaps\n"
LAB = pytest.param("/doc/tree", id="lab")
NOTEBOOK_7 = pytest.param("/notebooks", id="notebook7", marks=pytest.mark.thorough)
both = pytest.mark.parametrize("front_end", [LAB, NOTEBOOK_7])
VIEW = "application/vnd.jupyter.widget-view+json"
# When this page could see that the kernel is gone, and when its card said so.
WATCH_THE_LOSS = """() => {
  const { sessionContext } = window.jupyterapp.shell.currentWidget;
  const at = (window.lossAt = {});
  const note = (who) => { at[who] ??= performance.now(); };
  const isGone = /restarting|terminating|dead/;
  sessionContext.statusChanged.connect((_, status) => isGone.test(status) && note("kernel"));
  sessionContext.kernelChanged.connect((_, { newValue }) => newValue ?? note("kernel"));
  sessionContext.connectionStatusChanged.connect((_, to) => to === "connected" || note("kernel"));
  const card = document.querySelector(".longtask-output");
  new MutationObserver(() => note("card")).observe(card, { attributeFilter: ["data-status"] });
}"""
ARE_CLOSED = """
import asyncio
from ipywidgets.widgets.widget import _instances
while any(type(widget).__name__ == "TaskOutput" for widget in _instances.values()):
    await asyncio.sleep(0.05)
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test as often as `--rounds` says."""
    if (rounds := metafunc.config.option.rounds) > 1:
        metafunc.fixturenames.append("round_number")
        metafunc.parametrize("round_number", range(1, rounds + 1))


class Held:
    """A task whose first half is out, until `go()`."""

    def __init__(self, kit: lt.Kit, release: threading.Event, *, again: str = "") -> None:
        # Whoever asks the same again, if it may be, names it by that.
        named = {"again": again} if again else None
        self.task = kit.submit(PROMPT, handler="held", reuse=bool(again), metadata=named)
        self.go = release.set
        self.cell = f"task = kit.attach({self.task.id!r})\ntask"


@pytest.fixture
def hold(kit: lt.Kit) -> Iterator[Callable[..., Held]]:
    release = threading.Event()

    async def held(context: lt.TaskContext) -> AsyncIterator[str]:
        yield FIRST
        await asyncio.to_thread(release.wait)
        yield REST

    kit.serve(handlers={"held": held})
    yield partial(Held, kit, release)
    release.set()


def show(open_notebook: Open, held: Held, front_end: str = "/doc/tree", *cells: str) -> Notebook:
    """Open a notebook whose second cell shows the first half."""
    notebook = open_notebook(
        f"{CONNECT}\nimport os\nprint(os.getpid())", held.cell, *cells, front_end=front_end
    )
    for number in (0, 1):
        notebook.run_cell(number)
    wait_for_half(notebook.page)
    notebook.page.evaluate(WATCH_THE_LOSS)
    return notebook


def wait_for_half(page: "Page") -> None:
    page.locator('.longtask-output[data-status="running"]').wait_for()
    page.wait_for_function("document.querySelector('.longtask-text').textContent.length > 30")


def wait_for_end(notebook: Notebook, cell: int = 1) -> None:
    """Wait until the static form stands where the card was, and only there."""
    output = notebook.output(cell)
    output.locator("li", has_text="neaps").wait_for()
    output.locator(".longtask-output").wait_for(state="detached")
    assert output.locator("h2", has_text="Tides").count() == 1


def find_output(document: dict[str, Any], cell: int = 1) -> dict[str, Any]:
    [output] = [o for o in document["cells"][cell]["outputs"] if o["output_type"] != "stream"]
    data: dict[str, Any] = {
        name: "".join(lines) if isinstance(lines, list) else lines
        for name, lines in output["data"].items()
    }
    return data


def check_end(document: dict[str, Any], held: Held, cell: int = 1) -> None:
    data = find_output(document, cell)
    assert set(data) == {"text/plain", "text/html"}
    assert data["text/plain"].rstrip() == (FIRST + REST).rstrip()
    assert "<li>neaps</li>" in data["text/html"]
    [output] = document["cells"][cell]["outputs"]
    assert output["metadata"]["longtask"] == {"taskId": held.task.id, "status": "completed"}
    assert "widgets" not in document["metadata"], "no state of a widget that is not shown"


def check_half(document: dict[str, Any], held: Held, status: str, cell: int = 1) -> None:
    data = find_output(document, cell)
    for form in (data["text/plain"], data["text/html"]):
        assert held.task.id in form
        assert status in form
        assert "pulls" in form
        assert "neaps" not in form
    assert FIRST.strip() in data["text/plain"]
    assert "<b>pulls" not in data["text/html"], "the page's own rendering is text"
    assert "<b>tides" not in data["text/html"]
    assert "tides" in data["text/html"], "the prompt"


@both
@pytest.mark.parametrize(
    "how",
    [
        "reloaded",
        pytest.param("closed and opened", marks=pytest.mark.thorough),
        pytest.param("in a second browser", marks=pytest.mark.thorough),
    ],
)
def test_a_page_that_comes_back_mid_stream_ends_with_the_text_in_its_cell(
    open_notebook: Open, hold: Callable[[], Held], browser: "Browser", front_end: str, how: str
) -> None:
    held = hold()
    notebook = show(open_notebook, held, front_end)
    notebook.save()
    if how == "reloaded":
        notebook.page.reload()
        notebook.wait_ready()
    elif how == "closed and opened":
        notebook.open_again(notebook.page.context.new_page())
    else:
        notebook.open_again(browser.new_context().new_page())
    wait_for_half(notebook.page)
    held.go()
    wait_for_end(notebook)
    check_end(notebook.save(), held)
    # Notebook 7 has some of its own when it starts.
    assert (notebook.errors if front_end == "/doc/tree" else notebook.own_errors) == []


def end_kernel(notebook: Notebook, how: str) -> None:
    if how == "restarted":
        notebook.restart()
    elif how == "killed":
        os.kill(int(notebook.output(0).inner_text()), signal.SIGKILL)
    else:
        kernel = "window.jupyterapp.shell.currentWidget.sessionContext"
        notebook.page.evaluate(f"() => {kernel}.shutdown()")


@pytest.fixture
def check_disconnected(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[[Notebook, Held], None]:
    """A function that waits for a card to say that its kernel is gone.

    It waits for as long as a busy machine takes; how long the page took is noted for `--rounds`.
    """

    def check(notebook: Notebook, held: Held) -> None:
        card = notebook.output(1).locator('.longtask-output[data-status="disconnected"]')
        card.wait_for()
        taken_ms = notebook.page.evaluate("window.lossAt.card - window.lossAt.kernel")
        record_property("loss", (request.node.originalname, taken_ms))
        check_keeps(notebook, held, card)

    return check


def check_keeps(notebook: Notebook, held: Held, card: "Locator") -> None:
    """Check that a disconnected card has what it had, and its clock stands."""
    assert "disconnected" in card.inner_text()
    assert "pulls" in card.inner_text()
    assert f'kit.attach("{held.task.id}")' in card.inner_text()
    before = card.locator(".longtask-head").inner_text()
    notebook.page.wait_for_timeout(1200)
    assert card.locator(".longtask-head").inner_text() == before, "its clock stands"


@both
@pytest.mark.parametrize(
    "how",
    [
        pytest.param("restarted", marks=pytest.mark.gate),
        "killed",
        pytest.param("shut down", marks=pytest.mark.thorough),
    ],
)
def test_a_card_whose_kernel_is_gone_says_so_and_is_filled_where_its_task_goes_on(
    open_notebook: Open,
    hold: Callable[[], Held],
    check_disconnected: Callable[[Notebook, Held], None],
    front_end: str,
    how: str,
) -> None:
    held = hold()
    notebook = show(open_notebook, held, front_end, held.cell)
    end_kernel(notebook, how)
    check_disconnected(notebook, held)
    notebook.shoot(notebook.output(1), f"disconnected-{how.replace(' ', '-')}-light")
    document = notebook.save()
    check_half(document, held, "disconnected")
    assert VIEW not in find_output(document)
    if how == "shut down":
        return
    notebook.wait_ready()
    for number in (0, 2):
        notebook.run_cell(number)
    notebook.output(2).locator('.longtask-output[data-status="running"]').wait_for()
    held.go()
    for cell in (1, 2):
        wait_for_end(notebook, cell)
    document = notebook.save()
    for cell in (1, 2):
        check_end(document, held, cell)


@pytest.mark.gate
def test_a_saved_card_of_a_lost_kernel_is_filled_after_a_reload_too(
    open_notebook: Open,
    hold: Callable[[], Held],
    check_disconnected: Callable[[Notebook, Held], None],
) -> None:
    held = hold()
    notebook = show(open_notebook, held, "/doc/tree", held.cell)
    notebook.restart()
    check_disconnected(notebook, held)
    notebook.reload()
    assert held.task.id in notebook.output(1).inner_text()
    for number in (0, 2):
        notebook.run_cell(number)
    held.go()
    for cell in (1, 2):
        wait_for_end(notebook, cell)
    check_end(notebook.save(), held)


@pytest.mark.gate
@both
def test_a_lost_connection_is_said_and_mended(
    open_notebook: Open,
    hold: Callable[[], Held],
    check_disconnected: Callable[[Notebook, Held], None],
    jupyter: JupyterServer,
    front_end: str,
) -> None:
    held = hold()
    proxy = Proxy(jupyter.url)
    notebook = show(partial(open_notebook, url=proxy.url), held, front_end)
    proxy.is_down = True
    proxy.cut_all()
    check_disconnected(notebook, held)
    proxy.is_down = False
    # JupyterLab waits up to half a minute between two tries; a person does not.
    notebook.start_command("notebook:reconnect-to-kernel")
    wait_for_half(notebook.page)
    held.go()
    wait_for_end(notebook)
    check_end(notebook.save(), held)
    proxy.close()


FIRST_FAILS = """
async def moody(context):
    if context.attempt == 1:
        raise lt.NonRetryableError("not today")
    yield "# Today\\n\\nit works"
app = kit.serve(handlers={"moody": moody})
"""
SUBMIT_MOODY = "task = kit.submit('x', handler='moody')\ntask"


def find_retry(notebook: Notebook) -> Any:  # noqa: ANN401 - playwright's
    failed = notebook.output(1).locator('.longtask-output[data-status="failed"]')
    return failed.get_by_role("button", name="Retry", exact=True)


@pytest.mark.gate
@both
def test_a_failed_card_keeps_its_button_and_is_saved_static(
    open_notebook: Open, front_end: str
) -> None:
    waits = "try:\n    await task\nexcept lt.TaskFailedError:\n    pass"
    notebook = open_notebook(
        CONNECT + FIRST_FAILS, SUBMIT_MOODY, waits, "task", front_end=front_end
    )
    for number in (0, 1, 2):
        notebook.run_cell(number)
    find_retry(notebook).wait_for()
    data = find_output(notebook.save())
    assert set(data) == {"text/plain", "text/html"}
    for form in data.values():
        assert "not today" in form
    notebook.page.reload()
    notebook.wait_ready()
    find_retry(notebook).wait_for()
    notebook.run_cell(3)
    notebook.output(3).get_by_role("button", name="Retry", exact=True).wait_for()
    find_retry(notebook).click()
    for cell in (1, 3):
        notebook.output(cell).locator("h1", has_text="Today").wait_for()
        notebook.output(cell).locator(".longtask-output").wait_for(state="detached")
    document = notebook.save()
    for cell in (1, 3):
        assert find_output(document, cell)["text/plain"].strip() == "# Today\n\nit works"
        assert set(find_output(document, cell)) == {"text/plain", "text/html"}


@pytest.mark.thorough
def test_a_failed_card_without_its_kernel_has_no_button(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT + FIRST_FAILS, SUBMIT_MOODY)
    notebook.run_all()
    find_retry(notebook).wait_for()
    notebook.restart()
    notebook.output(1).locator(".longtask-output").wait_for(state="detached")
    assert "not today" in notebook.output(1).inner_text()
    assert set(find_output(notebook.save())) == {"text/plain", "text/html"}


@pytest.mark.gate
@both
def test_what_is_saved_mid_stream_is_read_without_a_kernel(
    open_notebook: Open, hold: Callable[[], Held], jupyter: JupyterServer, front_end: str
) -> None:
    held = hold()
    notebook = show(open_notebook, held, front_end)
    document = notebook.save()
    check_half(document, held, "streaming")
    assert find_output(document)["text/html"].count(read_style()) == 1
    assert "widgets" not in document["metadata"]
    assert VIEW not in find_output(document), "what can't be drawn is not tried"
    page = HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(document), 4))[0]
    for text in (held.task.id, "pulls", "streaming", "tides"):
        assert text in page, "as nbviewer shows it"
    stranger = json.loads(json.dumps(document))
    stranger["cells"][1]["source"] = "# changed by a stranger, so that no signature fits"
    jupyter.end_sessions()
    for tab in (notebook.open_stranger(stranger), notebook.page):
        if tab is notebook.page:
            notebook.page.reload()
            notebook.wait_ready()
        shown = tab.locator(".jp-OutputArea", has_text="pulls").last
        shown.wait_for()
        said = shown.inner_text()
        assert held.task.id in said
        assert "streaming" in said
        assert "model not found" not in tab.content()


@pytest.mark.gate
def test_two_pages_of_a_notebook_never_change_the_file_on_each_other(
    open_notebook: Open, hold: Callable[[], Held]
) -> None:
    held = hold()
    notebook = show(open_notebook, held)
    notebook.save()
    notebook.page.reload()
    notebook.wait_ready()
    wait_for_half(notebook.page)
    tab = notebook.open_tab()
    wait_for_half(tab)
    dirty = "window.jupyterapp.shell.currentWidget.context.model.dirty"
    held.go()
    for page in (notebook.page, tab):
        page.locator(".jp-OutputArea li", has_text="neaps").wait_for()
        page.locator(".longtask-output").wait_for(state="detached")
    changed = [page for page in (notebook.page, tab) if page.evaluate(dirty)]
    assert len(changed) == 1, "one of them writes"
    save = "window.jupyterapp.commands.execute('docmanager:save')"
    changed[0].evaluate(save)
    check_end(notebook.read(), held)
    for page in (notebook.page, tab):
        page.wait_for_timeout(500)
        assert page.locator(".jp-Dialog").count() == 0
        assert not page.evaluate(dirty)
    notebook.run_code(ARE_CLOSED)
    for page in (notebook.page, tab):
        assert page.locator(".jp-OutputArea li", has_text="neaps").is_visible()


@pytest.mark.thorough
def test_without_page_writes_the_notebook_is_not_touched_and_the_view_stays(
    open_notebook: Open, hold: Callable[[], Held]
) -> None:
    held = hold()
    off = "import os; os.environ['LONGTASK_PAGE_WRITES'] = '0'"
    notebook = open_notebook(f"{off}\n{CONNECT}", held.cell)
    notebook.run_all()
    wait_for_half(notebook.page)
    data = find_output(notebook.save())
    assert data[VIEW], "as the kernel wrote it"
    assert held.task.id in data["text/html"]
    notebook.page.reload()
    notebook.wait_ready()
    wait_for_half(notebook.page)
    held.go()
    notebook.output(1).locator('.longtask-output[data-status="completed"]').wait_for()
    notebook.page.wait_for_timeout(1500)
    shown = notebook.output(1).locator(".longtask-output")
    assert shown.is_visible(), "its replacement never arrives, so nothing is closed"
    assert VIEW in find_output(notebook.save())


@pytest.mark.gate
def test_a_panel_saved_mid_stream_is_read_without_a_kernel(
    open_notebook: Open, hold: Callable[[], Held], jupyter: JupyterServer
) -> None:
    held = hold()
    watch = f"panel = kit.panel()\npanel.watch(kit.attach({held.task.id!r}))\npanel"
    notebook = open_notebook(CONNECT, watch)
    notebook.run_all()
    wait_for_half(notebook.page)
    notebook.page.wait_for_timeout(1500)
    check_half(notebook.save(), held, "streaming")
    notebook.page.reload()
    notebook.wait_ready()
    wait_for_half(notebook.page)
    assert notebook.output(1).get_by_role("button", name="Submit").is_visible()
    held.go()
    notebook.output(1).locator('.longtask-output[data-status="completed"]').wait_for()
    notebook.restart()
    notebook.reload()
    assert "model not found" not in notebook.page.content()
    assert "neaps" in notebook.output(1).inner_text()


@pytest.mark.gate
def test_a_conversation_keeps_its_order_and_each_answer_gets_its_own_end(
    open_notebook: Open, hold: Callable[[], Held], kit: lt.Kit
) -> None:
    first = kit.submit("Explain ebbs", model="demo-fast")
    text = first.result(30).rstrip()
    held, slow = hold(), kit.submit("Explain floods", model="demo@5")
    talk = [f"panel._add(kit.attach({task.id!r}))" for task in (held.task, slow)]
    panel = [
        "panel = kit.panel()",
        "panel.chat.value = True",
        f"panel.watch(kit.attach({first.id!r}))",
    ]
    attach = f"slow = kit.attach({slow.id!r})\nslow"
    notebook = open_notebook(CONNECT, "\n".join([*panel, *talk, "panel"]), held.cell, attach)
    for number in (0, 1):
        notebook.run_cell(number)
    notebook.page.locator(".longtask-output", has_text="pulls").wait_for()
    assert find_order(notebook.save(), text, "pulls", slow.id)
    notebook.restart()
    notebook.output(1).locator('.longtask-output[data-status="disconnected"]').nth(1).wait_for()
    assert find_order(notebook.save(), text, "pulls", slow.id)
    notebook.wait_ready()
    for number in (0, 2):
        notebook.run_cell(number)
    held.go()
    wait_for_end(notebook, 2)
    notebook.output(1).locator("li", has_text="neaps").wait_for()
    notebook.output(1).get_by_text(f'kit.attach("{slow.id}")').wait_for()
    notebook.reload()
    for number in (0, 3):
        notebook.run_cell(number)
    slow.cancel()
    notebook.output(1).get_by_text("cancelled").wait_for()
    document = notebook.save()
    data = find_output(document)
    assert VIEW not in data
    assert find_order(document, text, (FIRST + REST).rstrip(), "[cancelled]")
    [output] = document["cells"][1]["outputs"]
    parts = output["metadata"]["longtask"]["parts"]
    assert [part["status"] for part in parts] == ["completed", "completed", "cancelled"]


@pytest.mark.gate
def test_an_older_card_gets_its_end_from_whatever_shows_that(
    open_notebook: Open, hold: Callable[..., Held]
) -> None:
    again = uuid4().hex
    tasks = [*(hold() for _ in range(3)), hold(again=again)]
    attached = [f"kit.attach({held.task.id!r})" for held in tasks]
    shows = [
        f"task = {attached[0]}\ntask.result()\ntask",
        f"panel = kit.panel()\npanel.open_task({attached[1]})\npanel",
        f"from longtask_kit.widgets import TaskOutput\nTaskOutput({attached[2]})",
        f"same = {{'handler': 'held', 'metadata': {{'again': {again!r}}}}}\n"
        f"task = kit.submit({PROMPT!r}, reuse=True, **same)\ntask",
    ]
    numbers = range(1, len(tasks) + 1)
    notebook = open_notebook(CONNECT, *[held.cell for held in tasks], *shows)
    for number in (0, *numbers):
        notebook.run_cell(number)
    notebook.page.locator(".longtask-output", has_text="pulls").nth(len(tasks) - 1).wait_for()
    notebook.restart()
    lost = notebook.page.locator('.longtask-output[data-status="disconnected"]')
    lost.nth(len(tasks) - 1).wait_for()
    notebook.wait_ready()
    tasks[0].go()
    for held in tasks:
        held.task.result(30)
    notebook.run_cell(0)
    for number in numbers:
        notebook.run_cell(number + len(tasks))
        wait_for_end(notebook, number)
    document = notebook.save()
    for number, held in enumerate(tasks, 1):
        check_end(document, held, number)
    assert notebook.output(6).get_by_role("button", name="Submit").is_visible(), "a panel stays"
    assert notebook.output(7).locator(".longtask-output").is_visible()


def find_order(document: dict[str, Any], *texts: str) -> bool:
    """Tell whether these follow each other in an output's text."""
    plain = find_output(document)["text/plain"]
    places = [plain.find(text) for text in texts]
    return -1 not in places and places == sorted(places)


@pytest.mark.gate
def test_what_was_asked_nothing_is_read_without_a_kernel_and_used_with_it(
    open_notebook: Open,
) -> None:
    notebook = open_notebook(CONNECT, "kit.panel()", "kit.panel().model")
    notebook.run_all()
    submit = notebook.output(1).get_by_role("button", name="Submit")
    submit.wait_for()
    for document in (notebook.save(), notebook.save()):
        for cell, name in ((1, "TaskPanel(idle, 0 tasks)"), (2, "ModelPicker(")):
            data = find_output(document, cell)
            assert set(data) == {"text/plain", "text/html"}
            assert data["text/html"].startswith(f"<p>{name}")
        assert (
            document["cells"][1]["outputs"][0]["data"]["text/html"][0].count("run this cell") == 1
        )
    notebook.page.reload()
    notebook.wait_ready()
    submit.wait_for()
    notebook.output(2).locator(".longtask-picker").wait_for()
    notebook.restart()
    notebook.reload()
    assert "model not found" not in notebook.page.content()
    assert "run this cell to use it" in notebook.output(1).inner_text()


@pytest.fixture
def open_voila(
    stack: lt.LocalStack, browser: "Browser", tmp_path: Path
) -> Iterator[Callable[..., "Page"]]:
    started: list[subprocess.Popen[bytes]] = []
    contexts = []

    def open_one(*cells: str) -> "Page":
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        nbformat.write(notebook, tmp_path / "page.ipynb")
        port = free_port()
        command = [
            *(sys.executable, "-m", "voila", str(tmp_path / "page.ipynb"), "--no-browser"),
            *(f"--port={port}", "--Voila.ip=127.0.0.1"),
        ]
        with (tmp_path / "voila.log").open("w") as log:
            environment = os.environ | stack.environment
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/voila/static/"), timeout_s=60)
        contexts.append(context := browser.new_context())
        page = context.new_page()
        page.set_default_timeout(40_000)
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_page_without_a_notebook_keeps_its_card(
    open_voila: Callable[..., "Page"],
    hold: Callable[[], Held],
    record_property: Callable[[str, object], None],
    how: str,
) -> None:
    held = hold()
    page = open_voila(f"{CONNECT}\nimport os\nprint('pid', os.getpid())", held.cell)
    wait_for_half(page)
    if how == "ends":
        held.go()
        page.locator('.longtask-output[data-status="completed"] li', has_text="neaps").wait_for()
        page.wait_for_timeout(1500)
        assert page.locator(".longtask-output li", has_text="neaps").is_visible()
    else:
        pid = page.get_by_text(re.compile(r"pid \d+")).first.inner_text()
        os.kill(int(pid.split()[1]), signal.SIGKILL)
        killed_at = time.monotonic()
        page.locator('.longtask-output[data-status="disconnected"]').wait_for()
        record_property(
            "loss", ("without a kernel to be seen", 1000 * (time.monotonic() - killed_at))
        )
        assert f'kit.attach("{held.task.id}")' in page.locator(".longtask-output").inner_text()
        page.screenshot(path=SHOTS / "disconnected-voila.png")
