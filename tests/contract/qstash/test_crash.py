"""kill -9 at any moment: what was accepted is delivered, and its count of retries is right.

Short by default; LONGTASK_CRASH_MESSAGES=300 LONGTASK_CRASH_KILLS=10 is the long form.
"""

import itertools
import os
import queue
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from longtask_kit import LocalStack
from tests.contract.qstash.destination import Answer, Delivery, Destination, wait_until

MESSAGES = int(os.environ.get("LONGTASK_CRASH_MESSAGES", "60"))
KILLS = int(os.environ.get("LONGTASK_CRASH_KILLS", "3"))
SEED = int(os.environ.get("LONGTASK_CRASH_SEED", "7"))
PUBLISHERS = 4
# 0.1 s, 0.2 s, … at the stack's time scale: some messages always wait when the stack dies.
HEADERS = {"Upstash-Retries": "9", "Upstash-Retry-Delay": "100000 * (1 + retried)"}


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's own folder, which is long: sockets are near it.
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Publishers:
    """Threads that publish each number until it is accepted, wherever the stack is by now."""

    def __init__(self, target: str, total: int) -> None:
        self.accepted: dict[int, str] = {}
        self.environment: dict[str, str] = {}
        self._target = target
        self._numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(total):
            self._numbers.put(number)
        self._is_up = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(PUBLISHERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def use(self, environment: dict[str, str] | None) -> None:
        self._is_up.clear()
        if environment is not None:
            self.environment = environment
            self._is_up.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while True:
                try:
                    number = self._numbers.get_nowait()
                except queue.Empty:
                    return
                self._is_up.wait()
                if not self._publish(client, number):
                    self._numbers.put(number)
                time.sleep(0.02)  # spreads the publishes over the kills

    def _publish(self, client: httpx.Client, number: int) -> bool:
        url = f"{self.environment['QSTASH_URL']}/v2/publish/{self._target}/m/{number}"
        headers = HEADERS | {"Authorization": f"Bearer {self.environment['QSTASH_TOKEN']}"}
        try:
            answer = client.post(url, content=str(number), headers=headers)
        except httpx.HTTPError:
            return False  # perhaps stored, perhaps not: nobody was promised anything
        if answer.status_code != 201:
            return False
        self.accepted[number] = answer.json()["messageId"]
        return True


@pytest.mark.thorough
def test_every_accepted_message_is_delivered_with_its_id_and_count_whatever_is_killed(
    destination: Destination, data_dir: Path
) -> None:
    chance = random.Random(SEED)
    failures = {number: chance.choice([0, 0, 1, 2, 3]) for number in range(MESSAGES)}
    for number, count in failures.items():
        destination.script(f"/m/{number}", *(Answer(500) for _ in range(count)))
    publishers = Publishers(destination.url, MESSAGES)
    publishers.start()
    for _ in range(KILLS):
        stack = LocalStack.start(data=data_dir, time_scale=0.001)
        publishers.use(stack.environment)
        time.sleep(chance.uniform(0.05, 0.6))  # the moment of the crash
        os.kill(stack.pid, signal.SIGKILL)
        publishers.use(None)
        stack.stop()
    with LocalStack.start(data=data_dir, time_scale=0.001) as stack:
        publishers.use(stack.environment)
        publishers.join()
        assert len(publishers.accepted) == MESSAGES
        wait_until(lambda: _count_pending(stack.environment) == 0, timeout_s=60)
    for number, message_id in publishers.accepted.items():
        _check(destination, number, message_id)


def _count_pending(environment: dict[str, str]) -> int:
    answer = httpx.post(
        environment["UPSTASH_REDIS_REST_URL"],
        json=["ZCARD", "{qstash}:pending"],
        headers={"Authorization": f"Bearer {environment['UPSTASH_REDIS_REST_TOKEN']}"},
        trust_env=False,
    )
    return int(answer.json()["result"])


def _check(destination: Destination, number: int, message_id: str) -> None:
    deliveries = destination.at(f"/m/{number}")
    own = [one for one in deliveries if _id_of(one) == message_id]
    assert own, f"message {number} was accepted and never delivered"
    assert {one.body for one in own} == {str(number).encode()}
    counts = [int(one.headers["upstash-retried"]) for one in own]
    assert counts[0] == 0
    answers = dict(zip(map(id, deliveries), destination.answered(f"/m/{number}"), strict=True))
    failed = 0
    for before, after in itertools.pairwise(own):
        failed += answers[id(before)] == 500
        # A count goes up only by an answer; one the crash lost is not counted.
        step = int(after.headers["upstash-retried"]) - int(before.headers["upstash-retried"])
        assert step in ((0, 1) if answers[id(before)] == 500 else (0,))
    assert counts[-1] <= failed
    # Only a crash makes an attempt that the plan did not have.
    assert len(own) <= failed + 1 + KILLS


def _id_of(delivery: Delivery) -> str:
    return delivery.headers["upstash-message-id"]
