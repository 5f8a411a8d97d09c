"""What stays in the saved notebook: readable, and never markup of the model's."""

import re
from html.parser import HTMLParser

import pytest

import longtask_kit as lt
from longtask_kit.log.transcript import Transcript
from longtask_kit.widgets.saved import make_bundle

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
        if tag in ("script", "img", "svg", "iframe", "style", "math", "body", "input", "details"):
            self.found.append(tag)
        for name, value in attrs:
            if name.startswith("on") or re.match(
                r"\s*(javascript|data|vbscript):", value or "", re.I
            ):
                self.found.append(f"{tag} {name}")


def find_attacks(html: str) -> list[str]:
    parser = Attacks()
    parser.feed(html)
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
    for state in (
        make_state(payload, status="completed"),
        make_state("x", status="failed", error=payload, code=payload),
    ):
        assert find_attacks(make_bundle(state)["text/html"]) == []


def test_markdown_is_rendered_and_escapes_are_removed() -> None:
    bundle = make_bundle(make_state("# Head\n\n- one\x1b[31m\n\n```\na<b\n```", status="completed"))
    assert "<h1>Head</h1>" in bundle["text/html"]
    assert "<li>one[31m</li>" in bundle["text/html"]
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


def test_without_a_kernel_a_task_prints_itself(
    kit: lt.Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task._ipython_display_()
    assert capsys.readouterr().out.rstrip("\n") == task.text.rstrip("\n")
