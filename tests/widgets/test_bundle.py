"""What stays in the saved notebook: readable, and never markup of the model's."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

import longtask_kit as lt
from longtask_kit.log.transcript import Transcript
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.widgets.saved import make_bundle, read_style

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:alert(1))",
    '![x](x.png" onerror="alert(1))',
    "![x](javascript:alert(1))",
    "<details open ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    "</div><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<!--><script>alert(1)</script>-->",
    "```html\n<script>alert(1)</script>\n```",
    "`<img src=x onerror=alert(1)>`",
    "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |",
    "<style>@import 'javascript:alert(1)'</style>",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]


class Attacks(HTMLParser):
    """Finds what could run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "svg", "iframe", "style", "math", "body", "input"):
            self.found.append(tag)
        for name, value in attrs:
            if name.startswith("on") or re.match(
                r"\s*(javascript|data|vbscript):", value or "", re.I
            ):
                self.found.append(f"{tag} {name}")


def find_attacks(html: str) -> list[str]:
    """Find what could run, in a saved card beside the style that it brings, or in any HTML."""
    parser = Attacks()
    parser.feed(html.removeprefix(f"<style>{read_style()}</style>"))
    return parser.found


def make_state(text: str, **facts: object) -> Transcript:
    state = Transcript(**facts)  # type: ignore[arg-type]
    state._chunks.append(text)
    return state


def test_the_check_itself_finds_attacks() -> None:
    assert find_attacks(PAYLOADS[0])
    assert find_attacks("<a href='javascript:x'>")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_becomes_markup(payload: str) -> None:
    call = {"function": {"name": payload, "arguments": payload}}
    for state in (
        make_state(payload, status="completed"),
        make_state(f"${payload}$ \\({payload}\\)\n\n$$\n{payload}\n$$", status="completed"),
        make_state(f"```python\n{payload}\n```", status="completed"),
        make_state("x", status="failed", error=payload, code=payload),
        make_state("x", status="completed", finish_reason=payload, refusal=payload),
        make_state("x", status="running", tool_calls=[call], data={payload: payload}),
        make_state("x", status="running", data={"progress": {"done": 1, "message": payload}}),
    ):
        state._reasoning.append(payload)
        spec = TaskSpec(prompt=payload, model=payload)
        assert find_attacks(make_bundle(state, task_id=payload, spec=spec)["text/html"]) == []


def test_markdown_is_rendered_and_escapes_are_removed() -> None:
    bundle = make_bundle(make_state("# Head\n\n- one\x1b[31m\n\n```\na<b\n```", status="completed"))
    assert "<h1>Head</h1>" in bundle["text/html"]
    assert "<li>one[31m</li>" in bundle["text/html"]
    assert "\x1b" not in bundle["text/html"]
    assert "a&lt;b" in bundle["text/html"]
    assert "\x1b" not in bundle["text/plain"]


def test_an_unhappy_end_keeps_its_text_cause_and_cure() -> None:
    state = make_state("half a text", status="failed", error="401", code="invalid_api_key")
    plain = make_bundle(state)["text/plain"]
    assert plain.startswith("half a text")
    assert "401" in plain
    assert "OPENAI_API_KEY" in plain
    assert (
        make_bundle(make_state("half", status="cancelled"))["text/plain"] == "half\n\n[cancelled]"
    )


def test_an_end_that_is_none_is_told_in_text_and_html() -> None:
    state = make_state("half a", status="completed", finish_reason="length")
    bundle = make_bundle(state, spec=TaskSpec(prompt="x", max_tokens=3), task_id="task_1")
    assert bundle["text/plain"] == "half a\n\n[stopped at max_tokens (3)]"
    assert "is-warn" in bundle["text/html"]
    assert "stopped at max_tokens (3)</span>" in bundle["text/html"]
    called = make_state(
        "",
        status="completed",
        finish_reason="tool_calls",
        tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1}'}}],
    )
    assert make_bundle(called)["text/plain"] == 'f({"a": 1})\n\n[1 tool call]'


def test_an_answer_without_text_is_told_with_what_came_beside() -> None:
    assert make_bundle(make_state("", status="completed"))["text/plain"] == "[completed]"
    told = make_state(" \n", status="completed", data={"rows": [1, "\x1b[31m"]})
    assert make_bundle(told)["text/plain"].strip() == 'rows: [1, "\\u001b[31m"]\n\n[completed]'
    assert make_bundle(make_state("x", status="completed"))["text/plain"] == "x"


def test_a_saved_card_names_its_task_and_holds_the_text_to_be_copied() -> None:
    spec = TaskSpec(prompt="Explain tides", model="demo")
    html = make_bundle(make_state("a *b*", status="completed"), task_id="task_1", spec=spec)[
        "text/html"
    ]
    assert "<code>task_1</code>" in html
    assert "“Explain tides”" in html
    assert "<pre>a *b*</pre>" in html
    assert "<b>demo</b>" in html


def test_a_task_under_way_is_saved_with_the_code_that_goes_on() -> None:
    state, spec = make_state("so far", status="running"), TaskSpec(prompt="Explain tides")
    state.answered = state.first_token = datetime(2026, 1, 1, tzinfo=UTC)
    bundle = make_bundle(state, task_id="task_1", spec=spec)
    goes_on = '[“Explain tides” streaming: kit.attach("task_1") goes on from here]'
    assert bundle["text/plain"] == f"so far\n\n{goes_on}"
    gone = make_bundle(state, task_id="task_1", spec=spec, is_disconnected=True)
    assert "disconnected: kit.attach" in gone["text/plain"]
    assert "<code>kit.attach(&quot;task_1&quot;)</code>" in gone["text/html"]
    assert "is-quiet" in gone["text/html"]


def test_only_formulas_are_typeset() -> None:
    html = make_bundle(make_state("$5 or $x$", status="completed"))["text/html"]
    [section] = re.findall(r"<section[^>]*>", html)
    assert "tex2jax_ignore mathjax_ignore" in section
    assert html.count("mathjax_process") == 1


def test_a_long_answer_folds() -> None:
    text = "\n\n".join(f"Paragraph {n}." for n in range(60))
    html = make_bundle(make_state(text, status="completed"))["text/html"]
    shown, hidden = html.split("<summary>Show all</summary>")
    assert shown.count("<p>") == 12
    assert hidden.count("<p>") == 48


def test_without_a_kernel_a_task_prints_itself(
    kit: lt.Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task._ipython_display_()
    assert capsys.readouterr().out.rstrip("\n") == task.text.rstrip("\n")
