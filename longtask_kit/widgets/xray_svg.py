"""A task's x-ray as SVG: one pure function from its timeline to a picture whose words are text.

The picture is as wide as its place, its words stay as large: places are per cent, areas stand in a
drawing of their own that is stretched; where it is narrow, words of class `w` are left out. In a
page its ink is the page's; as a file of its own it is light or dark by what its viewer prefers.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from longtask_kit.log.text import make_printable
from longtask_kit.log.timeline import WAITS
from longtask_kit.widgets.facts import format_duration
from longtask_kit.widgets.xray_scale import Scale, make_scale_of_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.log.timeline import Attempt, Kind, Piece, Span, Timeline

MOST_ATTEMPTS = 12
_WIDE = 1000  # units across of a stretched drawing
_HIGH = 30
_ROW_PX, _QUEUE_PX, _AXIS_PX = 82, 40, 24
_OUTCOME_CHARS, _NARROW_CHARS = 46, 26
_BINS, _TICKS = 480, 720  # of all attempts together
STYLE = (
    "svg:root{color:#1b2430;background:#fff}"
    "@media(prefers-color-scheme:dark){svg:root{color:#e4e9f0;background:#171c23}}"
    ".ltx{--ink:var(--jp-content-font-color1,currentColor);"
    "--soft:color-mix(in srgb,var(--ink) 68%,transparent);"
    "--run:#2563c9;--good:#1d8a58;--bad:#c93a38;--warn:#b06500;--wait:#a06a00;--quiet:#697586;"
    "--think:#8250df;display:block;overflow:visible;font:12px/1 var(--jp-content-font-family,"
    "system-ui,-apple-system,'Segoe UI',sans-serif);font-variant-numeric:tabular-nums}"
    ".ltx text{fill:var(--soft)}.ltx .b{fill:var(--ink);font-weight:600}"
    ".ltx .is-good{--hue:var(--good)}.ltx .is-bad{--hue:var(--bad)}"
    ".ltx .is-warn{--hue:var(--warn)}.ltx .is-quiet{--hue:var(--quiet)}"
    ".ltx .is-run{--hue:var(--run)}.ltx .is-wait{--hue:var(--wait)}"
    ".ltx .o{fill:color-mix(in srgb,var(--hue,var(--ink)) 72%,var(--ink))}"
    ".ltx svg{overflow:visible}.ltx path,.ltx rect,.ltx line{vector-effect:non-scaling-stroke}"
    ".ltx .queue{fill:var(--quiet);opacity:.4}.ltx .delivery{fill:var(--quiet);opacity:.85}"
    ".ltx .first{fill:none;stroke:var(--run);stroke-dasharray:3 3}"
    ".ltx .reasoning{fill:var(--think);opacity:.55}"
    ".ltx .streaming{fill:var(--run);opacity:.6}.ltx .is-good .streaming{fill:var(--good)}"
    ".ltx .is-bad .streaming{fill:var(--bad)}.ltx .is-quiet .streaming{fill:var(--quiet)}"
    ".ltx .limit{fill:var(--wait);opacity:.7}.ltx .retry,.ltx .silence{fill:var(--wait);opacity:.3}"
    ".ltx .dots{fill:none;stroke:var(--wait);stroke-width:1.5;stroke-dasharray:2 4}"
    ".ltx .n{display:none}"
    "@container(max-width:440px){.ltx .w{display:none}.ltx .n{display:inline}}"
    ".ltx .tick{fill:none;stroke:var(--soft)}.ltx .seam{stroke:var(--ink);stroke-width:2}"
    ".ltx .axis{stroke:var(--soft);opacity:.5}"
)


def draw_timeline(timeline: Timeline) -> str:
    """Return a task's timeline as SVG."""
    scale = make_timeline_scale(timeline)
    attempts = choose_attempts(timeline.attempts)
    peak = find_peak([rate for attempt in attempts for rate in _list_rates(attempt, 40)])
    rows, y = [], 0
    for attempt in attempts:
        if attempt.number == 0:
            rows.append(_draw_queue(attempt, scale, y))
            y += _QUEUE_PX
        else:
            rows.append(_draw_attempt(attempt, scale, y, count=len(attempts), peak=peak))
            y += _ROW_PX
    hidden = len(timeline.attempts) - len(attempts)
    if hidden:
        rows.append(draw_text(0, y + 10, f"and {hidden} more attempts in between"))
        y += 22
    return wrap([*rows, draw_axis(scale, y)], height=y + _AXIS_PX, label=describe(timeline))


def wrap(parts: Sequence[str], *, height: int, label: str) -> str:
    """Return a whole picture; words that a page can't draw at least stand apart."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ltx" width="100%" height="{height}" '
        f'role="img" aria-label="{escape_text(label)}"><style>{STYLE}</style>'
        f"{chr(10).join(parts)}</svg>"
    )


def choose_attempts(attempts: list[Attempt]) -> list[Attempt]:
    """Return those that are drawn: of very many the first and the last."""
    if len(attempts) <= MOST_ATTEMPTS:
        return attempts
    return attempts[: MOST_ATTEMPTS // 2] + attempts[-MOST_ATTEMPTS // 2 :]


def make_timeline_scale(timeline: Timeline) -> Scale:
    """Return the scale of a task's time axis: cut where it waits, or had ended until a retry."""
    spans = (span for attempt in timeline.attempts for span in attempt.spans)
    return make_scale_of_spans(spans, timeline.total_s)


def draw_axis(scale: Scale, y: int, *, left: float = 0.0) -> str:
    """Draw the time axis below the rows, to the right of `left` of the whole width."""
    parts = [f'<line class="axis" x1="{percent(left)}" x2="100%" y1="{y}" y2="{y}"/>']
    for tick, word in scale.list_ticks():
        place = left + (1 - left) * tick
        anchor = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
        x = percent(place)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}"/>')
        parts.append(draw_text(x, y + 17, word, anchor=anchor))
    return "\n".join(parts)


def _draw_queue(attempt: Attempt, scale: Scale, y: int) -> str:
    waited = format_duration(1000 * sum(span.length_s for span in attempt.spans))
    bars = "".join(draw_rect(span, scale, 0, 10) for span in attempt.spans)
    return (
        f'<text y="{y + 11}"><tspan class="b">queue</tspan><tspan dx="10">{waited}</tspan></text>'
        + stretch(bars, y + 18, 10)
    )


def _draw_attempt(attempt: Attempt, scale: Scale, y: int, *, count: int, peak: float) -> str:
    outcome = _shorten(attempt.outcome)
    told, more = list_figures(attempt)
    inside = [_draw_span(span, scale) for span in attempt.spans]
    inside += [
        _draw_area(attempt, kind, scale, peak, bins=max(24, _BINS // count))
        for kind in ("reasoning", "streaming")
    ]
    inside.append(_draw_flushes(attempt, scale, most=max(40, _TICKS // count)))
    for seam in attempt.seams:
        x = units(scale.find_place(seam))
        inside.append(f'<path class="seam" d="M{x} 0V{_HIGH}"/>')
    parts = [
        f'<g class="is-{attempt.mood}">',
        f'<text class="b" y="{y + 12}">attempt {attempt.number}</text>',
        _draw_outcome(outcome, attempt.outcome, y + 12),
        stretch("".join(inside), y + 20, _HIGH),
        _draw_break(attempt, scale, y + 40),
        f'<text y="{y + 66}">{" · ".join(told)}',
        f'<tspan class="w">{"".join(f" · {word}" for word in more)}</tspan></text></g>',
    ]
    return "\n".join(parts)


def _draw_outcome(outcome: str, whole: str, y: int) -> str:
    """Draw how an attempt ended; where it is narrow, as much of that as there is room for."""
    told, more = outcome, ""
    if len(outcome) > _NARROW_CHARS:
        told = outcome[: _NARROW_CHARS - 1].rpartition(" ")[0] or outcome[: _NARROW_CHARS - 1]
        more = outcome[len(told) :]
    rest = f'<tspan class="w">{escape_text(more)}</tspan><tspan class="n">…</tspan>'
    title = "" if outcome == whole else f"<title>{escape_text(clip(whole, 500))}</title>"
    words = f"{escape_text(told)}{rest if more else ''}{title}"
    return f'<text class="o" x="100%" y="{y}" text-anchor="end">{words}</text>'


def _draw_break(attempt: Attempt, scale: Scale, y: int) -> str:
    """Mark where an attempt broke off."""
    ends = [span.end_s for span in attempt.spans if span.kind not in WAITS]
    if attempt.mood != "bad" or not ends:
        return ""
    place = scale.find_place(ends[-1])
    anchor, dx = ("end", -3) if place > 0.96 else ("start", 3)
    return draw_text(percent(place), y, "✕", anchor=anchor, name="o", dx=dx)


def describe_figures(attempt: Attempt) -> str:
    """Return an attempt's figures in words."""
    told, more = list_figures(attempt)
    return " · ".join([*told, *more])


def list_figures(attempt: Attempt) -> tuple[list[str], list[str]]:
    """Return an attempt's figures in words: those there is always room for, and the others."""
    first = format_duration(1000 * attempt.count_s("first"))
    told = [f"first token {first}" if attempt.pieces else f"no token in {first}"]
    if attempt.tokens:
        told.append("1 token" if attempt.tokens == 1 else f"{attempt.tokens:,} tokens")
    if (rate := attempt.rate) is not None:
        told.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    more = [
        f"{word} {format_duration(1000 * spent_s)}"
        for kind, word, least_s in _FIGURES
        if (spent_s := attempt.count_s(kind)) > least_s
    ]
    return told, more


_FIGURES: tuple[tuple[Kind, str, float], ...] = (
    ("delivery", "delivery", 0.05),
    ("limit", "limit", 0.0),
    ("reasoning", "reasoning", 0.0),
    ("retry", "next try after", 0.0),
    ("silence", "silent for", 0.0),
)


def describe(timeline: Timeline) -> str:
    """Return a task's timeline as a sentence for who can't see it."""
    parts = [f"Task {timeline.word}, {format_duration(1000 * timeline.total_s)} in all"]
    for attempt in choose_attempts(timeline.attempts):
        figures = describe_figures(attempt)
        if attempt.number == 0:
            waited = format_duration(1000 * sum(span.length_s for span in attempt.spans))
            parts.append(f"{waited} in the queue")
        else:
            outcome = f", then {clip(attempt.outcome, 120)}" if attempt.outcome else ""
            parts.append(f"attempt {attempt.number}: {figures}{outcome}")
    return f"{'; '.join(parts)}."


def _draw_span(span: Span, scale: Scale) -> str:
    if span.kind in ("retry", "limit", "silence", "queue"):
        left, right = (units(scale.find_place(at)) for at in (span.begin_s, span.end_s))
        middle = _HIGH // 2
        return f'<path class="dots" d="M{left} {middle}H{right}"/>'
    if span.kind == "first":
        return draw_rect(span, scale, 1, _HIGH - 2)
    return draw_rect(span, scale, 0, _HIGH) if span.kind == "delivery" else ""


def _draw_area(attempt: Attempt, kind: str, scale: Scale, peak: float, *, bins: int) -> str:
    """Draw the rate of a kind of text as an area over its spans."""
    parts = []
    for span in attempt.spans:
        if span.kind != kind:
            continue
        left, right = scale.find_place(span.begin_s), scale.find_place(span.end_s)
        # Not more bins than can be told apart, nor than there were pieces.
        pieces = [p for p in attempt.pieces if span.begin_s <= p.at_s <= span.end_s]
        count = max(1, min(bins, round((right - left) * 240), 2 * len(pieces)))
        rates = count_rates(pieces, span.begin_s, span.end_s, count)
        width = (right - left) / count
        points = []
        for number, rate in enumerate(rates):
            height = _HIGH * min(1.0, rate / peak) if peak else 0.0
            points.append(f"L{units(left + (number + 0.5) * width)} {_HIGH - height:.1f}")
        first, last = points[0].split(" ")[1], points[-1].split(" ")[1]
        x0, x1 = units(left), units(max(right, left + 0.003))
        path = f"M{x0} {_HIGH}V{first}{''.join(points)}L{x1} {last}V{_HIGH}Z"
        parts.append(f'<path class="{kind}" d="{path}"/>')
    return "".join(parts)


def find_peak(rates: Sequence[float]) -> float:
    """Return the rate that is drawn as high as can be; a burst now and then is cut off at it."""
    ranked = sorted(rate for rate in rates if rate > 0)
    return 1.15 * ranked[int(0.92 * (len(ranked) - 1))] if ranked else 0.0


def _list_rates(attempt: Attempt, count: int) -> list[float]:
    return [
        rate
        for span in attempt.spans
        if span.kind in ("reasoning", "streaming")
        for rate in count_rates(
            [p for p in attempt.pieces if span.begin_s <= p.at_s <= span.end_s],
            span.begin_s,
            span.end_s,
            count,
        )
    ]


def count_rates(pieces: Sequence[Piece], begin_s: float, end_s: float, count: int) -> list[float]:
    """Return tokens a second in so many equal parts of a stretch.

    What was stored at once has come since what was stored before it.
    """
    part_s = (end_s - begin_s) / count
    tokens = [0.0] * count
    before = begin_s
    for piece in pieces:
        first = min(count - 1, int((before - begin_s) / part_s)) if part_s else 0
        last = min(count - 1, int((piece.at_s - begin_s) / part_s)) if part_s else 0
        came_s = piece.at_s - before
        for number in range(first, last + 1):
            left, right = begin_s + number * part_s, begin_s + (number + 1) * part_s
            inside = min(right, piece.at_s) - max(left, before)
            share = inside / came_s if came_s > 0 else 1.0 / (last - first + 1)
            tokens[number] += piece.tokens * max(0.0, share)
        before = piece.at_s
    smooth = [
        sum(tokens[max(0, at - 1) : at + 2]) / len(tokens[max(0, at - 1) : at + 2])
        for at in range(count)
    ]
    return [come / part_s if part_s else come for come in smooth]


def _draw_flushes(attempt: Attempt, scale: Scale, *, most: int) -> str:
    """Mark below the bar when text was stored; marks that would touch are one."""
    places = sorted({round(_WIDE * scale.find_place(p.at_s), 1) for p in attempt.pieces})
    apart = max(1.5, _WIDE / most)
    marks: list[float] = []
    for place in places:
        if not marks or place - marks[-1] >= apart:
            marks.append(place)
    path = "".join(f"M{_number(x)} {_HIGH + 2}v3" for x in marks)
    return f'<path class="tick" d="{path}"/>' if path else ""


def draw_rect(span: Span, scale: Scale, y: int, height: int) -> str:
    """Draw a span as a box."""
    left, right = scale.find_place(span.begin_s), scale.find_place(span.end_s)
    width = units(max(right - left, 0.002))
    return (
        f'<rect class="{span.kind}" x="{units(left)}" y="{y}" width="{width}" height="{height}"/>'
    )


def stretch(inside: str, y: int, height: int, *, left: float = 0.0) -> str:
    """Draw what is as wide as its place, to the right of `left` of the whole width."""
    return (
        f'<svg x="{percent(left)}" y="{y}" width="{percent(1 - left)}" height="{height}" '
        f'viewBox="0 0 {_WIDE} {height}" preserveAspectRatio="none">{inside}</svg>'
    )


def draw_text(
    x: object,
    y: int,
    words: str,
    *,
    anchor: str = "start",
    name: str = "",
    dx: int = 0,
) -> str:
    """Draw words."""
    named = f' class="{name}"' if name else ""
    placed = f' text-anchor="{anchor}"' if anchor != "start" else ""
    moved = f' dx="{dx}"' if dx else ""
    return f'<text{named} x="{x}" y="{y}"{placed}{moved}>{escape_text(words)}</text>'


def percent(place: float) -> str:
    """Return a place on the whole width."""
    return f"{_number(round(100 * place, 2))}%"


def units(place: float) -> str:
    """Return a place on a stretched drawing."""
    return _number(round(_WIDE * place, 1))


def _number(value: float) -> str:
    return f"{value:g}"


def _shorten(text: str) -> str:
    """Return an outcome as short as there is room for; of a long one its first clause."""
    text = clip(text, 10_000)
    if len(text) > _OUTCOME_CHARS:
        text = min((text.partition(mark)[0] for mark in (": ", ". ")), key=len)
    return clip(text, _OUTCOME_CHARS)


def clip(text: str, most: int) -> str:
    """Return a text on one line, and no longer than that."""
    text = " ".join(make_printable(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def escape_text(text: str) -> str:
    """Return a text as markup."""
    return escape(make_printable(text))
