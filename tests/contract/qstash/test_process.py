"""The queue as a process: keys, restarts, limits, idleness, a storage that fails."""

import concurrent.futures
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from qstash import QStash
from qstash.errors import SignatureError
from starlette.applications import Starlette

from tests.contract.qstash.destination import (
    CURRENT_KEY,
    NEXT_KEY,
    PROMPT_RETRY,
    TOKEN,
    Answer,
    Destination,
    make_app,
    publish,
    sdk_for,
    states_of,
    verify,
    wait_until,
)
from tests.serving import free_port, serve

if TYPE_CHECKING:
    from collections.abc import Callable


def test_rotated_keys_sign_at_once_and_are_kept_over_a_restart(
    qstash_valkey: str, destination: Destination
) -> None:
    url = destination.url + "/signed"

    def deliver(sdk: QStash) -> Any:  # noqa: ANN401
        message_id = publish(sdk, url, body="b")
        return wait_until(
            lambda: [
                found
                for found in destination.deliveries
                if found.headers["upstash-message-id"] == message_id
            ]
        )[0]

    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        assert sdk.signing_key.get().current == CURRENT_KEY
        rotated = sdk.signing_key.rotate()
        assert rotated.current == NEXT_KEY
        assert len(rotated.next) == 32
        delivery = deliver(sdk)
        verify(delivery, url, CURRENT_KEY, NEXT_KEY)
        verify(delivery, url, rotated.current, rotated.next)
        with pytest.raises(SignatureError):
            verify(delivery, url, CURRENT_KEY, CURRENT_KEY)
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        assert sdk.signing_key.get() == rotated
    other = "sig_other_0123456789abcdefghijkl"
    app = make_app(qstash_valkey, current_signing_key=other)
    with serve(app) as base_url, sdk_for(base_url) as sdk:
        assert sdk.signing_key.get().current == other
        verify(deliver(sdk), url, other, NEXT_KEY)


def test_a_restart_redelivers_what_was_in_flight_with_its_id_and_retried_count(
    qstash_valkey: str, destination: Destination
) -> None:
    gate = threading.Event()
    url = destination.script("/crash", Answer(500), Answer(gate=gate))
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        message_id = publish(sdk, url, body="kept", retry_delay=PROMPT_RETRY)
        later_id = publish(sdk, destination.url + "/later", delay=1)
        wait_until(lambda: len(destination.at("/crash")) == 2)
    wait_until(lambda: destination.disconnects == 1)
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        wait_until(lambda: "DELIVERED" in states_of(sdk, message_id))
        wait_until(lambda: "DELIVERED" in states_of(sdk, later_id))
        assert states_of(sdk, message_id).count("DELIVERED") == 1
    crashed = destination.at("/crash")
    assert [found.headers["upstash-retried"] for found in crashed] == ["0", "1", "1"]
    assert {found.headers["upstash-message-id"] for found in crashed} == {message_id}
    assert crashed[-1].body == b"kept"


ENDS = ("DELIVERED", "CANCELED", "FAILED")
CRASHING_SERVER = """
import sys, uvicorn
from tests.contract.qstash.destination import make_app
uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="error")
"""


def test_a_killed_queue_loses_neither_the_message_in_flight_nor_the_waiting_one(
    qstash_valkey: str, destination: Destination
) -> None:
    port = free_port()
    url = destination.script("/killed", Answer(500), Answer(gate=threading.Event()))
    command = [sys.executable, "-c", CRASHING_SERVER, qstash_valkey, str(port)]
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: is_listening(port), timeout_s=20)
            with sdk_for(f"http://127.0.0.1:{port}") as sdk:
                held = publish(sdk, url, retry_delay=PROMPT_RETRY)
                waiting = publish(sdk, destination.url + "/waiting", delay="1s")
            wait_until(lambda: len(destination.at("/killed")) == 2)
        finally:
            process.kill()
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        wait_until(lambda: "DELIVERED" in states_of(sdk, held))
        wait_until(lambda: "DELIVERED" in states_of(sdk, waiting))
    retried = [found.headers["upstash-retried"] for found in destination.at("/killed")]
    assert retried == ["0", "1", "1"]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_rewrites_move_messages_to_the_new_port_and_sign_the_new_url(
    qstash_valkey: str, destination: Destination
) -> None:
    old = f"http://127.0.0.1:{free_port()}"
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        message_id = publish(sdk, f"{old}/moved?a=1", delay=1, body="m")
    app = make_app(qstash_valkey, rewrites={old: destination.url})
    with serve(app) as base_url, sdk_for(base_url) as sdk:
        delivery = wait_until(lambda: destination.at("/moved"))[0]
        verify(delivery, destination.url + "/moved?a=1")
        assert sdk.message.get(message_id).url == f"{old}/moved?a=1"


def test_no_more_than_max_in_flight_deliveries_run_at_one_time(
    qstash_valkey: str, destination: Destination
) -> None:
    gates = [threading.Event() for _ in range(6)]
    url = destination.script("/busy", *(Answer(gate=gate) for gate in gates))
    with serve(make_app(qstash_valkey, max_in_flight=2)) as base_url, sdk_for(base_url) as sdk:
        ids = [publish(sdk, url) for _ in gates]
        for done, gate in enumerate(gates):
            arrived = min(done + 2, len(gates))
            wait_until(lambda at_least=arrived: len(destination.deliveries) >= at_least)  # type: ignore[misc]
            assert len(destination.deliveries) == arrived
            gate.set()
        for message_id in ids:
            wait_until(lambda of=message_id: "DELIVERED" in states_of(sdk, of))  # type: ignore[misc]


def test_the_queue_counts_what_is_not_finished_and_sleeps_when_idle(
    qstash_server: tuple[Starlette, str],
    sdk: QStash,
    destination: Destination,
    qstash_flush: redis.Redis,
) -> None:
    gate = threading.Event()
    publish(sdk, destination.script("/held", Answer(gate=gate)))
    publish(sdk, destination.url + "/later", delay="1h")
    wait_until(lambda: destination.at("/held"))
    assert qstash_flush.zcard("{qstash}:pending") == 2
    gate.set()
    wait_until(lambda: qstash_flush.zcard("{qstash}:pending") == 1)
    queue = qstash_server[0].state.queue
    before = _commands(qstash_flush)
    assert queue._idle_s() > 3000
    time.sleep(0.2)  # the length of the observation, not a wait for something
    assert _commands(qstash_flush) - before <= 2


def _commands(client: redis.Redis) -> int:
    info: Any = client.info("stats")
    return int(info["total_commands_processed"])


def test_a_failure_of_the_storage_answers_json_500_and_loses_nothing(
    http: httpx.Client, sdk: QStash, destination: Destination, qstash_flush: redis.Redis
) -> None:
    refuse: Callable[..., Any] = qstash_flush.config_set
    refuse("maxmemory", "1")
    try:
        answer = http.post(f"/v2/publish/{destination.url}/full")
    finally:
        refuse("maxmemory", "0")
    assert answer.status_code == 500
    assert "storage" in answer.json()["error"]
    publish(sdk, destination.url + "/works-again")
    wait_until(lambda: destination.at("/works-again"))


def test_lost_connections_and_forgotten_scripts_cost_nothing(
    sdk: QStash, destination: Destination, qstash_flush: redis.Redis
) -> None:
    publish(sdk, destination.url + "/before")
    wait_until(lambda: destination.at("/before"))
    kill: Callable[..., Any] = qstash_flush.client_kill_filter
    assert kill(_type="normal", skipme=True) >= 1
    lost = publish(sdk, destination.url + "/lost")
    qstash_flush.script_flush()
    forgotten = publish(sdk, destination.url + "/forgotten")
    for message_id in (lost, forgotten):
        wait_until(lambda of=message_id: "DELIVERED" in states_of(sdk, of))  # type: ignore[misc]
        assert states_of(sdk, message_id) == ["CREATED", "ACTIVE", "DELIVERED"]
    assert len(destination.deliveries) == 3


@pytest.mark.thorough
def test_a_message_that_is_cancelled_while_it_starts_is_either_delivered_or_cancelled(
    sdk: QStash, http: httpx.Client, destination: Destination, qstash_flush: redis.Redis
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    target = f"{http.base_url}/v2/publish/{destination.url}/raced"

    def send(_: int) -> str:
        answer = httpx.post(target, headers=headers, trust_env=False)
        return str(answer.json()["messageId"])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, number) for number in range(60)]
        while not all(sent.done() for sent in sending):
            assert http.delete("/v2/messages").status_code == 200
    wait_until(lambda: qstash_flush.zcard("{qstash}:pending") == 0)
    delivered = {found.headers["upstash-message-id"] for found in destination.deliveries}
    for sent in sending:
        ends = [state for state in states_of(sdk, sent.result()) if state in ENDS]
        assert len(ends) == 1
        assert ends == ["CANCELED"] or sent.result() in delivered


def test_an_unexpected_failure_answers_json_500(
    http: httpx.Client, destination: Destination, qstash_flush: redis.Redis
) -> None:
    qstash_flush.hset("{qstash}:message:msg_broken", "record", "{}")
    answer = http.get("/v2/messages/msg_broken")
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error: KeyError"}
    assert not destination.deliveries


def test_a_broken_record_stays_pending_and_stops_nobody_else(
    qstash_valkey: str, destination: Destination, qstash_flush: redis.Redis
) -> None:
    qstash_flush.hset("{qstash}:message:msg_broken", mapping={"record": "{}", "retried": "0"})
    qstash_flush.zadd("{qstash}:pending", {"msg_broken": 1})
    with serve(make_app(qstash_valkey)) as base_url, sdk_for(base_url) as sdk:
        publish(sdk, destination.url + "/other")
        wait_until(lambda: destination.at("/other"))
    assert qstash_flush.zscore("{qstash}:pending", "msg_broken") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"current_signing_key": "short"},
        {"token": ""},
        {"time_scale": 0},
        {"max_in_flight": 0},
        {"dedup_window_s": 0},
    ],
)
def test_an_app_is_not_made_with_settings_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|signing key"):
        make_app("unix:///nowhere", **options)


def test_the_dedup_window_ends(qstash_valkey: str, destination: Destination) -> None:
    app = make_app(qstash_valkey, dedup_window_s=0.05)
    with serve(app) as base_url, sdk_for(base_url) as sdk:
        options = {"url": destination.url + "/w", "deduplication_id": "brief"}
        first = publish(sdk, **options)
        wait_until(lambda: publish(sdk, **options) != first)
