"""One card, live and saved: the same boxes, no raw mark while it streams, readable in any state."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator

import longtask_kit as lt
from tests.browser.card_states import ANSWER, STATES, make_cells
from tests.browser.jupyter import Notebook
from tests.browser.test_panel import CONNECT

pytestmark = pytest.mark.gate

Open = Callable[..., Notebook]

# Every box of a card, in order, with what a reader sees of it; buttons are a live card's own.
MEASURE = """(card) => {
  const origin = card.getBoundingClientRect();
  const own = ".longtask-actions, .longtask-corner, .longtask-jump, .longtask-spoken, details";
  const left = `${own}, .longtask-wait, .longtask-text, .longtask-offer, [hidden]`;
  const parts = ".longtask-state, .longtask-figure, .longtask-note, .longtask-body, .longtask-foot";
  const inside = ".longtask-rendered, .longtask-rendered *, .longtask-foot > *, .longtask-json";
  const shown = [card, ...card.querySelectorAll(`${parts}, ${inside}`)].filter((e) => {
    if (/^lt-|^$/.test(e.className) && e.tagName === "SPAN") return false;  // a colour
    if (e.className === "numbering-entry") return false;  // JupyterLab's, in every heading
    return (e.matches(".longtask-lang") || !e.closest(left)) && e.getClientRects().length > 0;
  });
  return shown.map((e) => {
    const box = e.getBoundingClientRect();
    const style = getComputedStyle(e);
    const fonts = ["fontSize", "fontFamily", "fontWeight", "lineHeight", "textAlign", "color"];
    const more = ["backgroundColor", "borderBottomWidth"];
    const own = /^(longtask-(output|saved)|mathjax|tex2jax)/;
    const named = [...e.classList].filter((name) => !own.test(name));
    return {
      what: [e.tagName, ...named].join("."),
      box: [box.left - origin.left, box.top - origin.top, box.width, box.height].map(Math.round),
      ...Object.fromEntries([...fonts, ...more].map((name) => [name, style[name]])),
    };
  });
}"""
# What is said of a task that has ended and finds no room.
CLIPPED = """(card) => {
  const told = card.querySelectorAll(".longtask-figure, .longtask-replayed");
  return [...told].filter((e) => {
    const box = e.getBoundingClientRect();
    const isOutside = (around) => box.bottom > around.bottom + 1 || box.right > around.right + 1;
    let above = e.parentElement;
    while (card.contains(above)) {
      if (isOutside(above.getBoundingClientRect())) return true;
      above = above.parentElement;
    }
    return Boolean(e.textContent) && box.height === 0 && !e.hidden;
  }).map((e) => e.textContent);
}"""
COLOURS = """(card) => Object.fromEntries(
  [..."ksfcnt"].map((name) => [name, card.querySelector(`.lt-${name}`)]).filter(([, e]) => e)
    .map(([name, e]) => [name, getComputedStyle(e).color]))"""


def open_states(open_notebook: Open, *names: str) -> Notebook:
    """Open a notebook that shows states, each live and saved."""
    notebook = open_notebook(*make_cells(*names))
    notebook.run_all()
    return notebook


def measure(notebook: Notebook, script: str) -> tuple[Any, Any]:
    """Measure the live and the saved card."""
    output = notebook.output(1)
    output.locator(".longtask-output .longtask-scroller.is-over").wait_for()
    live = output.locator(".longtask-output").first.evaluate(script)
    return live, output.locator(".longtask-saved").first.evaluate(script)


@pytest.mark.parametrize("state", ["completed", "long", "replayed"])
def test_live_and_saved_differ_in_no_box_font_or_width(open_notebook: Open, state: str) -> None:
    notebook = open_states(open_notebook, state)
    for width, theme in ((1400, "light"), (700, "dark"), (390, "light")):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        notebook.set_theme(theme)
        live, saved = measure(notebook, MEASURE)
        assert [part["what"] for part in live] == [part["what"] for part in saved]
        assert len(live) > 5
        different = [pair for pair in zip(live, saved, strict=True) if pair[0] != pair[1]]
        assert different == [], f"{width} px, {theme}"
        assert measure(notebook, CLIPPED) == ([], []), f"{width} px"
        assert ("replayed" in str(live)) == (state == "replayed")
    if state == "completed":
        live, saved = measure(notebook, COLOURS)
        assert set(saved) == set("kfscn")
        assert {name: live[name] for name in saved} == saved


def test_the_buttons_of_a_card_do_what_they_say(open_notebook: Open, kit: lt.Kit) -> None:
    go = threading.Event()

    async def wait(_: lt.TaskContext) -> AsyncIterator[str]:
        yield "Half "
        await asyncio.to_thread(go.wait, 60)
        yield "and whole.\n\n```python\nprint(1)\n```"

    async def fail_once(context: lt.TaskContext) -> AsyncIterator[str]:
        if context.attempt == 1:
            raise lt.RetryableError("the model service answered 500", retry_after_s=600)
        yield "done"

    kit.serve(handlers={"wait": wait, "fail_once": fail_once})
    names = ("wait", "fail_once")
    ids = [kit.submit("x", handler=name).id for name in names] + [
        kit.submit("x", model="demo@5").id
    ]
    show = f"for task_id in {ids}:\n    display(TaskOutput(kit.attach(task_id)))\n"
    lost = "display(lost := TaskOutput())\n"
    lost += "lost.show(taskId='task_1', status='running', isDisconnected=True)"
    shown = "from longtask_kit.widgets import TaskOutput\n" + show + lost
    notebook = open_notebook(CONNECT, shown)
    notebook.run_all()
    cards = notebook.output(1).locator(".longtask-output")
    waiting, failing, running, gone = (cards.nth(number) for number in range(4))

    def click(card: Locator, name: str) -> None:
        card.get_by_role("button", name=name, exact=True).click()

    def copied(text: str) -> None:
        read = "navigator.clipboard.readText()"
        notebook.page.wait_for_function(f"{read}.then(t => t.trim() === {text!r})")

    waiting.locator(".longtask-rendered p").wait_for()
    click(waiting, "Stop watching")
    waiting.get_by_text("the task runs on").wait_for()
    go.set()
    kit.attach(ids[0]).result(30)
    assert waiting.get_attribute("data-status") == "running", "nobody looks"
    click(waiting, "Watch again")
    waiting.locator(".longtask-scroller.is-over").wait_for()
    waiting.locator(".longtask-code .longtask-copy").click()
    copied("print(1)")
    click(waiting, "Raw")
    raw = waiting.locator(".longtask-text")
    assert "mono" in raw.evaluate("e => getComputedStyle(e).fontFamily")
    click(gone, "Copy kit.attach(…)")
    copied('kit.attach("task_1")')
    click(failing, "Try now")
    notebook.output(1).locator('[data-status="completed"]').nth(1).wait_for()
    running.get_by_role("button", name="Stop watching").press("Shift+Escape")
    notebook.output(1).locator('[data-status="cancelled"]').wait_for()
    focused = "document.activeElement"
    notebook.page.wait_for_function(f"{focused}.dataset.status === 'cancelled'")  # the button went
    notebook.page.keyboard.press("Tab")
    assert notebook.page.evaluate(f"{focused}.textContent") == "Retry"


BESIDE = """(width) => {
  const area = document.querySelectorAll(".jp-CodeCell")[1].querySelector(".jp-OutputArea");
  const columns = width < 600 ? "1fr" : "1fr 1fr";
  Object.assign(area.style, {display: "grid", gridTemplateColumns: columns, alignItems: "start"});
  return area.scrollHeight;
}"""


def find_serious(notebook: Notebook, context: str) -> list[Any]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(notebook.page, context=context).response
    assert found["passes"], "the check does look"
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"]])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_state_is_readable_in_every_width(open_notebook: Open, theme: str) -> None:
    notebook = open_notebook(*make_cells())
    hosts = set[str]()
    notebook.page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    notebook.run_all()
    output = notebook.output(1)
    output.locator(".longtask-output").nth(len(STATES) - 1).wait_for()
    output.locator("math").first.wait_for()
    output.locator("mjx-container").first.wait_for()
    notebook.set_theme(theme)
    for width in (1400, 700, 390):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        height = notebook.page.evaluate(BESIDE, width)
        wide = output.locator(".longtask-card").evaluate_all(
            "cards => cards.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
        )
        assert wide == [], f"nothing is cut off at {width} px"
        notebook.page.set_viewport_size({"width": width, "height": height + 1000})
        notebook.shoot(output, f"card-states-{width}-{theme}")
    assert find_serious(notebook, ".longtask-card") == []
    assert hosts <= {"127.0.0.1", ""}, "nothing is fetched from elsewhere"
    assert notebook.errors == []


@pytest.mark.thorough
def test_a_saved_card_of_a_stranger_keeps_its_frame_and_its_words(open_notebook: Open) -> None:
    notebook = open_states(open_notebook, "completed", "math")
    notebook.output(1).locator(".longtask-saved").nth(1).wait_for()
    document = notebook.save()
    document["cells"][1]["source"] = "# changed by a stranger, so that no signature fits"
    tab = notebook.open_stranger(document)
    card = tab.locator(".longtask-saved").first
    card.wait_for()
    assert tab.locator(".longtask-card style, .jp-OutputArea-output style").count() == 0
    assert card.evaluate("e => getComputedStyle(e).borderTopWidth") == "1px"
    for words in ("completed", "gpt-4o-mini", "A queue in ten lines", "task_Z8G0j", "Copy"):
        assert words in card.inner_text()
    assert card.locator("table td").count() == 6
    card.screenshot(path=_shots("card-untrusted-light"))


def _shots(name: str) -> str:
    from tests.browser.jupyter import SHOTS

    SHOTS.mkdir(parents=True, exist_ok=True)
    return str(SHOTS / f"{name}.png")


# When each update came, in frames of the page, and when it was drawn, with what then stood there.
WATCH = """() => {
  window.frame = 0;
  const count = () => { window.frame += 1; requestAnimationFrame(count); };
  requestAnimationFrame(count);
  const text = document.querySelector(".longtask-text");
  const rendered = document.querySelector(".longtask-rendered");
  window.drawn = [];
  new MutationObserver(() => {
    const seen = rendered.cloneNode(true);
    for (const code of seen.querySelectorAll(".longtask-code")) code.remove();
    const behind = window.frame - (window.heard ?? window.frame);
    const texts = document.createTreeWalker(seen, NodeFilter.SHOW_TEXT);
    const parts = [];
    while (texts.nextNode()) parts.push(texts.currentNode.data);
    window.drawn.push({behind, raw: text.textContent, seen: parts.join(" ")});
    window.heard = null;
  }).observe(text, {subtree: true, childList: true, characterData: true});
}"""
# A page that is busy puts off a look that took long; by this clock none takes any time.
HEAR = """
let frameAt = performance.now();
const tick = (at) => { frameAt = at; requestAnimationFrame(tick); };
requestAnimationFrame(tick);
performance.now = () => frameAt;
const Real = window.WebSocket;
window.WebSocket = class extends Real {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", async ({data}) => {
      const bytes = typeof data === "string" ? data : new TextDecoder().decode(data);
      if (bytes.includes('"t": "u"') && bytes.includes('"d": ')) window.heard ??= window.frame;
    });
  }
};"""
RAW = re.compile(r"\*\*|~~|^#|\n#|`|\]\(|\|[ -]|^- |\n- |\[[ x]\]|^\d\. |\n> ")


def test_a_growing_answer_shows_no_raw_mark_and_is_not_waited_for(
    open_notebook: Open, kit: lt.Kit
) -> None:
    go = threading.Event()

    async def dictate(_: lt.TaskContext) -> AsyncIterator[str]:
        yield "Well.\n\n"
        await asyncio.to_thread(go.wait)
        for at in range(0, len(ANSWER), 5):
            yield ANSWER[at : at + 5]
            await asyncio.sleep(0.02)

    kit.serve(handlers={"dictate": dictate})
    task = kit.submit("x", handler="dictate")
    show = f"from longtask_kit.widgets import TaskOutput\nTaskOutput(kit.attach({task.id!r}))"
    notebook = open_notebook(CONNECT, show, own_page=True)
    notebook.page.add_init_script(HEAR)
    notebook.reload()
    notebook.run_all()
    card = notebook.output(1).locator(".longtask-output")
    card.locator(".longtask-rendered p").wait_for()  # the library comes once a page
    notebook.page.evaluate(WATCH)
    go.set()
    card.locator(".longtask-scroller.is-over").wait_for()
    drawn = [step for step in notebook.page.evaluate("window.drawn") if step["seen"]]
    assert len(drawn) > 20
    assert [step["seen"] for step in drawn if RAW.search(step["seen"])] == []
    for step in drawn:
        came = re.sub(r"```.*?(```|$)|\]\([^)]*\)?|\[[x ]\]", "", step["raw"], flags=re.DOTALL)
        words = re.findall("[A-Za-z]+", came)
        shown = re.findall("[A-Za-z]+", step["seen"])
        # A box for a tick, half of which has come, counts as a word: nothing else is held back.
        assert len(shown) >= len(words) - 1, "what is drawn is all that has come"
    behind = [step["behind"] for step in drawn if step["behind"] is not None]
    assert median(behind) <= 3, "frames, of 16 ms"
