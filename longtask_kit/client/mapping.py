"""`kit.map()` and `kit.compare()` behind their signatures: rows to a group that is queued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longtask_kit.client.group import TaskGroup
from longtask_kit.client.group_options import describe_mapped
from longtask_kit.client.progress import say
from longtask_kit.submit.asked import DEFAULT_TTL_S, Asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.client.door import Door
    from longtask_kit.client.rows import Row
    from longtask_kit.submit.asked import Place
    from longtask_kit.submit.schema import Schema


def map_rows(
    door: Door,
    rows: Sequence[Row],
    *,
    place: Place,
    options: Mapping[str, Any],
    name: str = "",
    reuse: bool = True,
    ttl_s: int = DEFAULT_TTL_S,
    source: object = None,
    schema: Schema | None = None,
) -> TaskGroup:
    """Have every row on record and in the queue, say what has become of them, return the group.

    Args:
        door: The kit's.
        rows: As `read_rows` read them.
        place: Where they run.
        options: As `make_options` made them.
        name: The group's.
        reuse: Keep and join what was asked before.
        ttl_s: Seconds that the tasks live after their last event.
        source: The frame, so that one of its kind is given back.
        schema: What each answer must look like.
    """
    samples = range(options["samples"])
    specs = [row.spec and door.aim.complete(row.spec, sample=i) for row in rows for i in samples]
    asked = Asked(
        specs=specs,
        place=place,
        name=name,
        options=options,
        samples=[*samples] * len(rows),
        reuse=reuse,
        ttl_s=ttl_s,
    )
    mapped = door.ask(
        lambda backend: backend.groups.map(asked), saying=f"submitting {len(specs):,} rows"
    )
    door.tell_of_submit([i for i in mapped.group.rows if i])
    say(describe_mapped(mapped, specs[:: len(samples)], door.settings))
    return TaskGroup(door, mapped.group, rows=rows, source=source, schema=schema)
