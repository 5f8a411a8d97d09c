"""A task's x-ray: the axis, the picture, the text of any moment, what reaches the page."""

import json
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

import longtask_kit as lt
from longtask_kit.log.changes import Change
from longtask_kit.log.events import Cursor, Status, TaskEvent, from_ms
from longtask_kit.log.timeline import MODEL, Kind, read_timeline
from longtask_kit.widgets.xray import make_bundle, make_track, read_facts
from longtask_kit.widgets.xray_output import TaskPicture, XRayOutput
from longtask_kit.widgets.xray_scale import make_scale
from longtask_kit.widgets.xray_svg import count_rates, draw_timeline, make_timeline_scale
from longtask_kit.widgets.xray_times import GroupTimes, Line, choose_ids, list_counts, list_moments
from tests.unit.test_timeline import BEGIN, SAID, SUBMIT, at
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm
from tests.widgets.test_bundle import PAYLOADS, find_attacks

BEGAN_MS = 1_700_000_000_000
RETRIED = [
    SUBMIT,
    *BEGIN,
    *SAID,
    at(4.5, "status", "retrying", error="The model's connection broke off: gone.", code="cut"),
    at(300, "status", "running", "2-1", arrived=299.9),
    at(300, "start", "2", "2-2"),
    at(301, "content", "Three", "2-3"),
    at(302, "status", "completed", "2-4"),
    at(302, "end", "", "2-5", finish_reason="stop"),
]


def speak(tokens: int) -> list[TaskEvent]:
    """Return the log of an answer of so many tokens, each stored alone, 10 ms apart."""
    return [
        TaskEvent(
            type="content",
            data=f"word{number % 10} ",
            cursor=Cursor(1, number + 3),
            time=from_ms(BEGAN_MS + 3000 + 10 * number),
        )
        for number in range(tokens)
    ]


def test_a_long_wait_is_cut_short_and_the_axis_says_so() -> None:
    scale = make_scale(302, [(4.5, 299.9)])
    [before, wait, after] = scale.stretches
    assert wait.is_cut
    assert wait.right - wait.left < 0.25
    assert before.right - before.left > 2 * (after.right - after.left) - 0.2
    words = [tick.word for tick in scale.list_ticks()]
    assert words[0] == "0"
    assert "⋯" in words
    assert words[-1] == "5 min 02 s", words
    places = [tick.place for tick in scale.list_ticks()]
    assert all(b - a > 0.09 for a, b in pairwise(places))


@pytest.mark.parametrize("total_s", [0.004, 0.9, 7, 61, 4000, 200_000])
def test_every_axis_has_a_few_round_marks(total_s: float) -> None:
    ticks = make_scale(total_s, []).list_ticks()
    assert 2 <= len(ticks) <= 9
    assert [tick.place for tick in ticks] == sorted(tick.place for tick in ticks)


def test_an_axis_of_hours_is_told_in_hours() -> None:
    words = [tick.word for tick in make_scale(200_000, []).list_ticks()]
    assert words == ["0", "10 h", "20 h", "30 h", "40 h", "50 h"]
    words = [tick.word for tick in make_scale(10_000, []).list_ticks()]
    assert words == ["0", "30 min", "1 h", "1 h 30 min", "2 h", "2 h 30 min"]


def test_the_time_from_an_end_until_a_retry_by_hand_is_cut_short() -> None:
    day = 86_400.0
    failed = [SUBMIT, *BEGIN, SAID[0], at(4, "error", "refused", code="x")]
    again = [
        at(day, "status", "pending", "1-20"),
        at(day + 1, "status", "running", "2-1", arrived=day + 1),
        at(day + 1, "start", "2", "2-2"),
        at(day + 2, "content", "One", "2-3", tokens=1),
        at(day + 3, "end", "", "2-4", finish_reason="stop"),
    ]
    scale = make_timeline_scale(read_timeline([*failed, *again]))
    assert [stretch[:2] for stretch in scale.stretches if stretch.is_cut] == [(4, day + 1)]
    assert scale.find_place(4) > 0.4, "what happened is as wide as before"


def find_words(spans: list[tuple[int, str]], at_s: float) -> str:
    return [words for ms, words in spans if ms <= 1000 * at_s][-1]


def test_of_a_thousand_attempts_each_moment_has_its_own_words(kit: lt.Kit) -> None:
    events = [SUBMIT]
    for number in range(1, 1001):
        began = 10.0 * number
        events += [
            at(began, "status", "running", f"{number}-1", arrived=began),
            at(began, "start", str(number), f"{number}-2"),
            at(began + 9, "error", "refused", f"{number}-3", code="x"),
            at(began + 9.5, "status", "pending", f"{number}-9"),
        ]
    facts = read_facts(kit.submit("x", model="demo-fast"), read_timeline(events))
    assert len(facts["spans"]) <= 301
    number = int(find_words(facts["spans"], 9005).split()[1].rstrip(","))
    assert 895 <= number <= 905
    short = read_facts(kit.submit("x", model="demo-fast"), read_timeline(events[:9]))
    assert find_words(short["spans"], 15) == "attempt 1, waiting for the first token"
    assert find_words(short["spans"], 19.2) == "it had ended, until it was retried"
    assert find_words(short["spans"], 19.7) == "attempt 1, waiting in the queue"


def test_the_end_of_a_group_is_told_however_many_moments_it_has() -> None:
    def ends(row: int) -> Line:
        tries = [
            event
            for number in range(1, 9)
            for event in (
                at(5 * number + row / 77, "start", str(number), f"{number}-2"),
                at(5 * number + 1 + row / 77, "status", "retrying", f"{number}-3", error="500"),
            )
        ]
        end = at(50 + row / 77, "end", "", "9-9", finish_reason="stop")
        return Line(row, "p", read_timeline([SUBMIT, *tries, end]))

    lines = [ends(row) for row in range(59)]
    moments = list_moments(GroupTimes(lines, 0, 51.0, "done", "good"))
    assert len(moments) < 600
    assert moments[-1][1] == "all have ended"


def test_a_rate_is_what_came_between_two_flushes() -> None:
    pieces = read_timeline([SUBMIT, *BEGIN, *SAID]).attempts[1].pieces
    rates = count_rates(pieces, 3, 4, 4)
    assert rates[-1] == pytest.approx(2.0)
    assert rates[0] > rates[-1], "what the first flush brought has no time of its own"
    assert count_rates(pieces[:1], 3, 3, 1) == [2.0], "all at once"


def test_the_picture_has_its_words_as_text_and_is_well_formed() -> None:
    svg = draw_timeline(read_timeline(RETRIED))
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    words = " ".join("".join(text.itertext()) for text in root.iter() if text.tag.endswith("text"))
    for told in ("queue", "attempt 1", "attempt 2", "4 tokens", "✕", "next try after 4 min 55 s"):
        assert told in words
    assert "The model's connection broke off" in words
    assert root.attrib["role"] == "img"
    assert "delivery" in words, "figures that a narrow place leaves out are there"
    for told in ("302", "in the queue", "attempt 1", "broke off", "attempt 2", "stop"):
        assert told.replace("302", "5 min 02 s") in root.attrib["aria-label"]
    assert "script" not in svg
    assert "prefers-color-scheme:dark" in svg


def test_where_an_attempt_went_on_behind_its_text_a_seam_is_drawn() -> None:
    on = [
        at(5, "status", "running", "2-1", arrived=4.5),
        at(5, "continue", "1-4", "2-2"),
        at(6, "content", "x", "2-3"),
        at(10, "end", "", "2-4", finish_reason="stop"),
    ]
    root = ElementTree.fromstring(draw_timeline(read_timeline([SUBMIT, *BEGIN, *SAID, *on])))  # noqa: S314
    [seam] = [path for path in root.iter() if path.attrib.get("class") == "seam"]
    assert seam.attrib["d"] == "M500 0V30", "half-way"
    assert "seam" not in draw_timeline(read_timeline([SUBMIT, *BEGIN, *SAID])).split("</style>")[1]


def test_of_very_many_attempts_the_first_and_the_last_are_drawn() -> None:
    events = [SUBMIT]
    for number in range(1, 101):
        events += [
            at(number, "status", "running", f"{number}-1", arrived=number),
            at(number, "start", str(number), f"{number}-2"),
            at(number + 0.5, "status", "retrying", f"{number}-3", error="no"),
        ]
    svg = draw_timeline(read_timeline(events))
    assert "attempt 100" in svg
    assert "and 89 more attempts" in svg
    assert len(svg) < 20_000


def test_ten_thousand_tokens_cost_twenty_kilobytes_beside_their_text() -> None:
    said = speak(10_000)
    timeline = read_timeline([SUBMIT, *BEGIN, *said, at(104, "end", finish_reason="stop")])
    text = "".join(event.data for event in said)
    saved = "".join(make_bundle(timeline, task_id="task_12345678").values())
    assert len(saved.encode()) <= 20_000, "it needs not even the text"
    sent = json.dumps([draw_timeline(timeline), make_track(timeline)])
    assert len(sent.encode()) - len(text.encode()) <= 20_000


def read_at(track: list[dict[str, object]], ms: float) -> str:
    """Return what the page shows of a moment: as `readMoment` in js/src/moments.js."""
    text = ""
    attempt = [a for a in track if a["from"] <= ms][-1]  # type: ignore[operator]
    for run in attempt["runs"]:  # type: ignore[attr-defined]
        clock, chars = run["from"], 0
        for step, more in zip(run["steps"][::2], run["steps"][1::2], strict=True):
            clock += step
            if clock > ms:
                break
            chars += more
        text += run["text"].encode("utf-16-le")[: 2 * chars].decode("utf-16-le")
    return text


def test_the_text_stands_as_it_stood_at_any_moment() -> None:
    said = [
        at(3, "content", "One 👩‍🔬 ", "1-3"),
        at(4, "content", "two ", "1-4"),
        at(4.0001, "content", "three", "1-5"),
    ]
    again = [at(9, "start", "2", "2-2"), at(10, "content", "New", "2-3")]
    track = make_track(read_timeline([SUBMIT, *BEGIN, *said, *again]))
    moments = {2900: "", 3000: "One 👩‍🔬 ", 3999: "One 👩‍🔬 ", 4001: "One 👩‍🔬 two three"}
    moments |= {8999: "One 👩‍🔬 two three", 9000: "", 10_000: "New"}
    assert {ms: read_at(track, ms) for ms in moments} == moments


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_of_a_task_becomes_markup(payload: str) -> None:
    timeline = read_timeline([SUBMIT, *BEGIN, at(3, "error", payload, code=payload)])
    html = make_bundle(timeline, task_id=payload)["text/html"]
    harmless = make_bundle(read_timeline([SUBMIT, *BEGIN]), task_id="task_12345678")
    assert sorted(find_attacks(html)) == sorted(find_attacks(harmless["text/html"]))
    ElementTree.fromstring(draw_timeline(timeline))  # noqa: S314 - our own


def test_a_terminal_reads_a_line_an_attempt() -> None:
    text = make_bundle(read_timeline(RETRIED), task_id="task_12345678")["text/plain"]
    first, queue, one, two, way = text.splitlines()
    assert first.startswith("completed · 5 min 02 s in all · 2 attempts · queue 2.1 s")
    assert queue.split() == ["queue", "1.5", "s"]
    assert one.endswith("next try after 4 min 55 s: The model's connection broke off: gone.")
    assert "first token 1.0 s" in two
    assert way == 'kit.attach("task_12345678").xray()'


def test_a_task_of_the_stack_tells_when_its_delivery_arrived(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=20)
    task.result(20)
    timeline = task.xray().timeline
    kinds = [span.kind for attempt in timeline.attempts for span in attempt.spans]
    assert "delivery" in kinds or timeline.attempts[1].begin_s > 0
    [begun] = [e for e in task.events() if e.type == "status" and e.data == "running"]
    assert begun.arrived is not None
    assert begun.arrived <= begun.time
    assert timeline.attempts[1].tokens == 20
    assert task.xray().svg.startswith("<svg")
    assert repr(task.xray()) == f"<XRay {task.id} completed>"


def test_a_page_is_drawn_for_while_it_looks(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=20)
    output = XRayOutput(TaskPicture(task.xray()))
    assert isinstance(output.comm, RecordingComm)
    task.result(20)
    output._receive(output, {"t": "see", "v": "one"}, [])
    wait_for(output, "track")
    sent = list_messages(output)
    assert sent["x"]["facts"]["word"].startswith("stopped at max_tokens")
    assert set(sent["saved"]["data"]) == {"text/plain", "text/html"}
    assert not output._is_drawing, "it has ended: nothing changes any more"
    facts = read_facts(task, task.xray().timeline)
    assert facts["note"] == {"xrayOf": task.id}, "no end of a task's card is put in its place"


def list_messages(output: XRayOutput) -> dict[str, Any]:
    assert isinstance(output.comm, RecordingComm)
    contents = [(m["data"] or {}).get("content") for m in output.comm.published]
    return {c["t"]: c for c in contents if isinstance(c, dict) and "t" in c}


def wait_for(output: XRayOutput, kind: str) -> None:
    wait_until(lambda: kind in list_messages(output))


def test_a_group_is_a_row_a_task_on_one_axis(kit: lt.Kit) -> None:
    rows = [f"Explain tides to {i} people" for i in range(8)]
    group = kit.map(rows, model="demo-fast", max_tokens=20, parallelism=2)
    group.results(60)
    xray = group.xray()
    root = ElementTree.fromstring(xray.svg)  # noqa: S314 - our own
    words = ["".join(text.itertext()) for text in root.iter() if text.tag.endswith("text")]
    assert [word for word in words if "people" in word] == [f"{i}{i} people" for i in range(8)]
    wait_until(lambda: xray.read_facts()["isOver"])
    facts = xray.read_facts()
    assert facts["word"] == "done"
    assert facts["figures"][0] == ("", "8", " tasks")
    moments = [words for _, words in facts["spans"]]
    assert moments[-1] == "all have ended"
    assert any("in the queue" in words for words in moments)
    assert repr(xray) == f"<GroupXRay {group.id} 8 rows>"
    text = xray.make_bundle()["text/plain"].splitlines()
    assert len(text) == 10
    assert text[-1] == f'kit.attach_group("{group.id}").xray()'


def know(task_id: str, status: Status | None, updated_ms: int | None = None) -> Change:
    return Change(task_id=task_id, status=status, updated_ms=updated_ms)


def test_of_very_many_what_runs_has_failed_or_is_new_is_drawn_before_what_was_kept() -> None:
    states = {
        change.task_id: change
        for change in (
            know("kept", "completed", 900),
            know("gone", None),
            know("new", "completed", 1100),
            know("heard", "completed"),
            know("failed", "failed", 900),
            know("tried", "retrying", 1000),
            know("running", "running", 1000),
        )
    }
    ids = [*states, "unheard"]
    by_room = {most: choose_ids(ids, states, since_ms=1000, most=most) for most in (2, 3, 5, 9)}
    assert by_room == {
        2: ["tried", "running"],
        3: ["failed", "tried", "running"],
        5: ["new", "heard", "failed", "tried", "running"],
        9: [i for i in ids if i != "gone"],
    }


def test_a_group_is_over_when_its_last_row_is_however_many_are_drawn(kit: lt.Kit) -> None:
    rows = [{"prompt": f"Row {i}", "model": "demo-fast"} for i in range(61)]
    rows[-1]["model"] = "demo-bad-key"
    group = kit.map(rows, max_tokens=1)
    xray = group.xray()
    group.results(60, errors="return")
    facts = xray.read_facts()
    assert (facts["word"], facts["kind"]) == ("1 failed", "bad")
    svg = xray.svg
    assert facts["figures"][0] == ("", "61", " tasks")
    assert ">60<" in svg
    assert ">59<" not in svg, "one has to make room for what failed"
    assert "and 1 more: what is told is of those above" in svg
    assert ("", "60", " drawn, of them") in xray.read_facts()["figures"]
    assert xray.is_over
    assert xray.make_bundle()["text/plain"].startswith("1 failed · 61 tasks · 60 drawn, of them")


def test_how_many_wait_and_run_at_once_is_counted() -> None:
    waits = [
        at(2.1, "status", "pending", code="limit", error="waits"),
        at(4, "status", "running", "1-4"),
        at(6, "end", finish_reason="stop"),
    ]
    logs = [[SUBMIT, *BEGIN, *SAID, *waits[2:]], [SUBMIT, *BEGIN, *waits]]
    lines = [Line(n, "x", read_timeline(log)) for n, log in enumerate(logs)]
    times = GroupTimes(lines, 0, 6.0, "running", "run")
    limit: tuple[Kind, ...] = ("limit",)
    assert list_counts(lines, limit) == [(2.1, 1), (4.0, 0)]
    assert (times.count_most("limit"), times.count_most(*MODEL)) == (1, 2)
    assert times.count_s("queue") == 3.0
