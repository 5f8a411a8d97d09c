"""The panel as a workbench: history, conversations, the picker, what it looks like."""

from collections.abc import Callable
from functools import partial

import pytest

import longtask_kit as lt
from longtask_kit.settings import DEMO_LABEL
from tests.browser.jupyter import Notebook
from tests.browser.test_panel import find_faults, open_panel, submit, wait_for_status

Open = Callable[..., Notebook]


@pytest.mark.thorough
def test_the_history_is_searched_opened_and_deleted_from(open_notebook: Open, kit: lt.Kit) -> None:
    kept = kit.submit("Explain rivers", model="demo-fast", system="Be brief.", max_tokens=70)
    kept.result(30)
    gone = kit.submit("Explain <b>mountains</b>", model="demo-fast")
    gone.result(30)
    notebook = open_panel(open_notebook, model="demo-fast", prompt="")
    panel = notebook.output(1).locator(".longtask-panel")
    notebook.run_code("import time; time.sleep(3)", wait=False)
    panel.get_by_role("button", name="Earlier tasks").click()  # it opens in a busy kernel
    rows = panel.locator(".longtask-rows li")
    rows.filter(has_text="Explain <b>mountains</b>").wait_for()
    panel.get_by_role("searchbox").fill("brief no such words")
    panel.get_by_text("None of the tasks fits.").wait_for()
    panel.get_by_role("searchbox").fill("MOUNTAINS demo-fast")
    assert rows.count() == 1
    delete = rows.get_by_role("button", name="Delete")
    delete.click()
    assert delete.inner_text() == "Delete it?"
    notebook.page.keyboard.press("Tab")
    assert delete.inner_text() == "Delete", "who goes elsewhere has not meant it"
    delete.click()
    delete.click()
    panel.get_by_text("None of the tasks fits.").wait_for()
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(gone.id)
    panel.get_by_role("searchbox").fill("rivers")
    rows.get_by_role("button", name="Explain rivers").click()
    wait_for_status(notebook, "completed")
    panel.get_by_role("button", name="Settings").click()
    shown = [panel.get_by_label(name).input_value() for name in ("Max tokens", "System prompt")]
    assert shown == ["70", "Be brief."]
    assert rows.first.get_attribute("aria-current") == "true"
    assert notebook.errors == []


@pytest.mark.thorough
def test_a_conversation_goes_on_is_edited_and_asked_of_another_model(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-fast", prompt="")
    panel = notebook.output(1).locator(".longtask-panel")
    panel.get_by_role("button", name="Chat").click()
    field = panel.locator(".longtask-field-prompt textarea")
    cards = panel.locator('.longtask-output[data-status="completed"]')
    for number, prompt in enumerate(("Explain tides", "And <i>ledgers</i>?")):
        field.fill(prompt)
        field.press("Control+Enter")
        cards.nth(number).wait_for()
        notebook.page.wait_for_function("!document.querySelector('.longtask-form textarea').value")
    said = panel.locator(".longtask-prompt")
    assert said.all_inner_texts() == ["Explain tides", "And <i>ledgers</i>?"]
    labels = panel.locator(".longtask-label:visible").all_inner_texts()
    assert labels == [DEMO_LABEL], "once on a screen"
    panel.get_by_role("button", name="Edit").first.click()
    edited = panel.get_by_label("Ask in other words").first
    edited.fill("Explain rivers")
    edited.press("Escape")
    assert said.first.inner_text() == "Explain tides", "it was left"
    panel.get_by_role("button", name="Edit").first.click()
    edited.fill("Explain rivers")
    edited.press("Control+Enter")
    notebook.page.wait_for_function(
        "document.querySelectorAll('.longtask-prompt').length === 1"
        " && document.querySelector('.longtask-prompt').textContent === 'Explain rivers'"
    )
    cards.first.wait_for()
    other = panel.get_by_role("combobox", name="Other model")
    other.focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        notebook.page.keyboard.press(key)
    chosen = "document.querySelector('.longtask-figure b').textContent === 'demo-fast'"
    notebook.page.wait_for_function(chosen)
    cards.first.wait_for()
    notebook.run_code(
        "assert [m['content'] for m in panel.task.messages] == ['Explain rivers'], panel.task.spec"
    )
    assert notebook.errors == []


@pytest.mark.thorough
def test_words_that_are_not_asked_yet_are_kept(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo-fast", prompt="")
    panel = notebook.output(1).locator(".longtask-panel")
    panel.get_by_role("button", name="Chat").click()
    field = panel.locator(".longtask-field-prompt textarea")
    for model, prompt in (("demo-fast", "Explain tides"), ("demo@1", "And ledgers?")):
        panel.get_by_role("combobox", name="Model", exact=True).fill(model)
        field.fill(prompt)
        field.press("Control+Enter")
        panel.locator(".longtask-output").nth(int(model == "demo@1")).wait_for()
        panel.locator('.longtask-output[data-status="completed"]').first.wait_for()
    edit, edited = panel.get_by_role("button", name="Edit").first, panel.get_by_label("Ask in")
    edit.click()
    edited.first.fill("Explain rivers")
    edited.first.press("Control+Enter")
    panel.get_by_role("alert").get_by_text("still under way").wait_for()
    edit.click()
    assert edited.first.input_value() == "Explain rivers"
    edited.first.press("Escape")
    edit.click()
    assert edited.first.input_value() == "Explain tides", "it was left"
    notebook.run_code("panel.cancel()")
    assert notebook.errors == []


@pytest.mark.thorough
def test_the_model_picker_says_what_each_is_and_takes_any_name(open_notebook: Open) -> None:
    notebook = open_panel(open_notebook, model="demo", prompt="Explain tides")
    picker = notebook.output(1).get_by_role("combobox", name="Model", exact=True)
    picker.click()
    picker.press("ArrowDown")
    choices = notebook.output(1).locator(".longtask-choices:popover-open li")
    choices.filter(has_text="demo-refuse").get_by_text("Refuses whatever it is asked.").wait_for()
    picker.press("Escape")
    assert choices.count() == 0
    picker.fill("leng")
    assert choices.all_inner_texts()[0].startswith("demo-length")
    assert choices.count() == 1
    picker.press("ArrowDown")
    picker.press("Enter")
    assert picker.input_value() == "demo-length"
    notebook.run_code("assert panel.model.value == 'demo-length', panel.model")
    picker.fill("demo@77")
    picker.press("Escape")
    notebook.run_code("assert panel.model.value == 'demo@77', panel.model")
    notebook.run_code("panel.model.value = 'demo-fast'")
    notebook.page.wait_for_function(
        "document.querySelector('.longtask-picker input').value === 'demo-fast'"
    )


@pytest.mark.thorough
def test_who_looks_elsewhere_is_told_by_the_title_that_a_long_task_ended(
    open_notebook: Open,
) -> None:
    notebook = open_panel(partial(open_notebook, own_page=True), model="demo@14")
    page = notebook.page
    page.evaluate(
        """() => {
          window.told = [];
          window.Notification = class { constructor(title) { window.told.push(title); } };
          window.Notification.permission = "denied";
          const hidden = { get: () => window.isAway ?? true, configurable: true };
          Object.defineProperty(document, "hidden", hidden);
        }"""
    )
    before = page.title()
    submit(notebook)
    page.wait_for_function("document.title.startsWith('✓ completed · ')", timeout=60_000)
    page.evaluate("document.title = 'saved.ipynb'")
    page.wait_for_function("document.title === '✓ completed · saved.ipynb'")
    page.evaluate("isAway = false; document.dispatchEvent(new Event('visibilitychange'))")
    assert page.title() == "saved.ipynb"
    assert before
    assert page.evaluate("told") == [], "it was not allowed to"
    page.evaluate("isAway = true; Notification.permission = 'granted'")
    submit(notebook)
    page.wait_for_function("told.length === 1", timeout=60_000)
    assert page.evaluate("told") == ["Task completed"]


@pytest.mark.thorough
@pytest.mark.parametrize("width", [1400, 700, 390])
def test_the_panel_fits_in_every_state(open_notebook: Open, width: int) -> None:
    notebook = open_panel(open_notebook, model="demo-fast")
    page = notebook.page
    notebook.run_code("panel.system.value, panel._form.settings.value = 'Be brief.', True")
    notebook.run_code("panel._form.earlier.value = panel.chat.value = True")
    page.evaluate(FILL_THE_PAGE)
    page.set_viewport_size({"width": width, "height": 1800})
    panel = page.locator(".longtask-panel")
    for number, prompt in enumerate(("Explain tides", "And ledgers?")):
        panel.locator(".longtask-field-prompt textarea").fill(prompt)
        panel.get_by_role("button", name="Send").click()
        panel.locator('.longtask-output[data-status="completed"]').nth(number).wait_for()
    panel.locator(".longtask-rows li").first.wait_for()
    panel.locator(".longtask-scroller.is-over").last.wait_for()
    look_at_both_themes(notebook, f"panel-talk-{width}")
    notebook.run_code("panel.chat.value = False; panel.model.value = 'demo-bad-key'")
    panel.get_by_role("button", name="Submit").wait_for()
    notebook.run_code("panel.params.value = panel.prompt.value = 'nonsense'; panel.submit()")
    panel.get_by_role("alert").get_by_text("is no JSON").wait_for()
    look_at_both_themes(notebook, f"panel-single-{width}")
    assert notebook.errors == []


def look_at_both_themes(notebook: Notebook, name: str) -> None:
    """Keep pictures of the panel; nothing sticks out, and axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    for theme in ("dark", "light"):
        notebook.set_theme(theme)
        notebook.shoot(notebook.page.locator(".longtask-panel"), f"{name}-{theme}")
        assert find_overflow(notebook) == []
        assert find_faults(Axe(), notebook) == []


# The notebook keeps a part of a narrow window to itself.
FILL_THE_PAGE = """() => {
  const panel = document.querySelector(".longtask-panel");
  const style = document.createElement("style");
  style.textContent = `.longtask-panel.longtask-panel {
    position: fixed; inset: 0 0 auto 0; z-index: 10000; margin: 0;
    max-height: 100vh; overflow: auto; background: var(--jp-layout-color0);
  }`;
  document.head.append(style);
  panel.ownerDocument.body.append(panel);
}"""


def find_overflow(notebook: Notebook) -> list[str]:
    """Return what sticks out of the panel, sideways."""
    found: list[str] = notebook.page.evaluate(
        """() => {
          const panel = document.querySelector(".longtask-panel");
          const right = panel.getBoundingClientRect().right;
          return [...panel.querySelectorAll("*")]
            .filter((e) => e.getBoundingClientRect().right > right + 1)
            .filter((e) => !e.closest("[popover], pre, .longtask-figures, .longtask-spoken"))
            .map((e) => e.className);
        }"""
    )
    return found
