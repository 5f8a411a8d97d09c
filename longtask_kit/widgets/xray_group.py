"""`GroupXRay`: what `group.xray()` returns, a row a task: what overlapped, what waited."""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from longtask_kit.client.group_watch import is_over
from longtask_kit.errors import LongTaskError
from longtask_kit.log.events import to_ms
from longtask_kit.log.text import make_printable
from longtask_kit.log.timeline import MODEL, read_timeline
from longtask_kit.widgets.facts import format_duration
from longtask_kit.widgets.group_facts import describe_state
from longtask_kit.widgets.xray import frame_html
from longtask_kit.widgets.xray_svg import (
    clip,
    draw_axis,
    draw_rect,
    draw_text,
    escape_text,
    percent,
    stretch,
    units,
    wrap,
)
from longtask_kit.widgets.xray_times import (
    GroupTimes,
    Line,
    choose_ids,
    list_counts,
    list_figures,
    list_moments,
    make_group_scale,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.client.door import Door
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.widgets.xray_scale import Scale

_LOOK_S = 10.0
_HOLD_S = 10.0  # until the next drawing at the latest
_LEFT = 0.3  # of the width, for what was asked
_ROW_PX, _BAR_PX, _TOP_PX, _AREA_PX = 17, 11, 88, 30
_NAME_CHARS, _TEXT_CHARS, _MANY_ALIKE = 60, 30, 8
_LEGEND = (
    ("queue", "queue", 0, 0),
    ("limit", "waits for the limit", 68, 0),
    ("retry", "next try", 0, 18),
    ("first", "first token", 80, 18),
    ("streaming", "streaming", 168, 18),
)  # kind, words, and where, px: no place is too narrow for them


class GroupXRay:
    """Where the time of a group's tasks went; as the last line of a cell it is live.

    Attributes:
        group: Whose it is.
    """

    def __init__(self, group: TaskGroup) -> None:
        self.group = group

    def __repr__(self) -> str:
        return f"<GroupXRay {self.group.id} {len(self.group)} rows>"

    @property
    def svg(self) -> str:
        """The picture as of now: write it into a file, or anywhere where SVG is shown."""
        self._catch_up()
        return draw_group(self._read())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        self._catch_up()
        return self.make_bundle()

    def _ipython_display_(self) -> None:
        """Show it live, or print it in words where there are no widgets."""
        from longtask_kit.widgets.display import find_kernel_shell

        shell = find_kernel_shell()
        self._catch_up()
        if shell is None:
            from longtask_kit.client.terminal import take_any_text

            take_any_text(sys.stdout)
            sys.stdout.write(f"{self.make_bundle()['text/plain']}\n")
            return
        from longtask_kit.widgets.xray_output import XRayOutput, show

        show(XRayOutput(self), shell)

    # What a page is shown, see `xray_output.Picture`.

    @property
    def door(self) -> Door:
        """The kit's door."""
        return self.group._door

    @property
    def is_over(self) -> bool:
        """Whether every task has ended, and what is drawn is known to its end."""
        is_known = all(task._feed.state.is_over for task in self._list_tasks())
        return self.group._watch.is_over and is_known

    def follow(self) -> None:
        """Have the whole group followed for a while, and the events of what is drawn taken in."""
        self.group._watch.hold(self, for_s=_HOLD_S)
        for task in self._list_tasks():
            task._feed.follow()

    def read_facts(self) -> dict[str, Any]:
        """Return what the page draws."""
        times = self._read()
        scale = make_group_scale(times)
        return {
            "id": self.group.id,
            "note": {"xrayOf": self.group.id},
            "asked": self.group.name,
            "word": times.word,
            "kind": times.mood,
            "figures": list_figures(times),
            "svg": draw_group(times),
            "scale": [
                [round(b, 4), round(e, 4), _LEFT + (1 - _LEFT) * x0, _LEFT + (1 - _LEFT) * x1]
                for b, e, x0, x1, _ in scale.stretches
            ],
            "spans": list_moments(times),
            "isOver": self.is_over,
            "hasText": False,
        }

    def make_bundle(self) -> dict[str, str]:
        """Return the static form, as far as is known; nothing is asked."""
        times = self._read()
        return {
            "text/plain": describe_text(times, group_id=self.group.id),
            "text/html": describe_html(times, group_id=self.group.id),
        }

    def make_track(self) -> list[dict[str, Any]]:
        """Return nothing: many texts at once can't be read."""
        return []

    def _list_tasks(self) -> list[Any]:
        return [self.group._find_task(task_id) for task_id in self._choose()]

    def _choose(self) -> list[str]:
        group = self.group
        return choose_ids(group._ids, group._watch.states, since_ms=to_ms(self._since))

    @property
    def _since(self) -> datetime:
        """When the group last began, on clocks that differ a little."""
        return self.group._record.updated - timedelta(seconds=2)

    def _catch_up(self) -> None:
        """Wait until what had happened before this call has been taken in."""
        self.group._look()
        self.follow()
        give_up_at = time.monotonic() + _LOOK_S
        for task in self._list_tasks():
            left_s = max(0.0, give_up_at - time.monotonic())
            try:
                record = task._read_record() if task._feed.is_empty else None
            except LongTaskError:
                continue  # it is not there any more
            if record is not None:
                task._feed.wait_until(lambda t=task, r=record: t._has_seen(r), timeout_s=left_s)
            elif is_over(self.group._watch.states.get(task.id)):  # news of an end outrun its log
                task._feed.wait_until(lambda t=task: t._feed.state.is_over, timeout_s=left_s)

    def _read(self) -> GroupTimes:
        group = self.group
        prompts = group._list_prompts()
        logs = [(i, group._find_task(i)._feed.list_events()) for i in self._choose()]
        known = [(i, events) for i, events in logs if events]
        # What was kept from a run before would push this one off the axis.
        fresh = [(i, events) for i, events in known if events[-1].time >= self._since] or known
        began = min((events[0].time for _, events in fresh), default=datetime.now(UTC))
        now = datetime.now(UTC)
        lines = [
            Line(
                group._places[i],
                prompts[group._places[i]],
                read_timeline(events, created=began, now=now),
            )
            for i, events in fresh
        ]
        total_s = max((line.timeline.total_s for line in lines), default=0.0)
        word, mood = self._describe_state()
        return GroupTimes(lines, len(group._ids) - len(lines), total_s, word, mood)

    def _describe_state(self) -> tuple[str, str]:
        group = self.group
        error = str(group._watch.error or "")
        counts = Counter(group._stage_of(task_id) for task_id in group._ids)
        return describe_state(counts, error=error, parked=len(group._find_parked()))


def draw_group(times: GroupTimes) -> str:
    """Return a group's picture as SVG: how many ran at once, then a row a task."""
    scale, alike = make_group_scale(times), _count_alike([line.name for line in times.lines])
    parts = [_draw_legend(), _draw_counts(times, scale, 48)]
    y = _TOP_PX
    for line in times.lines:
        bars = "".join(
            draw_rect(span, scale, 0, _BAR_PX)
            for attempt in line.timeline.attempts
            for span in attempt.spans
        )
        name = escape_text(clip(line.name[alike:], _NAME_CHARS))
        parts.append(
            f'<g class="is-{line.timeline.mood}">'
            f'<svg y="{y}" width="{percent(_LEFT - 0.015)}" height="{_ROW_PX}" '
            f'style="overflow:hidden"><text y="11">{line.row}'
            f'<tspan dx="8">{name}</tspan></text></svg>'
            f"{stretch(bars, y, _BAR_PX, left=_LEFT)}</g>"
        )
        y += _ROW_PX
    if times.hidden:
        parts.append(
            draw_text(0, y + 12, f"and {times.hidden:,} more: what is told is of those above")
        )
    parts.append(draw_axis(scale, y + 6, left=_LEFT))
    return wrap(parts, height=y + 32, label=_describe_aloud(times))


def _count_alike(names: Sequence[str]) -> int:
    """Return how many characters all names begin with, up to a word: a template's are no news."""
    if len(set(names)) < 2:
        return 0
    pairs = zip(min(names), max(names), strict=False)  # what these share all do
    count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return min(names)[:count].rfind(" ") + 1 if count > _MANY_ALIKE else 0


def _draw_legend() -> str:
    items = [
        f'<rect class="{kind}" x="{x + 0.5}" y="{y + 1.5}" width="9" height="9"/>'
        + draw_text(x + 15, y + 10, word)
        for kind, word, x, y in _LEGEND
    ]
    return f'<g class="is-run">{"".join(items)}</g>'


def _draw_counts(times: GroupTimes, scale: Scale, y: int) -> str:
    """Draw how many were at work at once as an area of steps."""
    counts = list_counts(times.lines, tuple(MODEL))
    most = max((count for _, count in counts), default=0)
    if not most:
        return ""
    path, before = "", f"M{units(0)} {_AREA_PX}"
    for at, count in counts[:: max(1, len(counts) // 240)]:
        height = f"{_AREA_PX * (1 - count / most):.1f}"
        path += f"{before}H{units(scale.find_place(at))}V{height}"
        before = ""
    area = f'<path class="streaming" d="{path}H1000V{_AREA_PX}Z"/>'
    waited = times.count_most("limit")
    words = f"at once: {most}"
    return (
        f'<g class="is-run"><text class="b" y="{y + 13}">{words}</text>'
        + (draw_text(0, y + 28, f"waited for the limit: {waited}") if waited else "")
        + stretch(area, y, _AREA_PX, left=_LEFT)
        + "</g>"
    )


def _describe_aloud(times: GroupTimes) -> str:
    figures = ", ".join(f"{before}{value}{after}" for before, value, after in list_figures(times))
    return f"Group {times.word}: {figures}."


def describe_text(times: GroupTimes, *, group_id: str) -> str:
    """Return a line of figures, and one for each task."""
    figures = [f"{before}{value}{after}" for before, value, after in list_figures(times)]
    lines = [" · ".join([times.word, *figures])]
    for line in times.lines[:20]:
        spent = [
            f"{name} {format_duration(1000 * spent_s)}"
            for name, kinds in (("queue", ("queue",)), ("limit", ("limit",)), ("model", (*MODEL,)))
            if (spent_s := line.timeline.count_s(*kinds))
        ]
        name = clip(line.name, _TEXT_CHARS)
        lines.append(f"  {line.row:>4}  {line.timeline.word:<22} {name:<30} {' · '.join(spent)}")
    lines.append(f'kit.attach_group("{group_id}").xray()')
    return make_printable("\n".join(lines))


def describe_html(times: GroupTimes, *, group_id: str) -> str:
    """Return the picture with its figures in a saved card's frame."""
    way = f"kit.attach_group(&quot;{escape(group_id)}&quot;).xray()"
    return frame_html(times.word, times.mood, list_figures(times), draw_group(times), way)
