"""Where the tasks of a group stand: one look at all, then the stream of changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import replace
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Literal

from longtask_kit.client.watch import Watch
from longtask_kit.errors import LongTaskError, StreamSilentError
from longtask_kit.log.changes import Change
from longtask_kit.log.events import TERMINAL_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from longtask_kit.client.backend import GroupBackend
    from longtask_kit.client.door import Door

logger = logging.getLogger(__name__)

_TICK_S = 0.5  # two commands a second, whatever runs
_LEAST_TICK_S = 0.05
_SILENCE_LIMIT_S = 60.0
_LOOK_AGAIN_S = 30.0  # of silence, at those that are open: a change may be lost
_LOOKED_AT_ONCE = 50
_LINGER_S = 2.0  # after a look: another one may follow
LOST_TEXT = (
    "It has completed, and its answer is not there any more: Redis has lost its log. Delete the "
    "task, and the same map() asks again."
)
_RATE_S = 20.0  # over which a rate is taken

Stage = Literal["done", "running", "waiting", "failed"]
STAGES: dict[str, Stage] = {
    "completed": "done",
    "running": "running",
    "retrying": "waiting",
    "pending": "waiting",
    "failed": "failed",
    "cancelled": "failed",
}


class GroupWatch(Watch):
    """Follows a group's tasks on the kit's loop, while somebody wants it.

    Attributes:
        states: The last known change of each task.
        error: Why nothing is heard any more, or None.
    """

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self.states: dict[str, Change] = {}
        self.error: LongTaskError | None = None
        self._ids: frozenset[str] = frozenset()
        self._place: str | None = None
        self._read_at = 0.0
        self._forgotten: set[str] = set()  # since the look that is under way began
        self._ended: deque[tuple[float, int]] = deque()

    @property
    def is_over(self) -> bool:
        """Whether every task has ended."""
        return len(self.states) == len(self._ids) and all(map(is_over, self.states.values()))

    @property
    def is_settled(self) -> bool:
        """Whether every task has ended, or waits until its group's budget is raised."""
        return len(self.states) == len(self._ids) and all(
            is_over(state) or state.is_parked for state in self.states.values()
        )

    @property
    def rate(self) -> float | None:
        """How many tasks end a second, as of late; None before two looks at it."""
        with self._changed:
            if len(self._ended) < 2:
                return None
            (began, before), (at, now) = self._ended[0], self._ended[-1]
        return (now - before) / (at - began) if at > began and now > before else None

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Follow while the block runs.

        Raises:
            ConfigError: The kit is closed.
        """
        reader = object()
        self.hold(reader)
        try:
            yield
        finally:
            self.release(reader)

    def forget(self, task_ids: Collection[str]) -> None:
        """Have tasks that were retried looked at again: their end, or their wait, was none.

        What tells of it may be on its way: an attempt of its own makes known what is newer.
        """
        with self._changed:
            self._forgotten |= set(task_ids)
            for task_id in task_ids:
                if known := self.states.get(task_id):
                    self.states[task_id] = Change(
                        task_id=task_id,
                        status="pending",
                        attempt=known.attempt + (not known.is_parked),
                        prompt=known.prompt,
                    )
        self._hold_again()

    def retry(self, task_ids: list[str]) -> None:
        """Run failed tasks again, and look at them again."""
        retry_id = token_urlsafe(8)
        self._door.ask(
            lambda _: self._door.retry_all(task_ids, retry_id=retry_id),
            saying=f"retrying {len(task_ids):,} rows",
        )
        self.forget(task_ids)

    def _hold_again(self) -> None:
        """Follow on for whoever reads: what had ended goes on."""
        with self._changed:
            readers = list(self._readers.items())
        for reader, until in readers:
            self.hold(reader, for_s=until - time.monotonic())

    def take_ids(self, task_ids: Sequence[str]) -> None:
        """Follow these tasks; of those that are not among them nothing is known any more."""
        with self._changed:
            self._ids = frozenset(task_ids)
            self.states = {i: state for i, state in self.states.items() if i in self._ids}
        self._hold_again()
        self._tell()

    def wait_until(self, is_met: Callable[[], bool], *, timeout_s: float | None = None) -> bool:
        """Wait, in steps that an Interrupt can end, until a condition holds; whether it does."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not is_met():
                left = 0.1 if give_up_at is None else give_up_at - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.1))
        return True

    def catch_up(self, *, timeout_s: float) -> None:
        """Wait until each task's state is known as of now, or of half a second ago."""
        with self._changed:
            since = 0.0 if self.is_running else time.monotonic()
        self.hold(self, for_s=_LINGER_S)
        self.wait_until(
            lambda: (
                self.error is not None
                or (len(self.states) == len(self._ids) and (self.is_over or self._read_at > since))
            ),
            timeout_s=timeout_s,
        )

    async def _run(self) -> None:
        try:
            await self._follow()
        except LongTaskError as exc:
            self.error, self.is_running = exc, False
        self._tell()

    async def _follow(self) -> None:
        heard_at = lost_at = ticked_at = time.monotonic()
        left = len(self._ids) - self._count_over()
        while self._goes_on():
            backend = self._door.backend.groups
            again: set[str] = set()
            try:
                with self._changed:
                    again, self._forgotten = self._forgotten, set()
                place = self._place or (await backend.read_changes(None))[1]
                # Listen before look: what changes between the two is then in the stream.
                known = self.states.keys() - again if self._place else ()
                if unknown := self._ids.difference(known):
                    self._take(await backend.look(sorted(unknown)), of=unknown)
                changes, self._place, is_torn = await backend.read_changes(place)
                if self._take(changes):
                    heard_at = time.monotonic()
                if is_torn:
                    self._place = None
                    continue
                if time.monotonic() - heard_at > _LOOK_AGAIN_S:
                    heard_at = time.monotonic()
                    await self._look_at_open(backend)
                self._read_at = lost_at = time.monotonic()
            except LongTaskError as exc:
                with self._changed:
                    self._forgotten |= again
                if time.monotonic() - lost_at > _SILENCE_LIMIT_S:
                    raise StreamSilentError(
                        f"Nothing heard of the group for {_SILENCE_LIMIT_S:g} s: {exc} Its tasks "
                        "may still run: attach to it later.",
                        task_id="",
                    ) from exc
                logger.info("a group's changes could not be read: %s", exc)
            if not self.is_over:
                left, before = len(self._ids) - self._count_over(), left
                over_s, ticked_at = time.monotonic() - ticked_at, time.monotonic()
                await asyncio.sleep(choose_tick_s(left, before - left, over_s))

    def _count_over(self) -> int:
        with self._changed:
            return sum(map(is_over, self.states.values()))

    def _fail(self, error: LongTaskError) -> None:
        self.error = error

    def _begin(self) -> None:
        self.error = None

    def _has_more(self) -> bool:
        return not self.is_over or self.error is not None

    async def _look_at_open(self, backend: GroupBackend) -> None:
        open_ids = [i for i in sorted(self._ids) if not is_over(self.states.get(i))]
        asked = open_ids[:_LOOKED_AT_ONCE]
        self._take(await backend.look(asked), of=asked)

    def _take(self, changes: Sequence[Change], *, of: Sequence[str] | frozenset[str] = ()) -> bool:
        """Take changes in; of those that were looked at, who is not there is gone."""
        missing = set(of) - {change.task_id for change in changes}
        gone = [Change(task_id=task_id, status=None) for task_id in sorted(missing)]
        is_new = False
        with self._changed:
            for change in (*changes, *gone):
                known = self.states.get(change.task_id)
                is_ours = change.task_id in self._ids and change.task_id not in self._forgotten
                if not is_ours or not change.supersedes(known):
                    continue
                if known is not None and change.prompt is None:
                    change = replace(change, prompt=known.prompt)
                if change != known:
                    self.states[change.task_id] = change
                    is_new = True
            self._note_ended()
            self._changed.notify_all()
        if is_new:
            self._tell()
        return is_new

    def _note_ended(self) -> None:
        now, ended = time.monotonic(), self._count_over()
        self._ended.append((now, ended))
        # The last one before stays: it is where the rate begins.
        while len(self._ended) > 2 and now - self._ended[1][0] > _RATE_S:
            self._ended.popleft()


def choose_tick_s(left: int, ended: int, over_s: float) -> float:
    """Tell how long to wait for the next look: less where all will have ended before.

    Args:
        left: How many tasks have not ended.
        ended: How many have, between the last two looks.
        over_s: How far apart those were.
    """
    if ended <= 0:
        return _TICK_S
    return min(max(left / ended * over_s, _LEAST_TICK_S), _TICK_S)


def is_over(change: Change | None) -> bool:
    """Tell whether a task has ended, or is not there any more."""
    return change is not None and (change.status is None or change.status in TERMINAL_STATUSES)


def describe_error(state: Change | None, *, has_text: bool = True) -> str | None:
    """Return what went wrong with a task, or why it waits; None where nothing did.

    Args:
        state: What is known of it.
        has_text: Whether its answer was found, once it has completed.
    """
    if state is None or state.status == "completed":
        return None if state is None or has_text else LOST_TEXT
    if state.status is None:
        return "It is not there any more: its time to live is over, or it was deleted."
    if state.status == "cancelled":
        return "It was cancelled."
    return state.error if state.status in ("failed", "retrying") or state.is_parked else None
