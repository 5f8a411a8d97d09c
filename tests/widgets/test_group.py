"""A group as it is seen: its facts, its table, what is saved of it, and what reaches the page."""

import csv
import io
import re
import time
from collections import Counter
from typing import Any

import pytest
from rich.cells import cell_len

import longtask_kit as lt
from longtask_kit.log.changes import Change
from longtask_kit.log.events import Usage
from longtask_kit.widgets import GroupOutput
from longtask_kit.widgets.group_display import GroupRows, read_facts
from longtask_kit.widgets.group_facts import (
    GroupFacts,
    Query,
    describe_state,
    estimate_left_s,
    make_row,
)
from longtask_kit.widgets.group_saved import make_bundle
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm
from tests.widgets.test_bundle import PAYLOADS, find_attacks

USED = Usage(prompt_tokens=2, completion_tokens=41, total_tokens=43)
ROWS = [
    make_row(0, "task_0", Change(task_id="task_0", status="running"), "Tides rise"),
    make_row(
        1,
        "task_1",
        Change(task_id="task_1", status="failed", code="content_filter", error="refused"),
        "Storms",
    ),
    make_row(2, None, None, ""),
    make_row(
        3,
        "task_3",
        Change(task_id="task_3", status="completed", answer="Up\n\nand", usage=USED, run_ms=900),
        "Ledgers",
    ),
    make_row(4, "task_4", None, "Not looked at"),
    make_row(5, "task_5", Change(task_id="task_5", status=None), "Deleted"),
]


def make_facts(**changes: object) -> GroupFacts:
    facts = {
        "group_id": "group_12345678",
        "name": "mine",
        "counts": Counter(row.stage for row in ROWS),
        "word": "running",
        "kind": "run",
        "tokens": 43,
        "cost": 0.03,
        "rate": 0.5,
        "left_s": 12.0,
    }
    return GroupFacts(**facts | changes)  # type: ignore[arg-type]


def ask(kit: lt.Kit, count: int = 30, *, model: str = "demo-fast", name: str = "") -> lt.TaskGroup:
    rows = [f"Explain tides to {i} people" for i in range(count)]
    return kit.map(rows, model=model, max_tokens=20, name=name)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"sort": "row", "isDescending": True}, [5, 4, 3, 2, 1, 0]),
        ({"sort": "status"}, [1, 5, 0, 4, 3, 2]),
        ({"sort": "prompt"}, [2, 5, 3, 4, 1, 0]),
        ({"sort": "tokens"}, [3, 0, 1, 2, 4, 5]),
        ({"sort": "tokens", "isDescending": True}, [3, 0, 1, 2, 4, 5]),
        ({"stage": "failed"}, [1, 5]),
        ({"stage": "skipped"}, [2]),
        ({"word": "  LED "}, [3]),
        ({"word": "refused"}, [1]),
        ({"stage": "done", "word": "tides"}, []),
        ({"sort": "nonsense", "stage": 7, "begin": -1, "size": True}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_rows_are_chosen_by_state_and_word_and_sorted(
    query: dict[str, object], shown: list[int]
) -> None:
    assert [row.row for row in Query.from_wire(query).choose(ROWS)] == shown


def test_a_row_says_what_has_become_of_it() -> None:
    assert [row.answer for row in ROWS] == [
        "running …",
        "content_filter: refused",
        "left out: the row is empty",
        "Up and",
        "queued",
        "not there any more",
    ]
    long = make_row(0, "task_0", None, "x" * 10_000_000 + "\x1b[31m")
    assert len(long.prompt) == 160


@pytest.mark.parametrize(
    ("counts", "word", "kind"),
    [
        ({"done": 3}, "done", "good"),
        ({"done": 3, "failed": 2}, "2 failed", "bad"),
        ({"done": 3, "failed": 2, "waiting": 1}, "waiting", "wait"),
        ({"running": 1, "waiting": 1}, "running", "run"),
    ],
)
def test_a_groups_state_in_a_word(counts: dict[str, int], word: str, kind: str) -> None:
    assert describe_state(Counter(counts)) == (word, kind)
    assert describe_state(Counter(counts), error="away") == ("not followed", "quiet")
    assert describe_state(Counter(done=1), is_whole=False) == ("done", "warn")


def test_the_time_left_is_told_where_there_is_a_rate() -> None:
    counts = Counter(running=2, waiting=8)
    assert estimate_left_s(counts, 2.0) == 5.0
    assert estimate_left_s(counts, None) is None
    assert estimate_left_s(Counter(done=3), 2.0) is None


def test_figures_are_short_and_the_saved_ones_do_not_age() -> None:
    live = make_facts(tokens=38_200, rate=0.25, left_s=700.0).list_figures(is_live=True)
    words = ["".join(figure) for figure in live]
    assert words[:1] + words[-4:] == [
        "6 rows",
        "38 k tokens",
        "$0.03",
        "15 a minute",
        "12 min left",
    ]
    saved = ["".join(figure) for figure in make_facts().list_figures(is_live=False)]
    assert saved[-2:] == ["43 tokens", "$0.03"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_of_a_group_becomes_markup(payload: str) -> None:
    row = make_row(0, "t", Change(task_id="t", status="completed", answer=payload), payload)
    bundle = make_bundle(make_facts(name=payload), [row])
    assert find_attacks(bundle["text/html"]) == []


def test_in_a_terminal_answers_stand_below_each_other_behind_wide_signs() -> None:
    done = Change(task_id="t", status="completed", answer="said")
    rows = [make_row(0, "t", done, "潮汐"), make_row(1, "t", done, "tides")]
    lines = make_bundle(make_facts(), rows)["text/plain"].splitlines()
    assert len({cell_len(line.partition("said")[0]) for line in lines if "said" in line}) == 1


def test_what_is_saved_has_counts_the_first_rows_and_the_way_back(kit: lt.Kit) -> None:
    group = ask(kit, name="tides")
    answers = group.results(60)
    bundle = make_bundle(read_facts(group), GroupRows(group).read())
    plain, html = bundle["text/plain"], bundle["text/html"]
    head, _, names, first, *_ = plain.splitlines()
    tokens = f"{group.usage.total_tokens:,} tokens"
    assert head == f"tides: 30 rows, 30 done, 30 ended by length, {tokens}"
    assert names.split() == ["row", "status", "tokens", "prompt", "answer"]
    assert re.match(r"  0  length +20  Explain tides to 0 people +\S", first)
    assert plain.endswith(f'20 more rows: kit.attach_group("{group.id}")')
    assert html.count("<tr") == 1 + 20
    assert "<script" not in html
    assert answers[3].split()[0].strip("#*") in html
    assert f'kit.attach_group("{group.id}")' in html
    assert "10 more rows" in html
    attached = kit.attach_group(group.id)
    attached._look()
    assert make_bundle(read_facts(attached), GroupRows(attached).read()) == bundle, (
        "in another kernel"
    )


def test_without_a_kernel_a_group_prints_where_it_stands(
    kit: lt.Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    group = ask(kit, 3)
    group.results(60)
    capsys.readouterr()
    group._ipython_display_()
    assert capsys.readouterr().out.startswith("group: 3 rows, 3 done")


class Page:
    """A page's half of the protocol, as `js/src/group.js` has it, with one view."""

    def __init__(self, group: lt.TaskGroup) -> None:
        self.output = GroupOutput(group)
        self.facts: dict[str, Any] = {}
        self.window: dict[str, Any] = {}
        self.saved: dict[str, str] = {}
        self.csv = ""
        self._read = 0

    def say(self, type_: str, **message: object) -> None:
        self.output._receive(self.output, {"t": type_, "v": "view"} | message, [])

    def look(self) -> "Page":
        """Take in what was sent since."""
        for content in self.messages()[self._read :]:
            self._read += 1
            self.facts = content.get("facts", self.facts)
            self.window = content.get("windows", {}).get("view", self.window)
            self.saved = content.get("data", self.saved)
            self.csv = content.get("text", self.csv)
        return self

    def messages(self) -> list[dict[str, Any]]:
        assert isinstance(self.output.comm, RecordingComm)
        contents = [(m.get("data") or {}).get("content") for m in self.output.comm.published]
        return [content for content in contents if content]

    def rows(self) -> list[int]:
        return [row[0] for row in self.look().window.get("rows", [])]


def test_a_view_is_sent_its_rows_and_only_while_it_is_seen(kit: lt.Kit) -> None:
    page = Page(ask(kit, model="demo@200", name="seen"))
    watch = page.output.group._watch
    wait_until(lambda: not watch.is_running)
    assert page.messages() == [], "nobody looks"
    page.say("view", begin=5, size=10)
    wait_until(lambda: page.look().facts.get("isOver"), timeout_s=60)
    assert page.rows() == list(range(5, 15))
    assert page.window["total"] == 30
    assert page.facts["counts"]["done"] == 30
    assert (page.facts["title"], page.facts["word"], page.facts["kind"]) == ("seen", "done", "warn")
    assert page.saved["text/plain"].startswith("seen: 30 rows, 30 done")
    page.say("view", begin=0, size=3, sort="row", isDescending=True)
    wait_until(lambda: page.rows() == [29, 28, 27])
    page.say("view", word="to 7 people")
    wait_until(lambda: page.rows() == [7])
    page.say("hide")
    sent = len(page.messages())
    page.output._schedule_draw()
    assert len(page.messages()) == sent


def test_four_updates_a_second_at_most(kit: lt.Kit) -> None:
    page = Page(ask(kit, 60, model="demo@400"))
    began = time.monotonic()
    page.say("view", size=60)
    wait_until(lambda: page.look().facts.get("isOver"), timeout_s=60)
    seconds = time.monotonic() - began
    updates = [message for message in page.messages() if message["t"] == "live"]
    assert 1 < len(updates) <= 1 + 4 * seconds


def test_a_view_that_is_not_heard_of_is_not_read_for(
    kit: lt.Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtask_kit.widgets.live._ALIVE_S", 0.5)
    page = Page(ask(kit, 2, model="demo@1"))
    watch = page.output.group._watch
    page.say("view")
    wait_until(lambda: page.look().facts)
    wait_until(lambda: not watch.is_running)
    page.say("alive")
    assert watch.is_running
    page.output.group.cancel()


def test_any_snapshot_is_whole_and_a_late_view_gets_everything(kit: lt.Kit) -> None:
    group = ask(kit, 50)
    group.results(60)
    page = Page(group)
    snapshot = page.output.get_state()["snapshot"]
    assert snapshot["facts"]["counts"]["done"] == 50
    assert (snapshot["total"], len(snapshot["rows"])) == (50, 40)
    page.say("view", begin=48, size=40)
    wait_until(lambda: page.rows())
    assert page.rows() == list(range(10, 50)), "the last ones, where it asks for more"
    page.say("view", v="other", size=1)
    wait_until(lambda: any("other" in m.get("windows", {}) for m in page.messages()))
    assert page.messages()[-1]["t"] in ("live", "saved")
    assert page.facts["groupId"] == group.id


def test_a_row_opens_its_card_and_another_one_in_its_place(kit: lt.Kit) -> None:
    group = ask(kit, 3)
    group.results(60)
    page = Page(group)
    page.say("view")
    task_ids = [task_id for task_id in group._record.rows if task_id]
    page.say("open", id=task_ids[1])
    card = page.output.card
    assert card is not None
    assert card._meta["maxTokens"] == 20
    wait_until(lambda: card.status == "completed")
    wait_until(lambda: page.look().facts.get("open") == task_ids[1])
    page.say("open", id=task_ids[2])
    assert page.output.card is card
    wait_until(lambda: card.task is not None and card.task.id == task_ids[2])
    page.say("open", id="task_of_somebody_else")
    assert page.output._open_id == task_ids[2]
    page.say("close")
    assert page.output.card is None
    wait_until(lambda: page.look().facts.get("open") is None)
    other = Page(kit.attach_group(group.id))
    other.say("open", id=task_ids[0])
    wait_until(lambda: other.output.card)
    assert other.output.card is not None
    assert other.output.card._meta["maxTokens"] == 20, "in another kernel, too"
    kit.attach(task_ids[1]).delete()
    other.say("open", id=task_ids[1])
    wait_until(lambda: task_ids[1] in other.output._notice)
    assert other.output.card is None, "not that of another row"


def test_failed_rows_are_run_again_and_the_rest_is_cancelled(kit: lt.Kit) -> None:
    page = Page(ask(kit, 2, model="demo-bad-key"))
    page.say("view")
    wait_until(lambda: page.look().facts.get("word") == "2 failed", timeout_s=30)
    assert "401" in page.window["rows"][0][4]
    attempts = [page.output.group._watch.states[i].attempt for i in page.output.group._ids]
    page.say("retry")
    wait_until(
        lambda: (
            page.output.group._watch.is_over
            and [page.output.group._watch.states[i].attempt for i in page.output.group._ids]
            == [attempt + 1 for attempt in attempts]
        ),
        timeout_s=30,
    )
    other = Page(ask(kit, 40, model="demo@2"))
    other.say("view")
    wait_until(lambda: other.look().facts.get("kind") == "run", timeout_s=30)
    other.say("cancel")
    wait_until(lambda: other.look().facts["isOver"], timeout_s=60)
    assert other.facts["counts"]["failed"] == 40


def test_all_rows_are_copied_as_csv_with_their_whole_answers(kit: lt.Kit) -> None:
    group = ask(kit, 3)
    answers = group.results(60)
    page = Page(kit.attach_group(group.id))
    page.say("view")
    wait_until(lambda: page.look().facts.get("isOver"))
    page.say("csv")
    wait_until(lambda: page.look().csv)
    rows = list(csv.DictReader(io.StringIO(page.csv, newline="")))
    assert [row["answer"] for row in rows] == answers
    assert [row["row"] for row in rows] == group.rows
    assert {row["status"] for row in rows} == {"completed"}


def test_what_a_button_could_not_do_is_said(kit: lt.Kit, settings: lt.Settings) -> None:
    with lt.connect(settings=settings, quiet=True) as brief:
        group = ask(brief, 1)
        group.results(60)
        page = Page(group)
    page.say("view")
    page.say("csv")
    assert "closed" in page.output._notice
