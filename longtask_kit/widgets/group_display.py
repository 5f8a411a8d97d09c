"""A group as the last line of a cell: live where there are widgets, else text.

The output carries the static form beside its view. In a page the view stays, and what is saved is
the static form; an executed notebook has no page, and gets the form at the end of each cell.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from longtask_kit.cassettes import describe_place
from longtask_kit.client.group_votes import was_replayed
from longtask_kit.log.text import make_printable
from longtask_kit.widgets.compare_saved import make_compared
from longtask_kit.widgets.display import find_kernel_shell, keep_up, make_view
from longtask_kit.widgets.group_facts import (
    GroupFacts,
    RowFacts,
    describe_end,
    describe_state,
    describe_stop,
    estimate_left_s,
    make_row,
)
from longtask_kit.widgets.group_saved import make_bundle

if TYPE_CHECKING:
    from IPython.core.display_functions import DisplayHandle

    from longtask_kit.client.group import TaskGroup
    from longtask_kit.log.changes import Change
    from longtask_kit.widgets.group import GroupOutput

_live: WeakKeyDictionary[TaskGroup, GroupOutput] = WeakKeyDictionary()


def display_group(group: TaskGroup) -> None:
    """Show a group in a notebook, or print where it stands where there are no widgets."""
    group._look()
    shell = find_kernel_shell()
    if shell is None:
        from longtask_kit.client.terminal import take_any_text

        take_any_text(sys.stdout)
        sys.stdout.write(f"{describe_group(group)['text/plain']}\n")
        return
    output = _live.get(group)
    if output is None:
        # Several cells that show a group are views of one output.
        output = _live[group] = _make_output(group)
    keep_up(shell, _ShownGroup(output))


def _make_output(group: TaskGroup) -> GroupOutput:
    from longtask_kit.widgets.compare import CompareOutput
    from longtask_kit.widgets.group import GroupOutput

    return CompareOutput(group) if group.models else GroupOutput(group)


def describe_group(group: TaskGroup) -> dict[str, str]:
    """Return the MIME bundle of a group as it stands: its first rows, or answers side by side."""
    if group.models:
        return make_compared(group, read_facts(group))
    return make_bundle(read_facts(group), GroupRows(group).read())


class _ShownGroup:
    """A group in one cell's output."""

    def __init__(self, output: GroupOutput) -> None:
        from IPython.display import display

        self._output = output
        self._sent = self._describe(has_view=True)
        self._note = {"longtask": {"groupId": output.group.id}}
        self._handle: DisplayHandle = display(  # type: ignore[no-untyped-call]
            self._sent, raw=True, metadata=self._note, display_id=True
        )
        self._is_new = True  # its page, if there is one, has had no time to speak

    def refresh(self) -> bool:
        """Bring the output up to date for an executor; whether it goes on."""
        if self._output.has_page:
            return False
        is_over = self._output.group._watch.is_over
        data = self._describe(has_view=self._is_new or not is_over)
        if data != self._sent:
            self._sent = data
            self._handle.update(data, raw=True, metadata=self._note)  # type: ignore[no-untyped-call]
        goes_on, self._is_new = self._is_new or not is_over, False
        return goes_on

    def _describe(self, *, has_view: bool) -> dict[str, Any]:
        data: dict[str, Any] = dict(self._output.make_bundle())
        if has_view:
            data |= make_view(self._output)
        return data


def read_facts(group: TaskGroup, *, notice: str = "") -> GroupFacts:
    """Return what is known of a group; nothing is asked."""
    counts = group._count_stages()
    error = group._watch.error
    states = group._watch.states
    ends = (describe_end(states.get(task_id or "")) for task_id in group._record.rows)
    odd_ends = Counter(end for end in ends if end)
    parked = sum(
        state.is_parked for i in group._record.rows if (state := states.get(i or "")) is not None
    )
    word, kind = describe_state(
        counts, error=str(error or ""), is_whole=not odd_ends, parked=parked
    )
    rate, place = group._watch.rate, group._record.options.get("place") or {}
    return GroupFacts(
        group_id=group.id,
        name=make_printable(group.name),
        counts=counts,
        word=word,
        kind=kind,
        tokens=group._sum_usage().total_tokens,
        cost=None if was_replayed(group._record) else group._sum_cost(),
        rate=rate,
        left_s=estimate_left_s(counts, rate),
        odd_ends=odd_ends,
        stop=describe_stop(parked, group._record.options),
        notice=notice or str(error or ""),
        source=make_printable(describe_place(str(place.get("endpoint", "")))),
    )


class GroupRows:
    """The rows of a group's table as far as they are known; nothing is asked."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._known: list[Change | None] = []
        self._rows: list[RowFacts] = []

    def read(self) -> list[RowFacts]:
        """Return all rows, made anew where something has changed."""
        record, states = self._group._record, self._group._watch.states
        now = [None if task_id is None else states.get(task_id) for task_id in record.rows]
        changed = {
            row for row, state in enumerate(now) if not self._rows or state is not self._known[row]
        }
        if changed:
            prompts = self._group._list_prompts()
            self._rows = [
                make_row(row, task_id, now[row], prompts[row])
                if row in changed
                else self._rows[row]
                for row, task_id in enumerate(record.rows)
            ]
            self._known = now
        return self._rows
