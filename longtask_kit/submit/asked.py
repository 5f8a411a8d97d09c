"""What is asked for many rows, where, and what became of it; values only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import SubmitError
from longtask_kit.log.events import from_ms, to_ms
from longtask_kit.log.groups import GroupRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from longtask_kit.submit.fates import Fate
    from longtask_kit.submit.spec import TaskSpec

DEFAULT_TTL_S = 30 * 86_400
_MOST_ROWS = 2000  # a request: it ends in time
_MOST_BYTES = 900_000  # an app without a key reads a million


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tasks run, as far as it is part of what they ask.

    Attributes:
        model: What runs where a task names no model.
        endpoint: URL of the model service, without a key.
        owner: Whose contents these are: nobody meets another's.
    """

    model: str
    endpoint: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a group is mapped with.

    Attributes:
        specs: What is asked for each row, None where it is left out.
        place: Where they run.
        name: Of the group: mapped again, it is the same group with these rows.
        options: What the group is asked with: `parallelism` and the limits.
        samples: Which of several answers to one question a row is; None is the first.
        reuse: Keep and join what is there; else all run anew.
        ttl_s: How long they live after their last event, in seconds.
        group_id: A group that is there: these rows take the place of some of its own.
        begin: Where in it, from 0 on.
        request_id: A secret of this request: made again as its answer was lost, it is the same
            group, and the same tasks.
    """

    specs: Sequence[TaskSpec | None]
    place: Place
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[int] | None = None
    reuse: bool = True
    ttl_s: int = DEFAULT_TTL_S
    group_id: str = ""
    begin: int = 0
    request_id: str = field(default_factory=partial(token_urlsafe, 16))

    def to_wire(self) -> dict[str, Any]:
        """Return the body of `POST /api/groups`."""
        return {
            "rows": [None if spec is None else spec.to_wire() for spec in self.specs],
            "model": self.place.model,
            "name": self.name,
            "options": dict(self.options),
            "samples": None if self.samples is None else list(self.samples),
            "reuse": self.reuse,
            "ttlS": self.ttl_s,
            "groupId": self.group_id,
            "begin": self.begin,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A group, and what has become of its rows by mapping them.

    Attributes:
        fates: How many tasks were kept, joined, run, …
        kept_since: When the oldest kept one was submitted.
        is_secret_lost: Nothing could be kept: what contents are named with was not there any more.
    """

    group: GroupRecord
    fates: Mapping[Fate, int]
    kept_since: datetime | None = None
    is_secret_lost: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the answer of `POST /api/groups`."""
        return {
            "group": self.group.to_wire(),
            "fates": dict(self.fates),
            "keptSince": None if self.kept_since is None else to_ms(self.kept_since),
            "isSecretNew": self.is_secret_lost,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Mapped:
        """Read what `to_wire` wrote."""
        kept = wire["keptSince"]
        return cls(
            group=GroupRecord.from_wire(wire["group"]),
            fates=wire["fates"],
            kept_since=None if kept is None else from_ms(kept),
            is_secret_lost=wire["isSecretNew"],
        )

    def after(self, before: Mapped | None) -> Mapped:
        """Return what has become of these rows and of those that were mapped before them."""
        if before is None:
            return self
        since = [kept for kept in (before.kept_since, self.kept_since) if kept is not None]
        return replace(
            self,
            fates=Counter(before.fates) + Counter(self.fates),
            kept_since=min(since, default=None),
            is_secret_lost=before.is_secret_lost or self.is_secret_lost,
        )


def split(asked: Asked) -> Iterator[Asked]:
    """Yield what a group is mapped with in parts that a request holds each.

    The first makes the group, with a place for all of its rows; the others need its id.
    """
    # Of the first part, which has a null and a number for each row that is yet to come.
    most_bytes = _MOST_BYTES - 8 * len(asked.specs)
    sizes = [0 if spec is None else len(json.dumps(spec.to_wire())) for spec in asked.specs]
    at, end = 0, len(sizes)
    while at < end:
        to, size = at + 1, sizes[at]
        while to < min(end, at + _MOST_ROWS) and size + sizes[to] <= most_bytes:
            size += sizes[to]
            to += 1
        rest = 0 if at or asked.group_id else end - to
        yield replace(
            asked,
            specs=[*asked.specs[at:to], *[None] * rest],
            samples=asked.samples and asked.samples[at : to + rest],
            begin=asked.begin + at,
        )
        at = to


def replace_rows(
    rows: Sequence[str | None], fresh: Sequence[str | None], *, begin: int
) -> list[str | None]:
    """Return a group's tasks with others in the place of some.

    Raises:
        SubmitError: They don't fit in.
    """
    if not 0 <= begin <= begin + len(fresh) <= len(rows):
        raise SubmitError(
            f"Rows {begin} to {begin + len(fresh) - 1} are none of the group's {len(rows)}."
        )
    return [*rows[:begin], *fresh, *rows[begin + len(fresh) :]]
