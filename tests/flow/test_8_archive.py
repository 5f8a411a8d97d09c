"""Stage 8: groups in a file that outlives every service, and back."""

import asyncio
import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel

import longtask_kit as lt
from longtask_kit.log.events import START
from longtask_kit.log.many import ManyStore
from longtask_kit.log.record import Append, Begun
from tests.command import longtask
from tests.serving import serve

T = TypeVar("T")

calls: Counter[str] = Counter()


class Colour(BaseModel):
    name: str


@lt.handler(version="2")
async def answer(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Say all that can be said, and count who asks; `boom` fails, `once` at first."""
    prompt = context.spec.prompt
    calls[prompt] += 1
    if prompt.startswith("boom") or (prompt.startswith("once") and calls[prompt] == 1):
        raise lt.NonRetryableError("out of order", code="broken")
    yield lt.Delta("reasoning", "hm")
    yield lt.Progress(done=1, total=2)
    yield prompt
    yield f" {context.spec.metadata.get('mark', '!')}"
    usage = lt.Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5, cached_tokens=1)
    yield lt.Outcome(usage=usage, finish_reason="length")


@pytest.fixture(scope="module")
def kit(stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        kit.serve({"answer": answer})
        yield kit


@pytest.fixture(scope="module")
def other() -> Iterator[lt.Kit]:
    """A kit of another Redis, another secret and another queue."""
    with (
        lt.LocalStack.start(time_scale=0.001, idle_exit_s=None) as stack,
        lt.connect(settings=stack.settings, quiet=True) as kit,
    ):
        kit.serve({"answer": answer})
        yield kit


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    calls.clear()


def ask(kit: lt.Kit, rows: Any, **options: Any) -> lt.TaskGroup:  # noqa: ANN401
    return kit.map(rows, handler="answer", **options)


def ask_store(kit: lt.Kit, ask: Callable[[ManyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        assert kit.settings is not None
        store = ManyStore.open(kit.settings)
        try:
            return await ask(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


def read_log(kit: lt.Kit, task_id: str) -> list[Any]:
    return ask_store(kit, lambda store: store.read_log(task_id, after=START))


def test_what_was_paid_is_kept_by_another_redis(
    kit: lt.Kit, other: lt.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = ["same", "same", {"prompt": "marked", "metadata": {"mark": "?"}}]
    rows.append([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "told"}])
    group = ask(kit, rows, n=2, name="kept")
    before = group.results(30)
    kit.export_archive(tmp_path / "runs.db", group)
    calls.clear()
    [imported] = other.import_archive(tmp_path / "runs.db")
    assert "6 tasks, 6 of them new here" in capsys.readouterr().out
    assert (imported.id, imported.name, imported.results(30)) == (group.id, "kept", before)
    assert all(state.answer for state in imported._watch.states.values()), "a table shows them"
    again = ask(other, rows, n=2, name="kept")
    assert "8 rows: 6 kept" in capsys.readouterr().out
    assert (again.id, again.results(30)) == (group.id, before)
    assert ask(other, [*rows, "more"], n=2).results(30)[-1] == "more !"
    assert calls == {"more": 2}
    ours, theirs = (
        kit.attach(group._record.rows[0] or ""),
        other.attach(again._record.rows[0] or ""),
    )
    for task in (ours, theirs):
        task.result(30)
    for what in ("text", "reasoning", "usage", "finish_reason", "data", "prompt", "attempt"):
        assert getattr(theirs, what) == getattr(ours, what), what
    assert theirs.snapshot().tokens == ours.snapshot().tokens == 3, "reasoning's among them"
    assert theirs.id in [task.id for task in other.tasks()]
    other.import_archive(tmp_path / "runs.db")
    assert "0 of them new here" in capsys.readouterr().out


def test_with_events_every_log_is_as_it_was(kit: lt.Kit, other: lt.Kit, tmp_path: Path) -> None:
    group = ask(kit, ["with events", "boom events"])
    group.results(30, errors="return")
    kit.export_archive(tmp_path / "runs.db", group, events=True)
    other.import_archive(tmp_path / "runs.db")
    for task_id in group._record.rows:
        assert task_id is not None
        assert read_log(other, task_id) == read_log(kit, task_id) != []
    with pytest.raises(lt.TaskFailedError, match="out of order"):
        other.attach_group(group.id).results(30)


def test_an_answer_that_is_there_stands_and_one_that_is_not_comes_in_its_place(
    kit: lt.Kit, other: lt.Kit, tmp_path: Path
) -> None:
    group = ask(kit, ["stands", "boom gone"])
    group.results(30, errors="return")
    theirs = ask(other, ["stands"])
    theirs.results(30)
    kit.export_archive(tmp_path / "runs.db", [group])
    other.import_archive(tmp_path / "runs.db")
    assert ask(other, ["stands"])._record.rows == theirs._record.rows
    for task_id in theirs._record.rows:
        other.attach(task_id or "").delete()
    other.import_archive(tmp_path / "runs.db")
    assert ask(other, ["stands"])._record.rows == group._record.rows[:1]
    assert calls["stands"] == 2


def test_what_failed_and_is_retried_where_it_came_to_is_not_asked_again(
    kit: lt.Kit, other: lt.Kit, tmp_path: Path
) -> None:
    group = ask(kit, ["once more"])
    group.results(30, errors="return")
    kit.export_archive(tmp_path / "runs.db", group)
    [imported] = other.import_archive(tmp_path / "runs.db")
    assert imported.retry_failed() == 1
    assert imported.results(30) == ["once more !"]
    again = ask(other, ["once more"])
    assert (again.results(30), again._record.rows) == (["once more !"], group._record.rows)
    assert calls == {"once more": 2}, "once there, once here"


def test_a_group_that_is_there_stands(kit: lt.Kit, tmp_path: Path) -> None:
    """Also one that has run on since: other rows, and what it may spend."""
    group = ask(kit, ["first"], name="ran on")
    group.results(30)
    kit.export_archive(tmp_path / "runs.db", group)
    again = ask(kit, ["first", "second"], name="ran on", budget_tokens=1000)
    assert again.id == group.id
    kit.import_archive(tmp_path / "runs.db")
    record = kit.attach_group(group.id)._record
    assert (record.rows, record.options) == (again._record.rows, again._record.options)


def test_an_attempt_of_the_deleted_task_writes_nothing_into_the_one_that_came_back(
    kit: lt.Kit, tmp_path: Path
) -> None:
    group = ask(kit, ["boom and back"])
    group.results(30, errors="return")
    [task_id] = [task.id for task in group.tasks if task]
    kit.export_archive(tmp_path / "runs.db", group)

    async def run_and_delete(store: ManyStore) -> int:
        await store.retry(task_id)
        begun = await store.begin(task_id, delivery_id="of the deleted one")
        assert isinstance(begun, Begun)
        await store.delete(task_id)
        return begun.attempt

    async def write_late_and_begin(store: ManyStore) -> tuple[list[str], object]:
        late = Append(task_id=task_id, attempt=last, entries=[[f"{last}-9", "d", "late"]])
        answers = await store.append([late])
        await store.retry(task_id)
        answers += await store.append([late])
        return answers, await store.begin(task_id, delivery_id="of the new one")

    last = ask_store(kit, run_and_delete)
    kit.import_archive(tmp_path / "runs.db")
    answers, begun = ask_store(kit, write_late_and_begin)
    assert answers == ["fenced", "fenced"]
    assert isinstance(begun, Begun)
    assert begun.attempt > last
    kit.attach(task_id).delete()


def test_any_tool_reads_it(kit: lt.Kit, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["red", "blue", "red"], "size": [1, 2, 3]})
    group = kit.map(frame, "{text}", handler="answer", system="Be brief.", name="tool")
    group.results(30)
    kit.export_archive(tmp_path / "runs.db", group)
    kit.export_archive(tmp_path / "runs.db", [group, ask(kit, ["green"])])  # added; twice is once
    with sqlite3.connect(tmp_path / "runs.db") as db:
        facts = dict(db.execute("SELECT name, value FROM archive"))
        assert facts == {"format": "longtask archive", "version": "1"}
        found = db.execute(
            "SELECT cells_json, answer FROM groups JOIN group_rows USING (group_id)"
            " JOIN tasks USING (task_id) WHERE name = 'tool' ORDER BY position"
        ).fetchall()
        assert [json.loads(cells) for cells, _ in found] == frame.to_dict("records")
        assert [answer for _, answer in found] == ["red !", "blue !", "red !"]
        said = [
            json.loads(m)["content"] for (m,) in db.execute("SELECT message_json FROM messages")
        ]
        assert sorted(said) == ["Be brief.", "blue", "green", "red"], "each is stored once"
        assert db.execute("SELECT count(*) FROM tasks").fetchone() == (3,)
    db.close()


@pytest.mark.parametrize("library", [pd, pl])
def test_rows_go_into_tables(kit: lt.Kit, tmp_path: Path, library: Any) -> None:  # noqa: ANN401
    group = kit.map(library.DataFrame({"text": ["a", "b"]}), "{text}", handler="answer")
    group.results(30)
    for kind in ("jsonl", "csv", "parquet", "CSV"):
        kit.export_archive(tmp_path / f"rows.{kind}", group)
    assert list(pd.read_csv(tmp_path / "rows.CSV")["text"]) == ["a", "b"]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["a !", "b !"]
    assert list(pd.read_csv(tmp_path / "rows.csv")["answer"]) == ["a !", "b !"]
    assert list(pd.read_parquet(tmp_path / "rows.parquet")["text"]) == ["a", "b"]


@pytest.mark.parametrize("library", [pd, pl])
def test_answers_of_a_schema_and_odd_cells_go_into_every_kind_of_file(
    kit: lt.Kit,
    tmp_path: Path,
    library: Any,  # noqa: ANN401
) -> None:
    rows = library.DataFrame({"text": ['{"name": "red"}', "no JSON"], "size": [1.5, float("nan")]})
    group = ask(kit, rows, template="{text}", schema=Colour, metadata={"mark": ""})
    group.results(30)
    for kind in ("jsonl", "csv", "parquet", "db"):
        kit.export_archive(tmp_path / f"rows.{kind}", group)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == [{"name": "red"}, None]
    assert [line["size"] for line in lines] == [1.5, None]
    assert json.loads(pd.read_csv(tmp_path / "rows.csv")["answer"][0]) == {"name": "red"}
    assert pl.read_parquet(tmp_path / "rows.parquet")["answer"].to_list() == [{"name": "red"}, None]
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as db:
        told = db.execute("SELECT cells_json FROM group_rows ORDER BY position").fetchall()
    assert "NaN" not in told[1][0]


def test_a_frame_without_a_header_goes_into_an_archive(kit: lt.Kit, tmp_path: Path) -> None:
    frame = pd.DataFrame([["a", "b"]]).assign(more="c")  # columns 0, 1 and "more"
    group = kit.map(frame, "{more}", handler="answer")
    group.results(30)
    for kind in ("jsonl", "csv", "db"):
        kit.export_archive(tmp_path / f"rows.{kind}", group)
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.db")) as db:
        [(told,)] = db.execute("SELECT cells_json FROM group_rows").fetchall()
    assert json.loads(told) == {"0": "a", "1": "b", "more": "c"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE tasks SET attempt = 'many'", "tasks.attempt can't be 'many'"),
        ("UPDATE tasks SET sample = -1", "tasks.sample can't be -1"),
        ("UPDATE tasks SET answer = x'ff00'", "tasks.answer can't be b'"),
        ("UPDATE tasks SET tool_calls_json = '{}'", "tasks.tool_calls_json can't be {}"),
        ("UPDATE tasks SET request_json = '[1]'", r"tasks.request_json can't be \[1\]"),
        ("UPDATE events SET seq = 'x' || seq", "events.seq can't be 'x"),
        ("UPDATE groups SET options_json = '[]'", r"groups.options_json can't be \[\]"),
        ('UPDATE messages SET message_json = \'{"role": "user", "content": [1]}\'', "nobody asks"),
    ],
)
def test_what_an_archives_columns_can_not_hold_does_not_get_into_the_store(
    kit: lt.Kit, tmp_path: Path, change: str, told: str
) -> None:
    group = ask(kit, [f"odd columns {told}"])
    group.results(30)
    kit.export_archive(tmp_path / "runs.db", group, events=True)
    [task] = group.tasks
    assert task is not None
    task.delete()
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as db, db:
        db.execute(change)
    with pytest.raises(lt.ConfigError, match=told):
        kit.import_archive(tmp_path / "runs.db")
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)


def test_what_is_no_archive_is_told(kit: lt.Kit, tmp_path: Path) -> None:
    with pytest.raises(lt.ConfigError, match="There is no file"):
        kit.import_archive(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(lt.ConfigError, match="could not be read as an archive"):
        kit.import_archive(tmp_path / "text.db")
    with pytest.raises(lt.ConfigError, match="is a table of rows"):
        kit.import_archive(tmp_path / "rows.csv")
    group = ask(kit, ["told"])
    group.results(30)
    with pytest.raises(lt.ConfigError, match="takes groups, got str"):
        kit.export_archive(tmp_path / "runs.db", group.id)  # type: ignore[arg-type]
    kit.export_archive(tmp_path / "runs.db", group)
    for change, told in (
        ("UPDATE group_rows SET task_id = 'task_}bad'", "is no id"),
        ("UPDATE tasks SET usage_json = 'x'", "could not be read"),
        ("UPDATE archive SET value = '2' WHERE name = 'version'", "of version 2"),
        ("DROP TABLE archive", "could not be read"),
    ):
        with sqlite3.connect(tmp_path / "runs.db") as db:
            db.execute(change)
        db.close()
        with pytest.raises(lt.ConfigError, match=told):
            kit.import_archive(tmp_path / "runs.db")
    with (
        serve(lt.create_app(kit.settings, handlers={"answer": answer})) as url,
        lt.connect(url, quiet=True) as remote,
    ):
        far = ask(remote, ["far"], reuse=False)
        far.results(30)
        remote.export_archive(tmp_path / "far.db", far)
        with pytest.raises(lt.ConfigError, match="connect\\(\\) without a URL"):
            remote.import_archive(tmp_path / "far.db")
    kit.import_archive(tmp_path / "far.db")


def test_the_command_exports_and_imports(kit: lt.Kit, stack: lt.LocalStack, tmp_path: Path) -> None:
    ask(kit, ["command"], name="by command").results(30)
    file = str(tmp_path / "runs.db")
    done = longtask("export", "by command", file, "--events", **stack.environment)
    assert (done.returncode, done.stdout) == (0, f"{file}: 1 tasks\n"), done.stderr
    done = longtask("import", file, **stack.environment)
    assert (done.returncode, done.stdout) == (0, f"{file}: 1 tasks, 0 of them new here\n")
    done = longtask("export", "nobody", file, **stack.environment)
    assert (done.returncode, "No group is called" in done.stderr) == (1, True)
