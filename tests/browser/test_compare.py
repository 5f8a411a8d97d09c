"""Models side by side as a person sees and uses them: streams, differences, votes, other words."""

from collections.abc import Callable

import pytest

import longtask_kit as lt
from tests.browser.jupyter import SHOTS, Notebook
from tests.browser.test_group import VIEW, find_outputs
from tests.browser.test_panel import CONNECT

pytestmark = pytest.mark.gate

Open = Callable[..., Notebook]
MODELS = ("large", "small", "terse")
SAY = """
import asyncio
SAID = {
    "large": "A message queue keeps messages until a worker has dealt with them, {}.",
    "small": "A message queue keeps messages until many users have dealt with them, {}.",
    "terse": "It waits, {}. <img src=x onerror=alert(1)>",
}
gate = asyncio.Event()

async def say(context):
    for word in SAID[context.spec.model].format(context.spec.prompt).split(" "):
        yield word + " "
        await asyncio.sleep(0.01)
        if context.spec.prompt.startswith("wait"):
            while not gate.is_set():
                await asyncio.sleep(0.01)
    usage = lt.Usage(prompt_tokens=9, completion_tokens=14, total_tokens=23)
    yield lt.Outcome(usage=usage, finish_reason="stop")

served = kit.serve({"say": say})
"""


def compare_cell(prompts: str, *, name: str, options: str = "") -> str:
    return (
        f"group = kit.compare({prompts}, {list(MODELS)}, handler='say', name={name!r}, "
        f"prices={{'large': (2, 8), 'small': (0.2, 0.8), 'terse': (0.1, 0.1)}}{options})\ngroup"
    )


def wait_for_word(notebook: Notebook, word: str, timeout_s: float = 60) -> None:
    state = notebook.output(1).locator(".longtask-compare .longtask-state", has_text=word).first
    state.wait_for(timeout=timeout_s * 1000)


def wait_for_text(notebook: Notebook, band: int, at: int, text: str) -> None:
    cell = f"document.querySelectorAll('[data-row=\"{band}\"] .longtask-said')[{at}]"
    notebook.page.wait_for_function(f"text => {cell}?.textContent.trim() === text", arg=text)


def said(at: int, prompt: str) -> str:
    texts = (
        f"A message queue keeps messages until a worker has dealt with them, {prompt}.",
        f"A message queue keeps messages until many users have dealt with them, {prompt}.",
        f"It waits, {prompt}. <img src=x onerror=alert(1)>",
    )
    return texts[at]


def test_models_answer_side_by_side_are_told_apart_and_voted_for(open_notebook: Open) -> None:
    cell = compare_cell("['one', 'wait', 'three']", name="beside")
    notebook = open_notebook(CONNECT + SAY, cell)
    notebook.run_all()
    page, output = notebook.page, notebook.output(1)
    wait_for_text(notebook, 1, 0, "A")  # it has begun, and goes on when it may
    notebook.shoot(output, "compare-running-light")
    notebook.run_code("gate.set()")
    wait_for_word(notebook, "done")
    for band, prompt in enumerate(("one", "wait", "three")):
        for at in range(3):
            wait_for_text(notebook, band, at, said(at, prompt))
    assert output.locator("img").count() == 0, "text is data"
    first = output.locator("[data-row='0']")
    heads = first.locator(".longtask-facts").all_inner_texts()
    assert all(" tokens" in head and "$" in head for head in heads)
    tops = [
        box["y"] for one in first.locator(".longtask-said").all() if (box := one.bounding_box())
    ]
    assert len(set(tops)) == 1, "heads align"
    output.get_by_role("button", name="Differences").click()
    first.locator("mark", has_text="many users have").wait_for()
    assert first.locator("mark").all_inner_texts()[:2] == ["a worker has", "many users have"]
    notebook.shoot(output, "compare-marked-light")
    output.get_by_role("button", name="Differences").click()
    first.locator("mark").first.wait_for(state="detached")
    assert first.locator(".longtask-said").nth(1).inner_text().strip() == said(1, "one")
    # A vote, a tie, one taken back.
    first.get_by_role("button", name="Best: small, prompt 0").click()
    first.locator(".longtask-answer.is-best .longtask-name", has_text="small").wait_for()
    output.locator("[data-row='1']").get_by_role("button", name="Tie").click()
    third = output.locator("[data-row='2']")
    third.get_by_role("button", name="Best: terse, prompt 2").click()
    third.locator(".is-best").wait_for()
    third.get_by_role("button", name="Best: terse, prompt 2").click()
    third.locator(".is-best").wait_for(state="detached")
    notebook.run_code("assert group.votes == ['small', 'tie', None], group.votes")
    # A card, with markdown.
    first.get_by_role("button", name="Open large, prompt 0").click()
    beside = output.get_by_role("region", name="The chosen answer")
    beside.locator(".longtask-rendered", has_text="until a worker").wait_for()
    page.keyboard.press("Escape")
    beside.wait_for(state="hidden")
    first.get_by_role("button", name="Open large, prompt 0").click()
    beside.get_by_role("button", name="Close").click()
    beside.wait_for(state="hidden")
    focus = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focus == "Open large, prompt 0"
    assert notebook.errors == []


def test_names_are_hidden_until_a_prompt_is_voted_for(open_notebook: Open) -> None:
    notebook = open_notebook(
        CONNECT + SAY, compare_cell("['blind', 'other']", name="blind", options=", blind=True")
    )
    notebook.run_all()
    wait_for_word(notebook, "done")
    output = notebook.output(1)
    names = output.locator("[data-row='0'] .longtask-name")
    notebook.page.wait_for_function(
        "document.querySelectorAll('[data-row=\"0\"] .longtask-said')[2]?.textContent.length > 9"
    )
    assert names.all_inner_texts() == ["A", "B", "C"]
    told = output.inner_html()
    assert not [model for model in MODELS if f">{model}<" in told], "nor is it in the page"
    assert "tokens" not in output.locator("[data-row='0']").inner_text()
    texts = output.locator("[data-row='0'] .longtask-said").all_inner_texts()
    notebook.shoot(output, "compare-blind-light")
    output.get_by_role("button", name="Best: B, prompt 0").click()
    notebook.page.wait_for_function(
        "document.querySelector('[data-row=\"0\"] .is-best .longtask-name')?.textContent.length > 1"
    )
    shown = names.all_inner_texts()
    assert sorted(shown) == sorted(MODELS), "and they stay where they are"
    assert texts[shown.index("terse")].startswith("It waits")
    assert output.locator("[data-row='1'] .longtask-name").first.inner_text() == "A"
    notebook.run_code(f"assert group.votes == [{shown[1]!r}, None], group.votes")
    output.get_by_role("button", name="Blind").click()
    output.locator("[data-row='1'] .longtask-name", has_text="large").wait_for()
    assert names.all_inner_texts() == list(MODELS)
    assert notebook.errors == []


def test_a_prompt_is_written_in_other_words_by_keys_and_asked_of_all(open_notebook: Open) -> None:
    notebook = open_notebook(CONNECT + SAY, compare_cell("['keep', 'chnage']", name="anew"))
    notebook.run_all()
    wait_for_word(notebook, "done")
    wait_for_text(notebook, 1, 0, said(0, "chnage"))
    band, keys = notebook.output(1).locator("[data-row='1']"), notebook.page.keyboard
    edit, area = band.get_by_role("button", name="Edit"), band.get_by_role("textbox")
    edit.press("Enter")
    area.wait_for()
    assert area.input_value() == "chnage"
    keys.press("Escape")
    area.wait_for(state="hidden")
    keys.press("Enter")
    area.wait_for()
    keys.press("ControlOrMeta+a")
    keys.type("change")
    notebook.shoot(notebook.output(1), "compare-edit-light")
    keys.press("ControlOrMeta+Enter")
    for at in range(3):
        wait_for_text(notebook, 1, at, said(at, "change"))
    wait_for_text(notebook, 0, 0, said(0, "keep"))
    wait_for_word(notebook, "done")
    notebook.run_code(
        "assert [row['prompt'] for row in group.rows] == ['keep'] * 3 + ['change'] * 3"
    )
    assert notebook.errors == []


def test_what_is_saved_needs_no_kernel_and_a_reload_shows_the_same(
    open_notebook: Open, kit: lt.Kit
) -> None:
    prompts = "[f'prompt {i}' for i in range(30)]"
    notebook = open_notebook(CONNECT + SAY, compare_cell(prompts, name="kept beside"))
    notebook.run_all()
    wait_for_word(notebook, "done")
    output = notebook.output(1)
    output.get_by_role("button", name="Later").click()
    wait_for_text(notebook, 29, 2, said(2, "prompt 29"))
    output.get_by_role("button", name="Earlier").click()
    wait_for_text(notebook, 0, 1, said(1, "prompt 0"))
    output.locator("[data-row='24']").scroll_into_view_if_needed()
    wait_for_text(notebook, 24, 1, said(1, "prompt 24"))
    notebook.reload()
    wait_for_text(notebook, 0, 1, said(1, "prompt 0"))
    [saved] = [o for o in find_outputs(notebook.save()) if "text/html" in o["data"]]
    assert VIEW not in saved["data"], "nobody without a kernel could draw it"
    plain, html = ("".join(saved["data"][name]) for name in ("text/plain", "text/html"))
    assert plain.startswith("kept beside: 90 rows, 90 done")
    assert "many users have dealt with them, prompt 24." in html
    assert "<img" not in html
    group_id = next(group.id for group in kit.groups() if group.name == "kept beside")
    assert group_id in plain
    tab = notebook.open_stranger(notebook.save())
    strange = tab.locator(".longtask-saved-group", has_text="kept beside")
    strange.wait_for()
    for width in (1400, 700, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        strange.screenshot(path=SHOTS / f"compare-saved-{width}-light.png")
    assert notebook.errors == []


@pytest.mark.thorough
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_every_width_is_readable(open_notebook: Open, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    prompts = f"['What is a queue? {theme}', 'wait {theme}', 'And when nobody reads it?']"
    notebook = open_notebook(CONNECT + SAY, compare_cell(prompts, name=f"axe beside {theme}"))
    notebook.set_theme(theme)
    notebook.run_all()
    wait_for_text(notebook, 1, 0, "A")
    wait_for_text(notebook, 2, 1, said(1, "And when nobody reads it?"))
    output = notebook.output(1)
    output.get_by_role("button", name="Best: small, prompt 0").click()
    output.get_by_role("button", name="Differences").click()
    output.locator("[data-row='0'] mark").first.wait_for()
    output.locator("[data-row='0'] .is-best").wait_for()
    output.locator("[data-row='2']").get_by_role("button", name="Edit").click()
    output.get_by_role("textbox").wait_for()
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.shoot(output, f"compare-{width}-{theme}")
    found = Axe().run(notebook.page, context=".longtask-compare").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    notebook.run_code("gate.set()")
    wait_for_word(notebook, "done")
    assert notebook.errors == []
