"""An archive: one SQLite file, made to be read by any tool.

README, "An archive", has the schema in words. Times are ISO 8601 in UTC; what is JSON is named so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from longtask_kit.client.frame import make_json
from longtask_kit.errors import ConfigError
from longtask_kit.log.archive import Archived
from longtask_kit.log.events import Cursor, TaskEvent, Usage
from longtask_kit.log.groups import GroupRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FORMAT, VERSION = "longtask archive", 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS archive (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groups (
    group_id TEXT PRIMARY KEY, name TEXT NOT NULL, options_json TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS group_rows (
    group_id TEXT NOT NULL REFERENCES groups, position INTEGER NOT NULL,
    task_id TEXT, cells_json TEXT, PRIMARY KEY (group_id, position)
);
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY, status TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
    sample INTEGER NOT NULL, answer TEXT NOT NULL, reasoning TEXT NOT NULL, refusal TEXT NOT NULL,
    tool_calls_json TEXT NOT NULL, data_json TEXT NOT NULL, finish_reason TEXT,
    error TEXT, code TEXT, attempt INTEGER NOT NULL, deltas INTEGER NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER, usage_json TEXT,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL, request_json TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    message_id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, role TEXT,
    message_json TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS task_messages (
    task_id TEXT NOT NULL REFERENCES tasks, position INTEGER NOT NULL,
    message_id INTEGER NOT NULL REFERENCES messages, PRIMARY KEY (task_id, position)
);
CREATE TABLE IF NOT EXISTS events (
    task_id TEXT NOT NULL REFERENCES tasks, attempt INTEGER NOT NULL, seq INTEGER NOT NULL,
    time TEXT NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL, more_json TEXT NOT NULL,
    PRIMARY KEY (task_id, attempt, seq)
);
"""
_PLAIN = (
    *("task_id", "status", "model", "endpoint", "sample", "answer", "reasoning", "refusal"),
    *("finish_reason", "error", "code", "attempt"),
)
# Whatever a file holds that somebody else has written into.
_FOREIGN = (sqlite3.Error, LookupError, TypeError, ValueError, AttributeError)
_MORE = ("tokens", "finish_reason", "code", "error", "name", "prompts")


@contextlib.contextmanager
def open_archive(path: Path, *, writes: bool) -> Iterator[ArchiveFile]:
    """Yield an archive; what is written stands when the context ends without an error.

    Raises:
        ConfigError: The file is not there, is none, is of a later version, or can't be written.
    """
    if not writes and not path.is_file():
        raise ConfigError(f"There is no file {str(path)!r}: expected an archive.")
    foreign = (sqlite3.Error,) if writes else _FOREIGN
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            if writes and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                db.executescript(_SCHEMA)
                facts = [("format", FORMAT), ("version", str(VERSION))]
                db.executemany("INSERT INTO archive VALUES (?, ?)", facts)
            _check_format(path, dict(db.execute("SELECT name, value FROM archive")))
            db.execute("BEGIN")
            yield ArchiveFile(db)
            db.execute("COMMIT")
    except foreign as exc:
        raise ConfigError(
            f"{str(path)!r} could not be {'written' if writes else 'read'} as an archive: "
            f"{type(exc).__name__}: {str(exc)[:200]}."
        ) from exc


def _check_format(path: Path, facts: dict[str, str]) -> None:
    if facts.get("format") != FORMAT or not facts.get("version", "").isdigit():
        raise ConfigError(f"{str(path)!r} is a SQLite file, but no archive of longtask_kit.")
    if int(facts["version"]) > VERSION:
        raise ConfigError(
            f"{str(path)!r} is an archive of version {facts['version']}; this one reads {VERSION}: "
            "upgrade longtask_kit."
        )


class ArchiveFile:
    """An open archive; what is written again replaces what was there."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def write_group(self, group: GroupRecord, cells: Sequence[Any] | None) -> None:
        """Write a group with its rows, and with what was in them where that is known."""
        options = group.options | ({"votes": dict(group.votes)} if group.votes else {})
        self._db.execute(
            "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?)",
            (group.group_id, group.name, _dump(options), group.created.isoformat()),
        )
        self._db.execute("DELETE FROM group_rows WHERE group_id = ?", (group.group_id,))
        told = [None] * len(group.rows) if cells is None else [_dump(make_json(c)) for c in cells]
        rows = zip(group.rows, told, strict=True)
        self._db.executemany(
            "INSERT INTO group_rows VALUES (?, ?, ?, ?)",
            [(group.group_id, i, task_id, cell) for i, (task_id, cell) in enumerate(rows)],
        )

    def write_task(self, task: Archived) -> None:
        """Write a task, its messages and its events."""
        request, messages = _split_wire(task.wire)
        usage = task.usage
        self._db.execute(
            f"INSERT OR REPLACE INTO tasks VALUES ({', '.join('?' * 22)})",  # noqa: S608 - marks
            (
                *(task.task_id, task.status, task.model, task.endpoint, task.sample),
                *(task.answer, task.reasoning, task.refusal),
                *(_dump(task.tool_calls), _dump(task.data)),
                *(task.finish_reason, task.error, task.code, task.attempt, task.tokens),
                usage and usage.prompt_tokens,
                usage and usage.completion_tokens,
                usage and usage.total_tokens,
                None if usage is None else _dump(usage.to_wire()),
                *(task.created.isoformat(), task.updated.isoformat(), _dump(request)),
            ),
        )
        for table in ("task_messages", "events"):
            self._db.execute(f"DELETE FROM {table} WHERE task_id = ?", (task.task_id,))  # noqa: S608 - ours
        for position, message in enumerate(messages):
            self._write_message(task.task_id, position, message)
        self._db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            [_list_event(task.task_id, event) for event in task.events],
        )

    def _write_message(self, task_id: str, position: int, message: dict[str, Any]) -> None:
        text = _dump(message)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._db.execute(
            "INSERT OR IGNORE INTO messages (sha256, role, message_json) VALUES (?, ?, ?)",
            (digest, str(message.get("role", "")), text),
        )
        self._db.execute(
            "INSERT INTO task_messages SELECT ?, ?, message_id FROM messages WHERE sha256 = ?",
            (task_id, position, digest),
        )

    def read_groups(self) -> list[GroupRecord]:
        """Return the groups, the oldest first."""
        found = self._db.execute("SELECT * FROM groups ORDER BY created_at").fetchall()
        groups: list[GroupRecord] = []
        for group_id, name, options, created in found:
            rows = self._db.execute(
                "SELECT task_id FROM group_rows WHERE group_id = ? ORDER BY position", (group_id,)
            )
            time, known = datetime.fromisoformat(created), json.loads(options)
            _expect(isinstance(name, str), "groups.name", name)
            _expect(isinstance(known, dict), "groups.options_json", known)
            _expect(isinstance(known.get("votes", {}), dict), "votes", known.get("votes"))
            groups.append(
                GroupRecord(
                    group_id=group_id,
                    name=name,
                    rows=tuple(row[0] for row in rows),
                    votes=known.pop("votes", {}),
                    options=known,
                    created=time,
                    updated=time,
                )
            )
        return groups

    def read_tasks(self) -> Iterator[Archived]:
        """Yield the tasks that have ended."""
        cursor = self._db.execute(
            "SELECT * FROM tasks WHERE status IN ('completed', 'failed', 'cancelled')"
        )
        names = [column[0] for column in cursor.description]
        for values in cursor.fetchall():
            yield self._read_task(dict(zip(names, values, strict=True)))

    def _read_task(self, row: dict[str, Any]) -> Archived:
        messages = self._db.execute(
            "SELECT message_json FROM task_messages JOIN messages USING (message_id)"
            " WHERE task_id = ? ORDER BY position",
            (row["task_id"],),
        )
        events = self._db.execute(
            "SELECT attempt, seq, time, type, data, more_json FROM events"
            " WHERE task_id = ? ORDER BY attempt, seq",
            (row["task_id"],),
        )
        usage = row["usage_json"]
        request, data, calls = (
            json.loads(row[f"{name}_json"]) for name in ("request", "data", "tool_calls")
        )
        _check_task(row, request, data, calls)
        return Archived(
            **{name: row[name] for name in _PLAIN},
            wire=_join_wire(request, [json.loads(m[0]) for m in messages]),
            tool_calls=calls,
            data=data,
            tokens=row["deltas"],
            usage=None if usage is None else Usage.from_wire(json.loads(usage)),
            created=datetime.fromisoformat(row["created_at"]),
            updated=datetime.fromisoformat(row["updated_at"]),
            events=[_read_event(*event) for event in events],
        )

    def count_tasks(self) -> int:
        """Return how many tasks it holds."""
        [count] = self._db.execute("SELECT count(*) FROM tasks").fetchone()
        return int(count)


def _check_task(row: dict[str, Any], request: Any, data: Any, calls: Any) -> None:  # noqa: ANN401
    """Refuse what SQLite takes into any column: in the store, each list would fail for it."""
    for name in ("task_id", "model", "endpoint", "answer", "reasoning", "refusal"):
        _expect(isinstance(row[name], str), f"tasks.{name}", row[name])
    for name in ("finish_reason", "error", "code"):
        _expect(isinstance(row[name], str | None), f"tasks.{name}", row[name])
    for name in ("attempt", "sample", "deltas"):
        _expect(type(row[name]) is int and row[name] >= 0, f"tasks.{name}", row[name])
    _expect(isinstance(request, dict), "tasks.request_json", request)
    _expect(isinstance(data, dict), "tasks.data_json", data)
    are_calls = isinstance(calls, list) and all(isinstance(call, dict) for call in calls)
    _expect(are_calls, "tasks.tool_calls_json", calls)


def _expect(is_right: bool, place: str, value: object) -> None:
    if not is_right:
        raise ValueError(f"{place} can't be {value!r:.60}")


def _split_wire(wire: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what is asked without its messages, and them: `shorthand` says how they were given."""
    request = {
        name: value
        for name, value in wire.items()
        if name not in ("prompt", "system", "messages", "endpoint")
    }
    system = wire.get("system")
    messages = [] if system is None else [{"role": "system", "content": system}]
    if "messages" in wire:
        shorthand = "" if system is None else "system"
        return request | {"shorthand": shorthand}, [*messages, *wire["messages"]]
    messages.append({"role": "user", "content": wire.get("prompt", "")})
    return request | {"shorthand": "prompt"}, messages


def _join_wire(request: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    shorthand = request.pop("shorthand", "")
    if shorthand and messages[0]["role"] == "system":
        request["system"] = messages.pop(0)["content"]
    if shorthand == "prompt":
        [asked] = messages
        return request | {"prompt": asked["content"]}
    return request | {"messages": messages}


def _list_event(task_id: str, event: TaskEvent) -> tuple[Any, ...]:
    more = {name: getattr(event, name) for name in _MORE}
    more = {name: value for name, value in more.items() if value not in (None, 1)}
    if event.usage is not None:
        more["usage"] = event.usage.to_wire()
    if event.arrived is not None:
        more["arrived"] = event.arrived.isoformat()
    time = event.time.isoformat()
    return (task_id, *event.cursor, time, event.type, event.data, _dump(more))


def _read_event(
    attempt: int, seq: int, time: str, type_: str, data: str, more_json: str
) -> TaskEvent:
    more = json.loads(more_json)
    for name, value in (("attempt", attempt), ("seq", seq)):
        _expect(type(value) is int and value >= 0, f"events.{name}", value)
    for name, text in (("type", type_), ("data", data)):
        _expect(isinstance(text, str), f"events.{name}", text)
    usage, arrived = more.pop("usage", None), more.pop("arrived", None)
    if prompts := more.get("prompts"):
        more["prompts"] = {int(number): count for number, count in prompts.items()}
    return TaskEvent(
        type=type_,  # type: ignore[arg-type]  # as it was stored
        cursor=Cursor(attempt, seq),
        time=datetime.fromisoformat(time).astimezone(UTC),
        data=data,
        usage=None if usage is None else Usage.from_wire(usage),
        arrived=None if arrived is None else datetime.fromisoformat(arrived).astimezone(UTC),
        **{name: more[name] for name in _MORE if name in more},
    )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
