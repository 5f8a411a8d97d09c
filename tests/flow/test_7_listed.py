"""`kit.tasks()` as the last line of a cell: a list that reads as a table."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from IPython.core.formatters import DisplayFormatter

import longtask_kit as lt
from longtask_kit.client.listed import align_rows, describe_age, describe_listed, list_lines
from longtask_kit.log.events import Status, Usage
from longtask_kit.log.record import TaskRecord

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def make_record(status: Status = "completed", finish: str | None = "stop") -> TaskRecord:
    return TaskRecord(
        task_id="task_1",
        status=status,
        attempt=1,
        wire={"prompt": " Explain\n tides ", "maxTokens": 40},
        message_id=None,
        error=None,
        code=None,
        usage=Usage(prompt_tokens=1, completion_tokens=1234, total_tokens=1235),
        finish_reason=finish,
        created=NOW - timedelta(hours=3),
        updated=NOW - timedelta(hours=3) + timedelta(seconds=2.5),
    )


def test_a_line_says_what_how_long_and_how_it_ended() -> None:
    line = describe_listed(make_record(), default_model="demo", now=NOW)
    assert (line.prompt, line.model, line.word) == ("Explain tides", "demo", "completed")
    assert (line.tokens, line.seconds) == (1234, 2.5)
    cut = describe_listed(make_record(finish="length"), now=NOW)
    assert cut.word == "stopped at max_tokens (40)"
    running = describe_listed(make_record(status="running", finish=None), now=NOW)
    assert running.seconds == 3 * 3600


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (86_399, "23 h"), (200_000, "2 d")],
)
def test_an_age_has_one_unit(seconds: float, age: str) -> None:
    assert describe_age(seconds) == age


def test_tasks_are_a_list_that_a_notebook_shows_as_a_table(kit: lt.Kit) -> None:
    hostile = "Explain <script>alert(1)</script> &amp; \x1b[31m tides"
    tasks = [kit.submit(prompt, model="demo-fast") for prompt in (hostile, "x" * 300)]
    for task in tasks:
        task.result(30)
    listed = kit.tasks(limit=50)
    assert isinstance(listed, list)
    assert listed[0].id == tasks[1].id
    assert [task.id for task in listed[:2]] == [tasks[1].id, tasks[0].id]
    bundle = show(listed[:2])
    plain, html = bundle["text/plain"], bundle["text/html"]
    head, newer, older = plain.splitlines()
    assert head.split() == ["prompt", "model", "status", "age", "tokens", "seconds", "task"]
    assert re.search(r"x…  demo-fast  completed +\d+ s +\d+ +\d+\.\d  task_\S+$", newer)
    assert older.endswith(tasks[0].id)
    assert "\x1b" not in plain + html
    read = Tags()
    read.feed(html)
    assert read.tags == {"div", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert "Explain <script>alert(1)</script> &amp; [31m tides" in read.text
    assert repr(list(listed)) == repr(listed), "elsewhere it reads as the list it is"


def test_columns_stand_below_each_other_behind_wide_signs() -> None:
    rows = [("prompt", "tokens", "task"), ("潮汐 🌊", "1,234", "a"), ("tides", "7", "b")]
    assert align_rows(rows, right={1}) == [
        "prompt   tokens  task",
        "潮汐 🌊   1,234  a",
        "tides         7  b",
    ]


def test_a_group_takes_the_place_of_no_other_line(kit: lt.Kit) -> None:
    before = [kit.submit(f"before {i}", model="demo-fast").id for i in range(2)]
    group = kit.map([f"row {i}" for i in range(6)], model="demo-fast")
    lines, rest = kit._door.ask(lambda backend: list_lines(backend, limit=3))
    assert [line.group_id or line.record.task_id for line in lines] == [group.id, *before[::-1]]
    assert lines[0].prompt.startswith("6 rows: row ")
    assert re.fullmatch(r"(|\d+ more: --limit)", rest)
    [line], rest = kit._door.ask(lambda backend: list_lines(backend, limit=1))
    assert line.prompt.startswith("6 rows: row ")
    assert rest.endswith(" more: --limit")


def test_a_table_of_part_of_the_tasks_says_so(kit: lt.Kit) -> None:
    for i in range(2):
        kit.submit(f"part {i}", model="demo-fast").result(30)
    for form in show(kit.tasks(limit=2)).values():
        assert "(of the newest 2 tasks; older ones: limit=…)" in form
    assert "older ones" not in "".join(show(kit.tasks(limit=2)[:1]).values())


def test_no_tasks_are_said(kit: lt.Kit) -> None:
    assert show(kit.tasks()[:0]) == {"text/plain": "no tasks", "text/html": "<p>no tasks</p>"}


def show(result: object) -> dict[str, str]:
    """Return what a notebook makes of the last line of a cell."""
    bundle: dict[str, str]
    bundle, _ = DisplayFormatter().format(result)  # type: ignore[no-untyped-call]
    return bundle


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data
