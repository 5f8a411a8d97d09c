"""Webhook processes that die, or stop and wake again, at a random token."""

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.log.events import START, TaskEvent
from longtask_kit.log.keys import channel_name, log_key, task_key
from longtask_kit.log.store import Store
from tests.chaos.recording_model import Call, tokens_of
from tests.chaos.rig import Rig, Watched, new_prompt, open_rig
from tests.wait import wait_until

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with open_rig() as opened:
        yield opened


def attach_over(kit: lt.Kit, task_id: str) -> lt.Task:
    """Attach over the HTTP API; the process that is asked may be the one that is killed."""
    attached: list[lt.Task] = []

    def attach() -> bool:
        with contextlib.suppress(lt.LongTaskError):
            attached.append(kit.attach(task_id))
        return bool(attached)

    wait_until(attach)
    return attached[0]


class Killer:
    """Kills the serving process as soon as the model has sent a given token of a given attempt."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._targets: dict[tuple[str, int], int] = {}
        self.kills = 0

    def aim(self, prompt: str, attempt: int, rng: random.Random) -> None:
        """Choose the token, from the first to the last."""
        self._targets[prompt, attempt] = rng.randrange(len(tokens_of(prompt, attempt)))

    async def strike(self, call: Call) -> None:
        """Look at a call after a write."""
        at = self._targets.get((call.prompt, call.attempt))
        if at is not None and call.tokens > at:
            del self._targets[call.prompt, call.attempt]
            self._rig.hooks.kill()
            self.kills += 1


def test_a_webhook_process_killed_at_any_token_costs_no_token(
    rig: Rig, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    rng = random.Random(1)
    killer = Killer(rig)
    rig.model.after_write = killer.strike
    before = len(rig.model.calls)
    done: list[Watched] = []
    logs: list[list[TaskEvent]] = []
    with lt.connect(rig.entrance.url, quiet=True) as over_http:
        while killer.kills < scale(short=15, full=200):
            prompts = [new_prompt() for _ in range(5)]
            killer.aim(prompts[0], 1, rng)
            if rng.random() < 0.3:
                killer.aim(prompts[0], 2, rng)
            batch = [rig.submit(prompt) for prompt in prompts]
            for watched in batch[:2]:  # their connection breaks with the process as well
                watched.watch(attach_over(over_http, watched.task.id))
            logs += [rig.check(watched) for watched in batch]
            done += batch
    attempts = sum(events[-1].cursor.attempt for events in logs)
    calls = len(rig.model.calls) - before
    cut = sum(not call.is_whole for call in rig.model.calls[before:])
    assert cut >= killer.kills, "each kill cut at least the stream it aimed at"
    figures(
        "1 webhook killed at a random token",
        f"{killer.kills} kills -9, {len(done)} tasks, {attempts} attempts, {calls} model calls "
        f"({cut} cut), {sum(w.looks for w in done):,} reader states: 0 mixed, 0 tokens lost or "
        "doubled",
    )


class Listener:
    """Hears everything that is published about a task, over the REST service's SSE."""

    def __init__(self, rig: Rig, task_id: str) -> None:
        self._environment = rig.stack.environment
        self._url = f"{self._environment['UPSTASH_REDIS_REST_URL']}/subscribe/"
        self._url += channel_name(task_id)
        self.heard: list[str] = []
        self.is_listening = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.is_listening.wait(10)

    def _listen(self) -> None:
        token = self._environment["UPSTASH_REDIS_REST_TOKEN"]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.stream("POST", self._url, headers=headers, timeout=None) as answer:  # noqa: S113
            for line in answer.iter_lines():
                kind, _, rest = line.removeprefix("data: ").partition(",")
                if kind == "subscribe":
                    self.is_listening.set()
                elif kind == "message":
                    self.heard.append(rest.partition(",")[2])
                    if self.heard[-1] == "enough":
                        return


class Zombies:
    """Stops the serving process in mid-stream, and keeps its model talking to it."""

    def __init__(self, rig: Rig, prompts: list[str], at: int, *, hold_second: bool) -> None:
        self._rig = rig
        self._prompts = prompts
        self._at = at
        self._hold_second = hold_second
        self.frozen = threading.Event()
        self.woken = threading.Event()
        self.gone = threading.Event()

    async def interfere(self, call: Call) -> None:
        """Look at a call after a write; the first attempt is slow, so that it lasts."""
        if call.prompt not in self._prompts:
            return
        if call.attempt == 1:
            await asyncio.sleep(0.02)
            if call.prompt == self._prompts[0] and call.tokens > self._at:
                self.frozen.set()
            if self.frozen.is_set():
                # This write is in the stopped process's socket: it is what it wakes up to.
                await asyncio.to_thread(self.woken.wait, 60)
        elif self._hold_second and call.tokens > self._at:
            await asyncio.to_thread(self.gone.wait, 60)


@pytest.mark.parametrize(
    "wakes",
    [
        "after the end",
        pytest.param("while the next attempt streams", marks=pytest.mark.thorough),
    ],
)
def test_a_stopped_process_that_wakes_past_its_lease_writes_and_publishes_nothing(
    rig: Rig, wakes: str, scale: Callable[..., int], figures: Callable[[str, str], None]
) -> None:
    rng = random.Random(3)
    environment = rig.stack.environment
    redis = Redis(environment["UPSTASH_REDIS_REST_URL"], environment["UPSTASH_REDIS_REST_TOKEN"])
    rounds = scale(short=3, full=30)
    zombies = 0
    with redis:
        for _ in range(rounds):
            zombies += raise_zombies(rig, rng, redis, is_late=wakes == "after the end")
    figures(
        f"3 zombie wakes {wakes}",
        f"{rounds} SIGSTOPs, {zombies} attempts woken: 0 entries written, 0 messages published, "
        f"{zombies} model streams ended",
    )


def raise_zombies(rig: Rig, rng: random.Random, redis: Redis, *, is_late: bool) -> int:
    """Run three tasks into a stopped process, and wake it; returns how many were in it."""
    prompts = [f"At length: {new_prompt()}" for _ in range(3)]
    zombies = Zombies(rig, prompts, rng.randrange(200), hold_second=not is_late)
    rig.model.after_write = zombies.interfere
    batch = [rig.submit(prompt, model="demo-long", max_tokens=2000) for prompt in prompts]
    ids = [watched.task.id for watched in batch]
    assert zombies.frozen.wait(30)
    process = rig.hooks.freeze()
    rig.entrance.cut_all()  # the queue sees its deliveries break, and makes them again
    try:
        if is_late:
            for watched in batch:
                watched.task.result(60)
        else:
            wait_until(lambda: all(_streams(w, attempt=2) for w in batch), timeout_s=60)
        stopped = [id_ for id_ in ids if rig.model.calls_of(id_, 1)]
        listeners = {task_id: Listener(rig, task_id) for task_id in stopped}
        before = {task_id: _read(rig, redis, task_id, is_late=is_late) for task_id in ids}
        process.send_signal(18)  # SIGCONT
        zombies.woken.set()
        for task_id in stopped:
            [call] = rig.model.calls_of(task_id, 1)
            assert call.ended.wait(30)
            assert not call.is_whole, "it hung up on the model"
            notice = f"{task_id}: attempt 1 stopped: fenced"
            wait_until(lambda notice=notice: notice in rig.hooks.log.read_text())  # type: ignore[misc]
        assert {i: _read(rig, redis, i, is_late=is_late) for i in ids} == before
        for task_id, listener in listeners.items():
            redis.publish(channel_name(task_id), "enough")
            wait_until(lambda listener=listener: "enough" in listener.heard)  # type: ignore[misc]
            attempts = {json.loads(m)[0].partition("-")[0] for m in listener.heard[:-1]}
            assert attempts <= (set() if is_late else {"2"}), listener.heard
        zombies.gone.set()
        for watched in batch:
            assert {e.cursor.attempt for e in rig.check(watched)} == {0, 1, 2}
    finally:
        zombies.woken.set()
        zombies.gone.set()
        process.kill()
    return len(stopped)


def _streams(watched: Watched, *, attempt: int) -> bool:
    return watched.task._feed.read(lambda state: state.attempt == attempt and bool(state.text))


def _read(rig: Rig, redis: Redis, task_id: str, *, is_late: bool) -> object:
    """Return all that is stored; while the next attempt streams, what the first one wrote."""
    if is_late:  # as events: the log may be compacted between two looks
        return asyncio.run(_read_events(rig, task_id)), redis.hgetall(task_key(task_id))
    return redis.xrange(log_key(task_id), "1-0", "1-99999")


async def _read_events(rig: Rig, task_id: str) -> list[TaskEvent]:
    store = Store.open(rig.settings)
    try:
        return await store.read_log(task_id, after=START)
    finally:
        await store.aclose()
