"""The dashboard without a browser: what it says, what is saved, what it sends to a page."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len

import longtask_kit as lt
from longtask_kit.client.health import Health
from longtask_kit.client.overview import Limit, Line, Side
from longtask_kit.log.limits import Level
from longtask_kit.submit.queue_state import DeadLetter, QueueState
from longtask_kit.widgets import Dashboard
from longtask_kit.widgets.dashboard import DashboardOutput
from longtask_kit.widgets.dashboard_facts import DashboardFacts, DashboardQuery, write_side
from longtask_kit.widgets.dashboard_saved import describe_text, make_bundle
from tests.unit.test_overview import line_of, make_record
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm
from tests.widgets.test_bundle import PAYLOADS, find_attacks

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def make_line(number: int, stage: str = "done", **changes: Any) -> Line:  # noqa: ANN401
    facts: dict[str, Any] = {
        "line_id": f"task_{number:08}",
        "group_id": "",
        "stage": stage,
        "word": {"done": "completed"}.get(stage, stage),
        "prompt": f"Explain {number}",
        "model": "demo",
        "attempt": 1,
        "created": NOW - timedelta(minutes=number),
        "tokens": 10 if stage == "done" else None,
        "rate": 71.4 if stage == "done" else None,
        "cost": None,
        "error": "",
    }
    return Line(**facts | changes)


def make_side(reason: str = "bad key") -> Side:
    letter = DeadLetter(dead_letter_id="1-1", reason=reason, task_id="task_1", url="http://x")
    level = Level(rpm=60.0, tpm=0.0, calls=41, tokens=9, waiting=3, hold_s=2.5)
    return Side(
        health=(
            Health(service="Redis", is_well=True, detail="fine", latency_ms=12.3),
            Health(service="model", is_well=False, detail=reason),
        ),
        queue=QueueState(waiting=1234, in_flight=2, dead=(letter,) * 7, is_whole=True),
        limits=(Limit(model="demo", level=level),),
        notes=("What can't be told.",),
    )


def test_what_stands_beside_is_told_in_words() -> None:
    wire = write_side(make_side())
    assert wire["health"] == [["Redis", True, "12 ms", "fine"], ["model", False, "", "bad key"]]
    assert (wire["queue"]["waiting"], wire["queue"]["deadCount"]) == (1234, 7)
    assert wire["queue"]["dead"] == [["1-1", "bad key", "task_1"]] * 5
    words = "41 of 60 requests a minute"
    assert wire["limits"] == [["demo", 0.683, words, "3 wait, held for 2 s"]]


def test_the_state_is_what_goes_on_and_failures_are_over() -> None:
    def word(*stages: str) -> str:
        return DashboardFacts.of([make_line(i, s) for i, s in enumerate(stages)], Side()).word

    assert word() == "no tasks yet"
    assert word("done", "failed") == "all ended"
    assert word("waiting", "failed") == "waiting"
    assert word("waiting", "running") == "running"


@pytest.mark.parametrize("wire", [{}, {"begin": -1, "size": True, "stage": "x", "word": None}])
def test_what_makes_no_sense_is_as_if_it_were_not_asked(wire: dict[str, Any]) -> None:
    assert DashboardQuery.from_wire(wire) == DashboardQuery()


def test_a_thousand_tasks_are_a_window_of_rows() -> None:
    lines = [make_line(i) for i in range(1000)]
    window = DashboardQuery(begin=990, size=40).show(lines, {})
    assert (window["begin"], window["total"], len(window["rows"])) == (960, 1000, 40)
    assert window["rows"][-1][0] == "task_00000999"
    assert len(DashboardQuery.from_wire({"size": 10**6}).show(lines, {})["rows"]) == 200


def test_an_opened_group_says_what_can_be_done_to_it() -> None:
    stages = ["running", "failed", "done"]
    lines = [make_line(i, s, group_id="group_1") for i, s in enumerate(stages)]
    window = DashboardQuery(group_id="group_1").show([*lines, make_line(9)], {})
    assert window["total"] == 3
    assert (window["group"]["failed"], window["group"]["open"]) == (1, 1)
    assert DashboardQuery(group_id="group_2").show(lines, {})["group"] is None


def test_what_is_saved_does_not_age_and_says_who_does_not_answer() -> None:
    lines = [make_line(0, "failed", error="401"), make_line(1, cost=0.03)]
    facts = DashboardFacts.of(lines, make_side())
    assert make_bundle(facts, lines)["text/plain"].splitlines() == [
        "dashboard: 2 tasks, 1 failed, 1 done, 10 tokens, $0.03",
        "",
        "status     prompt     model  attempt  tokens   cost",
        "failed     Explain 0  demo         1",
        "completed  Explain 1  demo         1      10  $0.03",
        "",
        "answers: Redis",
        "model: bad key",
        "7 dead letters in the queue:",
        *["  bad key"] * 5,
        "What can't be told.",
    ]
    many = [make_line(i) for i in range(30)]
    bundle = make_bundle(DashboardFacts.of(many, Side()), many)
    assert "20 more rows" in bundle["text/plain"]
    assert "10 more rows" in bundle["text/html"]
    for form in bundle.values():
        assert "71" not in form, "no rate"
        assert "12 ms" not in form, "no latency"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_of_anybody_is_markup_in_what_is_saved(payload: str) -> None:
    line = make_line(0, prompt=payload, model=payload, word=payload, error=payload)
    facts = DashboardFacts.of([line], make_side(payload), notice=payload)
    assert find_attacks(make_bundle(facts, [line])["text/html"]) == []


class Page:
    """A page that shows a dashboard: it says what it wants, and takes what it is sent."""

    def __init__(self, kit: lt.Kit) -> None:
        self.output = DashboardOutput(Dashboard(kit))
        self.facts: dict[str, Any] = {}
        self.window: dict[str, Any] = {"rows": []}
        self.saved: dict[str, str] = {}
        self._taken = 0
        self.messages = 0

    def say(self, what: str, **message: object) -> None:
        self.output._receive(None, {"t": what, "v": "page", **message}, [])

    def look(self) -> "Page":
        comm = self.output.comm
        assert isinstance(comm, RecordingComm)
        fresh, self._taken = comm.published[self._taken :], len(comm.published)
        for one in fresh:
            content: dict[str, Any] = (one["data"] or {}).get("content") or {}
            match content.get("t"):
                case "live":
                    self.messages += 1
                    self.facts = content.get("facts", self.facts)
                    self.window = content.get("windows", {}).get("page", self.window)
                case "saved":
                    self.saved = content["data"]
        return self

    def find(self, line_id: str) -> list[Any] | None:
        return next((row for row in self.look().window["rows"] if row[0] == line_id), None)

    def tells(self, line_id: str, word: str) -> bool:
        row = self.find(line_id)
        return row is not None and row[3] == word


def test_a_task_is_opened_cancelled_retried_and_deleted(kit: lt.Kit) -> None:
    page = Page(kit)
    page.say("view")
    task = kit.submit("Explain tides", model="demo@2")
    wait_until(lambda: page.tells(task.id, "running"), timeout_s=30)
    page.say("open", id=task.id)
    card = page.output.card
    assert card is not None
    wait_until(lambda: page.look().facts.get("open") == task.id)
    page.say("cancel", id="")
    page.say("cancel", id=task.id)
    wait_until(lambda: page.tells(task.id, "cancelled"), timeout_s=30)
    page.say("retry", id=task.id)
    wait_until(lambda: (row := page.find(task.id)) and row[6] == 2, timeout_s=30)
    page.say("delete", id=task.id)
    wait_until(lambda: page.find(task.id) is None, timeout_s=30)
    with pytest.raises(lt.StreamExpiredError):
        kit.attach(task.id)
    wait_until(lambda: page.output.card is None)
    page.say("open", id="task_of_somebody_else")
    assert page.output.card is None
    page.say("delete", id="task_of_somebody_else")
    wait_until(lambda: "unknown" in page.look().facts["notice"].lower() or page.facts["notice"])
    page.say("hide")


def test_a_group_is_cancelled_as_one(kit: lt.Kit) -> None:
    page = Page(kit)
    page.say("view")
    group = kit.map([f"dashboard {i}" for i in range(12)], model="demo@2", name="one")
    wait_until(lambda: page.find(group.id), timeout_s=30)
    page.say("view", group=group.id)
    wait_until(lambda: page.look().window["total"] == 12)
    page.say("cancel", id=group.id)
    wait_until(lambda: Counter(row[2] for row in page.look().window["rows"])["failed"] == 12)
    assert page.window["group"]["failed"] == 12
    wait_until(lambda: "one · 12 rows" in page.look().saved.get("text/plain", ""), timeout_s=30)
    page.say("hide")
    wait_until(lambda: not page.output._watch.is_running)


def test_what_the_queue_gave_up_is_tried_again_or_forgotten(kit: lt.Kit) -> None:
    page = Page(kit)
    page.say("view")
    tasks = [kit.submit(f"Given up {i}", model="demo-bad-key", retries=0) for i in range(2)]

    def find_letter(task: lt.Task) -> str:
        side = page.output._watch.side
        dead = side.queue.dead if side.queue else ()
        return next((one.dead_letter_id for one in dead if one.task_id == task.id), "")

    wait_until(lambda: all(map(find_letter, tasks)), timeout_s=30)
    again, forgotten = tasks
    page.say("letter-delete", id=find_letter(forgotten), task=forgotten.id)
    page.say("letter-retry", id=(first := find_letter(again)), task=again.id)
    wait_until(lambda: not find_letter(forgotten), timeout_s=30)
    wait_until(lambda: (row := page.find(again.id)) and row[6] == 2, timeout_s=30)
    wait_until(lambda: find_letter(again) not in ("", first), timeout_s=30)
    assert page.tells(forgotten.id, "failed"), "its task stays as it was"
    page.say("hide")


def test_without_widgets_it_is_printed(kit: lt.Kit, capsys: pytest.CaptureFixture[str]) -> None:
    board = kit.dashboard()
    board._ipython_display_()
    assert capsys.readouterr().out.startswith("dashboard: ")
    assert repr(board).startswith("<Dashboard ")


def test_a_fault_in_what_a_button_asked_for_is_told_and_logged(
    kit: lt.Kit, caplog: pytest.LogCaptureFixture
) -> None:
    page = Page(kit)
    page.say("letter-delete", id="\ud800")  # which no page sends, and no request can carry
    wait_until(lambda: "UnicodeEncodeError" in page.output._notice)
    assert "what a button asked for failed" in caplog.text


def test_in_a_terminal_columns_stand_below_each_other_behind_wide_signs() -> None:
    lines = [line_of(make_record(name, wire={"prompt": name})) for name in ("潮汐", "tides")]
    facts = DashboardFacts.of(lines, Side())
    rows = [row for row in describe_text(facts, lines).splitlines() if " m " in row]
    assert len({cell_len(row.partition(" m ")[0]) for row in rows}) == 1, rows
