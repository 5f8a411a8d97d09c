"""The panel and the output area, as a person sees and uses them."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

import longtask_kit as lt
from longtask_kit.cli.lab import find_lessons
from tests.browser.jupyter import Notebook

if TYPE_CHECKING:
    from axe_playwright_python.sync_playwright import Axe

Open = Callable[..., Notebook]
CONNECT = "import longtask_kit as lt\nkit = lt.connect(quiet=True)"


def wait_for_status(notebook: Notebook, status: str, cell: int = 1, timeout_s: float = 30) -> None:
    section = notebook.output(cell).locator(f'.longtask-output[data-status="{status}"]').first
    section.wait_for(timeout=timeout_s * 1000)


def text_of(notebook: Notebook, cell: int = 1) -> str:
    text: str = notebook.output(cell).locator(".longtask-text").first.evaluate("e => e.textContent")
    return text


def wait_until_rendered(notebook: Notebook) -> None:
    wait_for_status(notebook, "completed", timeout_s=60)
    notebook.output(1).locator(".longtask-scroller.is-over").wait_for()


def wait_for_text(notebook: Notebook, length: int) -> None:
    shown = "document.querySelector('.longtask-text')?.textContent.length"
    notebook.page.wait_for_function(f"{shown} > {length}")


def open_panel(open_notebook: Open, *, model: str, prompt: str = "Explain tides") -> Notebook:
    """Open a notebook whose second cell shows a panel with this prompt and model."""
    fields = f"panel.model.value, panel.prompt.value = {model!r}, {prompt!r}"
    notebook = open_notebook(CONNECT, f"panel = kit.panel()\n{fields}\npanel")
    notebook.run_all()
    notebook.output(1).locator(".longtask-output").wait_for()
    return notebook


def find_faults(axe: "Axe", notebook: Notebook) -> list[tuple[str, list[str]]]:
    """Return what axe finds serious in the panel."""
    found = axe.run(notebook.page, context=".longtask-panel")
    assert found.response["passes"], "it does look"
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]])
        for violation in found.response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def submit(notebook: Notebook) -> None:
    notebook.output(1).get_by_role("button", name="Submit").click()


@pytest.mark.thorough
def test_a_click_streams_the_exact_text(open_notebook: Open, kit: lt.Kit) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_panel(open_notebook, model="demo@100")
    notebook.shoot(notebook.output(1), "panel-idle-light")
    submit(notebook)
    wait_for_status(notebook, "running")
    notebook.page.wait_for_function(
        "document.querySelector('.longtask-text').textContent.length > 200"
    )
    notebook.shoot(notebook.output(1), "panel-running-light")
    wait_for_status(notebook, "completed")
    assert text_of(notebook) == plain
    rendered = notebook.output(1).locator(".longtask-rendered")
    rendered.locator("h2", has_text="Tides").wait_for()
    assert rendered.locator("li").count() >= 3
    notebook.shoot(notebook.output(1), "panel-completed-light")
    notebook.set_theme("dark")
    notebook.shoot(notebook.output(1), "panel-completed-dark")
    raw = notebook.output(1).get_by_role("button", name="Raw")
    raw.click()
    assert notebook.output(1).locator(".longtask-text").is_visible()
    notebook.output(1).get_by_role("button", name="Copy").click()
    notebook.page.wait_for_function("navigator.clipboard.readText().then(t => t.length > 100)")
    assert notebook.page.evaluate("navigator.clipboard.readText()") == plain
    assert notebook.errors == []


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param("None", id="idle", marks=pytest.mark.thorough),
        pytest.param("print('in it'); await task", id="awaited", marks=pytest.mark.thorough),
        pytest.param("print('in it'); task.result()", id="waited for", marks=pytest.mark.thorough),
        pytest.param("import time; print('in it'); time.sleep(60)", id="busy"),
    ],
)
@pytest.mark.thorough
def test_cancel_works_whatever_the_kernel_does(open_notebook: Open, cell: str) -> None:
    notebook = open_notebook(
        CONNECT,
        "from longtask_kit.widgets import TaskOutput\n"
        "task = kit.submit('Explain tides', model='demo@5')\nTaskOutput(task)",
        cell,
    )
    notebook.start_command("notebook:run-all-cells")
    wait_for_status(notebook, "running")
    if cell != "None":
        notebook.output(2).get_by_text("in it").wait_for()
    notebook.output(1).get_by_role("button", name="Cancel").click()
    wait_for_status(notebook, "cancelled")  # long before a busy cell or the task would end
    notebook.interrupt()


@pytest.mark.gate
def test_a_reload_mid_stream_loses_nothing(open_notebook: Open, kit: lt.Kit) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_panel(open_notebook, model="demo@40")
    submit(notebook)
    wait_for_status(notebook, "running")
    notebook.page.wait_for_function(
        "document.querySelector('.longtask-text').textContent.length > 50"
    )
    notebook.reload()
    notebook.page.wait_for_function(
        "document.querySelector('.longtask-text')?.textContent.length > 50"
    )
    wait_for_status(notebook, "completed")
    assert text_of(notebook) == plain


@pytest.mark.thorough
def test_a_second_tab_shows_the_same(open_notebook: Open, kit: lt.Kit) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_panel(open_notebook, model="demo@40")
    submit(notebook)
    wait_for_status(notebook, "running")
    notebook.save()
    tab = notebook.open_tab()
    wait_for_status(notebook, "completed")
    tab.locator('.longtask-output[data-status="completed"]').wait_for()
    assert tab.locator(".longtask-text").evaluate("e => e.textContent") == plain
    assert text_of(notebook) == plain


@pytest.mark.thorough
def test_two_views_show_the_same(open_notebook: Open) -> None:
    notebook = open_notebook(
        CONNECT,
        "from longtask_kit.widgets import TaskOutput\n"
        "task = kit.submit('Explain tides', model='demo@60')\noutput = TaskOutput(task)\noutput",
        "output",
    )
    notebook.run_all()
    wait_for_status(notebook, "completed", cell=2)
    assert text_of(notebook, 1) == text_of(notebook, 2)
    assert len(text_of(notebook, 1)) > 300


@pytest.mark.thorough
def test_after_a_kernel_restart_the_history_brings_back_what_was_under_way(
    open_notebook: Open, kit: lt.Kit
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_panel(open_notebook, model="demo@15")
    submit(notebook)
    wait_for_status(notebook, "running")
    notebook.restart()
    notebook.wait_ready()
    notebook.run_all()
    toggle = notebook.output(1).get_by_role("button", name="Earlier tasks")
    notebook.output(1).get_by_text("running", exact=False).first.wait_for()
    toggle.click()
    row = notebook.output(1).locator(".longtask-rows li").first
    assert "Explain tides" in row.inner_text()
    assert "running · demo@15" in row.inner_text()
    row.get_by_role("button", name="Explain tides").click()
    wait_for_status(notebook, "completed")
    assert text_of(notebook) == plain


@pytest.mark.thorough
def test_a_failure_shows_cause_cure_and_retry(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-bad-key")
    submit(notebook)
    wait_for_status(notebook, "failed")
    alert = notebook.output(1).get_by_role("alert")
    assert "401" in alert.inner_text()
    assert "OPENAI_API_KEY" in alert.inner_text()
    notebook.shoot(notebook.output(1), "panel-failed-light")
    notebook.set_theme("dark")
    notebook.shoot(notebook.output(1), "panel-failed-dark")
    notebook.run_code("before = panel.task.attempt")
    notebook.output(1).get_by_role("button", name="Retry").click()
    notebook.run_code(
        "import asyncio\n"
        "while panel.task.attempt == before or panel.task.status != 'failed':\n"
        "    await asyncio.sleep(0.05)\n"
        "assert panel.task.attempt == before + 1, panel.task.attempt"
    )
    wait_for_status(notebook, "failed")


@pytest.mark.thorough
def test_a_retry_that_starts_over_says_so(open_notebook: Open, kit: lt.Kit) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_panel(open_notebook, model="demo-cut-then-ok")
    submit(notebook)
    wait_for_status(notebook, "completed")
    assert text_of(notebook) == plain
    assert "starts over" in notebook.output(1).locator(".longtask-note").inner_text()


@pytest.mark.thorough
def test_the_keyboard_suffices(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo@5", prompt="")
    keyboard = notebook.page.keyboard
    field = notebook.output(1).locator(".longtask-panel textarea").first
    field.click()
    keyboard.type("Explain tides")
    keyboard.press("Control+Enter")
    wait_for_status(notebook, "running")
    notebook.run_code("assert panel.task.spec.prompt == 'Explain tides', panel.task.spec")
    keyboard.press("Escape")
    notebook.run_code("assert panel.status == 'running'")  # it leaves the field, and ends nothing
    field.click()
    keyboard.press("Shift+Escape")
    wait_for_status(notebook, "cancelled")
    field.click()
    reached = []
    for key in ("Tab", "Tab", "Tab", "Enter", "Tab", "Tab", "Tab"):
        keyboard.press(key)
        reached.append(notebook.page.evaluate(NAME_OF_FOCUS))
    assert reached == [
        *("Model", "Chat", "Settings", "Settings", "Earlier tasks", "Submit", "System prompt")
    ]


NAME_OF_FOCUS = """() => {
  const e = document.activeElement;
  return (e.labels?.[0] ?? e).innerText.trim();
}"""


@pytest.mark.thorough
def test_a_submit_in_a_busy_cell_brings_what_was_typed_last(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-fast", prompt="")
    notebook.run_code("import time; time.sleep(6)", wait=False)
    panel = notebook.output(1).locator(".longtask-panel")
    panel.locator("textarea").first.fill("Explain tides")
    panel.get_by_role("combobox", name="Model", exact=True).fill("demo@5")
    panel.get_by_role("button", name="Settings").click()
    panel.get_by_label("Max tokens").fill("77")  # and it is not left
    notebook.page.keyboard.press("Control+Enter")
    wait_for_status(notebook, "running", timeout_s=5)
    notebook.run_code("spec = panel.task.spec")
    notebook.run_code("assert (spec.model, spec.max_tokens) == ('demo@5', 77), spec")
    notebook.run_code("assert spec.prompt == 'Explain tides', spec; panel.cancel()")


@pytest.mark.thorough
def test_the_clock_ticks_while_nothing_is_heard_of_the_time(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-slow-start")
    submit(notebook)
    wait_for_status(notebook, "running")
    notebook.run_code(
        "import threading\n"
        "for n in range(8):\n"
        "    told = {'notice': f'news {n}'}\n"
        "    threading.Timer(n / 4, panel.output.show, kwargs=told).start()"
    )
    notebook.page.get_by_text("news 1").wait_for()
    early = read_clock_s(notebook)
    notebook.page.get_by_text("news 7").wait_for()
    assert read_clock_s(notebook) >= early + 1.2
    notebook.run_code("panel.cancel()")


def read_clock_s(notebook: Notebook) -> float:
    shown = notebook.output(1).locator(".longtask-head").inner_text()
    found = re.search(r"([\d.]+) (ms|s)\b", shown)
    assert found, shown
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


@pytest.mark.thorough
def test_an_ended_task_shown_again_is_not_read_aloud(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo@200")
    submit(notebook)
    spoken = notebook.output(1).locator(".longtask-spoken")
    spoken.filter(has_text="scripted demo").wait_for(state="attached")
    notebook.run_code("panel.watch(panel.task)")
    again = spoken.filter(has_text=re.compile(r"^completed, 167 tokens$"))
    again.wait_for(state="attached")
    notebook.reload()
    again.wait_for(state="attached")


@pytest.mark.thorough
def test_an_ended_answer_opens_at_its_top_and_folds(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-fast")
    notebook.run_code(
        "panel.watch(kit.submit('Explain ledgers', model='demo-long', max_tokens=3000))"
    )
    wait_until_rendered(notebook)
    card = notebook.output(1).locator(".longtask-output")
    assert card.evaluate("e => e.querySelector('.longtask-scroller').scrollTop") == 0
    folded = card.evaluate("e => e.offsetHeight")
    assert folded < 1000
    card.get_by_text("Show all").click()
    assert card.evaluate("e => e.offsetHeight") > 3 * folded


@pytest.mark.gate
def test_a_task_as_last_line_leaves_text_in_the_saved_notebook(
    open_notebook: Open, kit: lt.Kit
) -> None:
    plain = kit.submit("Explain tides", model="demo-fast").result(30)
    notebook = open_notebook(CONNECT, "task = kit.submit('Explain tides', model='demo@40')\ntask")
    notebook.run_all()
    notebook.output(1).locator(".longtask-output").wait_for()
    notebook.output(1).locator("h2", has_text="Tides").wait_for()
    notebook.page.wait_for_function("!document.querySelector('.longtask-output')")
    notebook.shoot(notebook.output(1), "saved-light")
    [output] = notebook.save()["cells"][1]["outputs"]
    assert set(output["data"]) == {"text/plain", "text/html"}
    assert "".join(output["data"]["text/plain"]).rstrip("\n") == plain.rstrip("\n")
    stranger = notebook.save()
    stranger["cells"][1]["source"] = "# changed by a stranger, so that no signature fits"
    tab = notebook.open_stranger(stranger)
    tab.locator(".jp-OutputArea h2", has_text="Tides").wait_for()
    assert "Three things" in tab.locator(".jp-OutputArea").last.inner_text()
    notebook.restart()
    notebook.reload()
    assert notebook.output(1).locator("h2", has_text="Tides").is_visible()


@pytest.mark.gate
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_axe_finds_nothing_serious(open_notebook: Open, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    notebook = open_panel(open_notebook, model="demo-bad-key")
    notebook.set_theme(theme)
    for status, model in (("failed", "demo-bad-key"), ("completed", "demo-fast")):
        notebook.run_code(f"panel.model.value = {model!r}")
        submit(notebook)
        wait_for_status(notebook, status)
        notebook.page.wait_for_timeout(400)
        assert find_faults(Axe(), notebook) == []


PAYLOADS = [
    "<script>window.fired=1</script>",
    "<img src=x onerror=window.fired=1>",
    "<svg onload=window.fired=1>",
    "<svg><script>window.fired=1</script></svg>",
    "<iframe srcdoc='<script>parent.fired=1</script>'></iframe>",
    "<iframe src=javascript:parent.fired=1></iframe>",
    "<a href='javascript:window.fired=1'>click</a>",
    "[click](javascript:window.fired=1)",
    "[click](JaVaScRiPt:window.fired=1)",
    "[click](java&#115;cript:window.fired=1)",
    "[click](data:text/html,<script>window.fired=1</script>)",
    "[click](vbscript:window.fired=1)",
    '![x](x.png" onerror="window.fired=1)',
    "![x](javascript:window.fired=1)",
    "<details open ontoggle=window.fired=1>x</details>",
    "<input autofocus onfocus=window.fired=1>",
    "<body onload=window.fired=1>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=window.fired=1>",
    "</div></section><script>window.fired=1</script>",
    "</textarea><img src=x onerror=window.fired=1>",
    "```html\n<img src=x onerror=window.fired=1>\n```",
    "`<img src=x onerror=window.fired=1>`",
    "| <img src=x onerror=window.fired=1> |\n|---|\n| <script>window.fired=1</script> |",
    "<style>*{background:url('javascript:window.fired=1')}</style>",
    r"$\href{javascript:window.fired=1}{click}$",
    r"\(\href{javascript:window.fired=1}{click}\)",
    "$$\n\\href{javascript:window.fired=1}{click}\n$$",
    "\\[\n\\require{html}\\href{javascript:window.fired=1}{click}\n\\]",
    r"$\def\x{\href{javascript:window.fired=1}{click}}\x$",
    r"$\style{background:url(javascript:window.fired=1)}{x}$",
    r"$\htmlData{x=</math><img src=x onerror=window.fired=1>}{x}$",
    "$<img src=x onerror=window.fired=1>$",
    r"\(\text{</mtext></math><img src=x onerror=window.fired=1>}\)",
    "$$\n</annotation><svg onload=window.fired=1>\n$$",
    "```</code></pre><img src=x onerror=window.fired=1>\nx\n```",
    "- [x] <img src=x onerror=window.fired=1>",
    "https://example.com/<img src=x onerror=window.fired=1>",
    "<javascript:window.fired=1>",
]
ATTACK_EVERYTHING = """async (section) => {
  for (const e of section.querySelectorAll("*")) {
    for (const type of ["mouseover", "focus", "click"]) {
      if (e.tagName !== "BUTTON") e.dispatchEvent(new Event(type, {bubbles: true}));
    }
    if (e.tagName === "A") e.click();
  }
  await new Promise((resolve) => setTimeout(resolve, 200));
  return window.fired ?? 0;
}"""
ECHO = """
import longtask_kit as lt
from longtask_kit.cli.lab import find_lessons
kit = lt.connect(quiet=True)
async def echo(context):
    yield context.spec.prompt
    if context.spec.metadata.get("fail"):
        raise lt.NonRetryableError(context.spec.prompt)
app = kit.serve(handlers={"echo": echo})
from longtask_kit.widgets import TaskOutput
"""


@pytest.mark.gate
def test_no_payload_of_a_prompt_an_answer_or_an_error_fires(open_notebook: Open) -> None:
    submits = (
        f"payloads = {PAYLOADS!r}\n"
        "tasks = [kit.submit(p, handler='echo', metadata={'fail': f})"
        " for p in payloads for f in (False, True)]\n"
        "import ipywidgets\n"
        "ipywidgets.VBox([TaskOutput(task) for task in tasks])"
    )
    notebook = open_notebook(ECHO, submits, "for task in tasks: display(task)")
    notebook.run_all()
    outputs = notebook.output(1).locator(".longtask-output")
    over = '.longtask-output:is([data-status="completed"], [data-status="failed"])'
    notebook.page.wait_for_function(
        f"document.querySelectorAll('{over}').length >= {2 * len(PAYLOADS)}"
    )
    notebook.page.wait_for_timeout(500)  # the markdown is drawn a frame later
    for cell in (1, 2):
        assert notebook.output(cell).evaluate(ATTACK_EVERYTHING) == 0
    shown = outputs.first.locator(".longtask-text").evaluate("e => e.textContent")
    assert shown == PAYLOADS[0], "it is shown as what it is"
    # The control: the same attack does find what fires.
    notebook.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.fired=1>')"
    )
    notebook.page.wait_for_function("window.fired === 1")


@pytest.mark.thorough
def test_ids_in_the_page_hold_no_secret(open_notebook: Open, stack: lt.LocalStack) -> None:
    notebook = open_panel(open_notebook, model="demo-fast")
    submit(notebook)
    wait_for_status(notebook, "completed")
    saved = str(notebook.save())
    page = notebook.page.content()
    for name, value in stack.environment.items():
        if re.search("TOKEN|KEY", name):
            assert value not in saved
            assert value not in page


@pytest.mark.thorough
def test_the_first_lesson_runs_from_top_to_bottom(open_notebook: Open) -> None:
    [lesson] = [path for path in find_lessons() if path.name.startswith("01")]
    cells = [
        "".join(cell["source"])
        for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    notebook = open_notebook(*cells)
    notebook.start_command("notebook:run-all-cells")
    notebook.output(2).locator(".longtask-scroller").wait_for()
    wait_for_text(notebook, 20)
    notebook.run_all()
    document = notebook.save()
    outputs = [output for cell in document["cells"] for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert document["cells"][5]["outputs"][0]["data"]["text/plain"] == ["True"]
