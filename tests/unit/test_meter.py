"""What `longtask bench` makes of what it saw."""

from dataclasses import replace
from typing import Any

import pytest

from longtask_kit.cli.meter import Report, TaskTimes, describe_limit, make_report


def make_times(*, asked: float = 100.0) -> TaskTimes:
    """Recorded after 10 ms, begun after 30, then 3 texts 100 ms apart, each 5 ms under way."""
    stored = [asked + 0.230, asked + 0.330, asked + 0.430]
    return TaskTimes(
        asked=asked,
        accepted=asked + 0.020,
        recorded=asked + 0.010,
        begun=asked + 0.030,
        stored=stored,
        arrived=[at + 0.005 for at in stored],
        tokens=[1, 4, 5],
    )


def report_on(*times: TaskTimes) -> Report:
    return make_report(
        times,
        seconds=2.0,
        cpu_s=0.1,
        round_trip_s=0.002,
        flush_interval_s=0.1,
        read_commands=8 * len(times),
    )


def test_the_stages_add_up_to_the_first_token() -> None:
    report = report_on(make_times())

    stages = [report.record_ms, report.queue_ms, report.model_ms, report.delivery_ms]
    assert stages == pytest.approx([10, 20, 200, 5])
    assert sum(stages) == pytest.approx(report.first_token_ms)


def test_the_rate_leaves_the_first_token_out_and_counts_tokens_not_pieces() -> None:
    assert report_on(make_times()).tokens_per_s == pytest.approx(9 / 0.2)


def test_a_text_that_came_at_once_has_no_rate() -> None:
    times = make_times()
    times.stored, times.arrived, times.tokens = times.stored[:1], times.arrived[:1], [10]

    report = report_on(times)

    assert report.tokens_per_s is None
    assert "at once" in describe_limit(report)


def test_the_99th_percentile_is_of_all_pieces_of_all_tasks() -> None:
    slow = make_times(asked=200.0)
    slow.arrived[-1] += 0.300

    report = report_on(make_times(), slow)

    assert report.delay_p50_ms == pytest.approx(5)
    assert report.delay_p99_ms == pytest.approx(305)


def test_commands_are_the_readers_as_counted_and_the_apps_by_what_it_stored() -> None:
    report = report_on(make_times())

    assert report.commands_per_task == 8 + 3 + 3
    assert report.usd_per_1000_tasks == pytest.approx(1000 * 14 * 0.2 / 100_000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu_share": 0.95}, "95% of a core"),
        ({"queue_ms": 900.0}, "the queue hop (900 ms)"),
        ({"model_ms": 700.0}, "the model (700 ms)"),
        ({"record_ms": 600.0}, "the record in Redis (600 ms)"),
        ({"delivery_ms": 500.0}, "the way from Redis (500 ms)"),
        ({"delay_p50_ms": 3.0}, "the flush interval (at most 100 ms)"),
        ({"delay_p50_ms": 140.0}, "the way from Redis (140 ms)"),
    ],
)
def test_the_sentence_names_what_is_waited_for(change: dict[str, Any], said: str) -> None:
    assert said in describe_limit(replace(report_on(make_times()), **change))
