"""`XRay`: what `task.xray()` returns, a picture of where a task's time went."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from longtask_kit.log.text import make_printable
from longtask_kit.log.timeline import MODEL, WORDS, Timeline, read_timeline
from longtask_kit.widgets.facts import describe_task, format_duration
from longtask_kit.widgets.saved import read_style
from longtask_kit.widgets.saved_style import HUES, LINE
from longtask_kit.widgets.xray_svg import (
    choose_attempts,
    describe_figures,
    draw_timeline,
    make_timeline_scale,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.client.task import Task
    from longtask_kit.log.timeline import Kind
    from longtask_kit.widgets.xray_scale import Scale

_MOST_WORDS = 300
_MOMENTS = 1000  # of which the page knows the text: as many as it can point at


class XRay:
    """Where a task's time went; as the last line of a cell live, and with the text of any moment.

    Attributes:
        task: Whose it is.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def __repr__(self) -> str:
        return f"<XRay {self.task.id} {self.task.status}>"

    @property
    def timeline(self) -> Timeline:
        """When what happened, as of now."""
        self.task.snapshot()  # has what happened before this call taken in
        return self._read()

    @property
    def svg(self) -> str:
        """The picture as of now: write it into a file, or anywhere where SVG is shown."""
        return draw_timeline(self.timeline)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return make_bundle(self.timeline, task_id=self.task.id)

    def _ipython_display_(self) -> None:
        """Show it live, or print it in words where there are no widgets."""
        from longtask_kit.widgets.display import find_kernel_shell

        shell = find_kernel_shell()
        if shell is None:
            from longtask_kit.client.terminal import take_any_text

            take_any_text(sys.stdout)
            sys.stdout.write(f"{describe_text(self.timeline, task_id=self.task.id)}\n")
            return
        from longtask_kit.widgets.xray_output import display_xray

        display_xray(self, shell)

    def _read(self) -> Timeline:
        """Return when what happened, as far as is known here; nothing is asked."""
        return read_timeline(
            self.task._feed.list_events(),
            now=datetime.now(UTC),
            max_tokens=self.task._brief.max_tokens,
        )


def make_bundle(timeline: Timeline, *, task_id: str) -> dict[str, str]:
    """Return the MIME bundle: `text/plain` and `text/html`, without script."""
    return {
        "text/plain": describe_text(timeline, task_id=task_id),
        "text/html": describe_html(timeline, task_id=task_id),
    }


def list_figures(timeline: Timeline) -> list[tuple[str, str, str]]:
    """Return the figures of the head as (before, value, after)."""
    count = sum(attempt.number > 0 for attempt in timeline.attempts)
    waits: tuple[Kind, ...] = ("limit", "retry", "silence")
    figures = [("", format_duration(1000 * timeline.total_s), " in all")]
    if count > 1:
        figures.append(("", str(count), " attempts"))
    for name, kinds in (("queue", ("queue", "delivery")), ("waits", waits), ("model", (*MODEL,))):
        if spent_s := timeline.count_s(*kinds):
            figures.append((f"{name} ", format_duration(1000 * spent_s), ""))
    return figures


def describe_text(timeline: Timeline, *, task_id: str) -> str:
    """Return a line of figures, and one for each attempt."""
    figures = [f"{before}{value}{after}" for before, value, after in list_figures(timeline)]
    lines = [" · ".join([timeline.word, *figures])]
    for attempt in choose_attempts(timeline.attempts):
        name = f"attempt {attempt.number}" if attempt.number else "queue"
        queued = format_duration(1000 * sum(span.length_s for span in attempt.spans))
        told = describe_figures(attempt) if attempt.number else queued
        outcome = f": {attempt.outcome}" if attempt.outcome else ""
        lines.append(f"  {name:<10} {told}{outcome}".rstrip())
    lines.append(f'kit.attach("{task_id}").xray()')
    return make_printable("\n".join(lines))


def describe_html(timeline: Timeline, *, task_id: str) -> str:
    """Return the picture with its figures in a saved card's frame."""
    way = f"kit.attach(&quot;{_text(task_id)}&quot;).xray()"
    figures = list_figures(timeline)
    return frame_html(timeline.word, timeline.mood, figures, draw_timeline(timeline), way)


def frame_html(
    word: str, mood: str, figures: Sequence[tuple[str, str, str]], svg: str, way: str
) -> str:
    """Return a picture in a saved card's frame; `way` is markup, how to come back to it."""
    told = " ".join(
        f'<span class="longtask-figure">{before}<b>{escape(value)}</b>{after}</span>'
        for before, value, after in figures
    )
    dot = (
        '<i class="longtask-dot" aria-hidden="true" style="display:inline-block;width:8px;'
        f'height:8px;border-radius:50%;background-color:{HUES[mood]}"></i>'
    )
    classes = "longtask-card longtask-saved-xray tex2jax_ignore mathjax_ignore"
    return (
        f'<style>{read_style()}</style><section class="{classes} is-{mood}" '
        f'style="border:{LINE};border-radius:8px;margin:6px 0;max-width:60rem">'
        f'<div class="longtask-head" style="padding:5px 14px;border-bottom:{LINE}">'
        f'<span class="longtask-state">{dot} <span>{_text(word)}</span></span> '
        f'<span class="longtask-figures">{told}</span></div>'
        f'<div class="longtask-body" style="padding:12px 16px 8px">'
        f'<div style="container-type:inline-size">{svg}</div></div>'
        f'<div class="longtask-foot" style="padding:0 14px 9px 16px"><code>{way}</code></div>'
        "</section>"
    )


def read_facts(task: Task, timeline: Timeline) -> dict[str, Any]:
    """Return what the page draws."""
    scale = make_timeline_scale(timeline)
    return {
        "id": task.id,
        "note": {"xrayOf": task.id},
        "asked": describe_task(task.id, task._brief)["prompt"],
        "word": timeline.word,
        "kind": timeline.mood,
        "figures": list_figures(timeline),
        "svg": draw_timeline(timeline),
        "scale": [[round(s, 4) for s in stretch[:4]] for stretch in scale.stretches],
        "spans": _list_spans(timeline, scale),
        "isOver": timeline.is_over,
    }


def _list_spans(timeline: Timeline, scale: Scale) -> list[list[Any]]:
    """Return what happened at which time in words, `[from ms, words]`.

    Of very many what can't be told apart on the axis is one, which says its last.
    """
    told: list[list[Any]] = []
    is_many = sum(len(attempt.spans) for attempt in timeline.attempts) > _MOST_WORDS
    apart, last, over_s = is_many / _MOST_WORDS, -1.0, 0.0
    for attempt in timeline.attempts:
        name = f"attempt {attempt.number}, " if attempt.number else ""
        for span in attempt.spans:
            steps = [(span.begin_s, f"{name}{WORDS[span.kind]}")]
            if span.begin_s > over_s:
                steps.insert(0, (over_s, "it had ended, until it was retried"))
            for at, words in steps:
                place = scale.find_place(at)
                if place - last >= apart:
                    told.append([round(1000 * at), words])
                    last = place
                else:
                    told[-1][1] = words
            over_s = span.end_s
    return told


def make_track(timeline: Timeline) -> list[dict[str, Any]]:
    """Return the text as it grew: for each attempt runs of a kind, `[ms, characters]` by and by.

    Moments that can't be told apart on the axis are one. Characters are JavaScript's.
    """
    least_ms = max(1.0, 1000 * timeline.total_s / _MOMENTS)
    track: list[dict[str, Any]] = []
    for attempt in timeline.attempts:
        begin_ms = round(1000 * attempt.begin_s)
        runs: list[dict[str, Any]] = []
        texts: list[str] = []
        for piece in attempt.pieces:
            at_ms, chars = round(1000 * piece.at_s), len(piece.text.encode("utf-16-le")) // 2
            if not runs or runs[-1]["kind"] != piece.kind:
                runs.append({"kind": piece.kind, "from": at_ms, "steps": [0, chars]})
                texts.append(piece.text)
                last_ms = at_ms
                continue
            texts[-1] += piece.text
            steps = runs[-1]["steps"]
            if at_ms - last_ms < least_ms:
                steps[-1] += chars
            else:
                steps += [at_ms - last_ms, chars]
                last_ms = at_ms
        for run, text in zip(runs, texts, strict=True):
            run["text"] = text
        track.append({"number": attempt.number, "from": begin_ms, "runs": runs})
    return track


def _text(text: str) -> str:
    return escape(make_printable(text))
