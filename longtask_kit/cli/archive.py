"""`longtask export` and `import`: groups in a file that outlives every service."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from longtask_kit.cli.console import connect_quietly
from longtask_kit.errors import ConfigError

if TYPE_CHECKING:
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.client.kit import Kit

_GROUPS = 100  # as many as are listed


def export_groups(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its id, name, or file's name.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="SQLite; or .jsonl, .csv, .parquet: its rows.")
    ],
    *,
    events: Annotated[bool, typer.Option("--events", help="With every task's log.")] = False,
) -> None:
    """Write a group, its rows and answers, into a file; an archive keeps what it holds."""
    with connect_quietly() as kit:
        kit.export_archive(file, _find(kit, group), events=events)


def import_groups(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
) -> None:
    """Bring an archive's groups and answers back: what is asked again is not paid again."""
    with connect_quietly() as kit:
        kit.import_archive(file)


def _find(kit: Kit, group: str) -> TaskGroup:
    if group.startswith("group_"):
        return kit.attach_group(group)
    known = kit.groups(limit=_GROUPS)
    found = [one for one in known if one.name == group]
    # The name that `longtask map` gives is the path of its file.
    found = found or [
        one for one in known if group in ((path := PurePath(one.name)).name, path.stem)
    ]
    if found[1:]:
        ids = ", ".join(one.id for one in found)
        raise ConfigError(f"Several groups are called {group!r}: expected an id of {ids}.")
    if not found:
        among = f" among the {_GROUPS} that ran last" if len(known) == _GROUPS else ""
        raise ConfigError(
            f"No group is called {group!r}{among}: expected a name, or an id group_…."
        )
    return found[0]
