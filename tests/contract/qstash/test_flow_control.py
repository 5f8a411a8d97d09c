"""Flow control: parallelism, rate, pause, pin; through the official SDK."""

import itertools
import threading
import time
from typing import Any

import pytest
from qstash.errors import QStashError

from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.flow import FlowGate, FlowSettings, parse_flow_limits
from tests.contract.qstash.conftest import Fresh
from tests.contract.qstash.destination import (
    Answer,
    Destination,
    make_app,
    sdk_for,
    states_of,
    wait_until,
)
from tests.serving import serve


def send(fresh: Fresh, url: str, **flow: Any) -> str:  # noqa: ANN401
    control: Any = {"key": "k"} | flow
    sent: Any = fresh.sdk.message.publish(url=url, flow_control=control)
    return str(sent.message_id)


def test_parallelism_bounds_what_is_in_flight_and_the_rest_waits(
    fresh: Fresh, destination: Destination
) -> None:
    gates = [threading.Event() for _ in range(4)]
    url = destination.script("/flow", *(Answer(gate=gate) for gate in gates))
    for _ in gates:
        send(fresh, url, parallelism=2)
    wait_until(lambda: len(destination.deliveries) == 2)
    info = fresh.sdk.flow_control.get("k")
    assert (info.wait_list_size, info.parallelism_max, info.parallelism_count) == (2, 2, 2)
    assert (info.rate_max, info.rate_count) == (0, 0)
    assert fresh.sdk.flow_control.get_global_parallelism().parallelism_count == 2
    for done, gate in enumerate(gates):
        gate.set()
        wait_until(lambda done=done: len(destination.deliveries) >= min(3 + done, 4))  # type: ignore[misc]
    wait_until(lambda: fresh.sdk.flow_control.get("k").parallelism_count == 0)


def test_a_rate_is_starts_in_a_period_and_can_be_reset(
    fresh: Fresh, destination: Destination
) -> None:
    for _ in range(5):
        send(fresh, destination.url + "/rate", rate=2, period="1h")
    wait_until(lambda: len(destination.deliveries) == 2)
    info = fresh.sdk.flow_control.get("k")
    assert (info.rate_max, info.rate_count, info.rate_period) == (2, 2, 3600)
    assert abs(info.rate_period_start - time.time()) < 60
    assert info.wait_list_size == 3
    fresh.sdk.flow_control.reset_rate("k")
    wait_until(lambda: len(destination.deliveries) == 4)
    fresh.sdk.flow_control.pin("k", {"rate": 10, "period": 60})
    wait_until(lambda: len(destination.deliveries) == 5)
    assert fresh.sdk.flow_control.get("k").rate_count == 1
    fresh.sdk.flow_control.reset_rate("k")
    assert fresh.sdk.flow_control.get("k").rate_count == 0


def test_the_next_period_begins_by_itself(fresh: Fresh, destination: Destination) -> None:
    for _ in range(3):
        send(fresh, destination.url + "/period", rate=1)
    wait_until(lambda: len(destination.deliveries) == 3)
    times = [delivery.time_s for delivery in destination.deliveries]
    assert all(later - before > 0.9 for before, later in itertools.pairwise(times))


def test_a_paused_key_starts_nothing_and_other_messages_go_on(
    fresh: Fresh, destination: Destination
) -> None:
    send(fresh, destination.url + "/first", parallelism=5)
    fresh.sdk.flow_control.pause("k")
    assert fresh.sdk.flow_control.get("k").is_paused
    send(fresh, destination.url + "/held", parallelism=5)
    probe: Any = fresh.sdk.message.publish(url=destination.url + "/probe")
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, probe.message_id))
    assert fresh.sdk.flow_control.get("k").wait_list_size == 1
    assert not destination.at("/held")
    fresh.sdk.flow_control.resume("k")
    assert not fresh.sdk.flow_control.get("k").is_paused
    wait_until(lambda: destination.at("/held"))


def test_pinned_limits_ignore_the_messages_until_they_are_unpinned(
    fresh: Fresh, destination: Destination
) -> None:
    send(fresh, destination.url + "/x", parallelism=5, rate=50)
    control = fresh.sdk.flow_control
    control.pin("k", {"parallelism": 2})
    send(fresh, destination.url + "/x", parallelism=7, rate=70, period=3)
    info = control.get("k")
    assert (info.parallelism_max, info.rate_max, info.rate_period) == (2, 70, 3)
    assert (info.is_pinned_parallelism, info.is_pinned_rate) == (True, False)
    control.pin("k", {"rate": 9})
    control.unpin("k", {"parallelism": True})
    info = control.get("k")
    assert (info.parallelism_max, info.is_pinned_parallelism, info.is_pinned_rate) == (
        2,
        False,
        True,
    )
    send(fresh, destination.url + "/x", parallelism=8, rate=80)
    info = control.get("k")
    assert (info.parallelism_max, info.rate_max) == (8, 9)


def test_a_message_tells_its_limits_and_leaves_out_the_unset_ones(
    fresh: Fresh, destination: Destination
) -> None:
    message_id = send(fresh, destination.url + "/m", parallelism=3)
    flow = fresh.sdk.message.get(message_id).flow_control
    assert flow is not None
    assert (flow.key, flow.parallelism, flow.rate, flow.period) == ("k", 3, None, 1)
    wait_until(lambda: "DELIVERED" in states_of(fresh.sdk, message_id))
    entries = fresh.http.get("/v2/events", params={"flowControlKey": "k"}).json()["events"]
    assert {entry["messageId"] for entry in entries} == {message_id}
    assert [one["flowControlKey"] for one in fresh.http.get("/v2/flowControl").json()] == ["k"]
    assert fresh.http.get("/v2/flowControl", params={"search": "z"}).json() == []


def test_an_unknown_key_is_404_and_can_still_be_pinned(fresh: Fresh) -> None:
    with pytest.raises(QStashError, match="404"):
        fresh.sdk.flow_control.get("unknown")
    with pytest.raises(QStashError, match="404"):
        fresh.sdk.flow_control.pause("unknown")
    fresh.sdk.flow_control.pin("unknown", {"parallelism": 1})
    assert fresh.sdk.flow_control.get("unknown").parallelism_max == 1
    assert fresh.http.post("/v2/flowControl/unknown/pin").status_code == 400


def test_pause_pin_and_the_present_period_survive_a_restart(
    qstash_valkey: str, destination: Destination
) -> None:
    control: Any = {"key": "kept", "rate": 1, "period": "1h"}
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        for _ in range(2):
            sdk.message.publish(url=destination.url + "/once", flow_control=control)
        wait_until(lambda: destination.at("/once"))
        sdk.flow_control.pin("other", {"parallelism": 4})
        sdk.flow_control.pause("other")
    with serve(make_app(qstash_valkey)) as url, sdk_for(url) as sdk:
        other = sdk.flow_control.get("other")
        assert (other.parallelism_max, other.is_paused, other.is_pinned_parallelism) == (
            4,
            True,
            True,
        )
        wait_until(lambda: sdk.flow_control.get("kept").wait_list_size == 1)
        assert sdk.flow_control.get("kept").rate_count == 1
        assert len(destination.at("/once")) == 1
        sdk.flow_control.reset_rate("kept")
        wait_until(lambda: len(destination.at("/once")) == 2)


def test_a_cancelled_message_leaves_the_wait_list(fresh: Fresh, destination: Destination) -> None:
    url = destination.script("/held", Answer(gate=threading.Event()))
    held = send(fresh, url, parallelism=1)
    waiting = send(fresh, destination.url + "/waiting", parallelism=1)
    send(fresh, destination.url + "/last", parallelism=1)
    wait_until(lambda: destination.at("/held"))
    fresh.sdk.message.cancel(waiting)
    assert fresh.sdk.flow_control.get("k").wait_list_size == 1
    assert fresh.http.delete("/v2/messages", params={"flowControlKey": "z"}).json() == {
        "cancelled": 0
    }
    fresh.sdk.message.cancel(held)
    wait_until(lambda: destination.at("/last"))
    assert not destination.at("/waiting")


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("parallelism=3, rate=4, period=2s", (3, 4, 2)),
        ("rate=4,parallelism=3", (3, 4, 1)),
        ("period=1h30m3s,rate=1", (None, 1, 5403)),
        ("period=60", (None, None, 60)),
        ("", (None, None, 1)),
    ],
)
def test_flow_control_values_in_any_order(value: str, limits: tuple[Any, ...]) -> None:
    found = parse_flow_limits("k", value)
    assert found is not None
    assert (found.parallelism, found.rate, found.period_s) == limits


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "rate=1"),
        ("a b", ""),
        ("a/b", ""),
        ("k", "rate=0"),
        ("k", "rate=x"),
        ("k", "speed=1"),
        ("k", "period=8d"),
        ("k", "period=0s"),
        ("k", "parallelism=-1"),
    ],
)
def test_flow_control_values_out_of_range(key: str, value: str) -> None:
    with pytest.raises(MalformedRequestError):
        parse_flow_limits(key, value)


def test_a_period_begins_with_the_first_start_in_it() -> None:
    gate = FlowGate(FlowSettings(rate=1, period_s=10))
    gate.waiting = dict.fromkeys("abc")
    assert gate.start_next(5_000) == "a"
    assert gate.start_next(5_000) is None
    assert gate.wake_ms() == 15_000
    assert gate.start_next(14_999) is None
    assert gate.start_next(15_500) == "b"
    assert gate.wake_ms() == 25_500
