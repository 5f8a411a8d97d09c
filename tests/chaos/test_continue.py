"""Attempts that continue, cut, killed and handed over: one exact text, nothing paid twice."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

import longtask_kit as lt
from longtask_kit.local.model.prose import split_tokens, write_reply
from tests.chaos.post import Post
from tests.chaos.recording_model import Call, text_of
from tests.chaos.rig import Rig, new_prompt, open_rig
from tests.serving import serve
from tests.thorough import first_of

pytestmark = pytest.mark.timeout(3600)
Scale = Callable[..., int]
Figures = Callable[[str, str], None]


@pytest.fixture(scope="module")
def post() -> Iterator[tuple[Post, str]]:
    app = Post()
    with serve(app) as url:
        yield app, url


@pytest.fixture(scope="module")
def rig(post: tuple[Post, str]) -> Iterator[Rig]:
    """Webhook processes whose host ends a request after a second."""
    app, url = post
    with open_rig(
        QSTASH_URL=url,
        LONGTASK_MAX_DURATION_S="1",
        LONGTASK_LIMIT_MINUTE_S="0.8",
        LONGTASK_LIMIT_HOLD_S="0",
    ) as opened:
        app.target = opened.stack.environment["QSTASH_URL"]
        yield opened


@dataclass
class Reader:
    """Somebody who watches a task from its beginning on, without a look away."""

    task: lt.Task
    deltas: list[lt.TextDelta] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(lt.TaskCancelledError):
            self.deltas += self.task

    def check(self, text: str) -> None:
        """Check that each delta came once, and none was taken back."""
        self._thread.join(60)
        assert "".join(self.deltas) == text
        assert not any(delta.is_restart for delta in self.deltas)


def submit(rig: Rig, prompt: str, *, seconds: float) -> tuple[lt.Task, list[Reader]]:
    """Submit a task whose answer takes so long; return it with two readers."""
    rate = max(1, round(len(split_tokens(write_reply(prompt))) / seconds))
    task = rig.kit.submit(prompt, model=f"demo-continue@{rate}", retries=20)
    return task, [Reader(task), Reader(rig.kit.attach(task.id))]


def check(rig: Rig, task: lt.Task, prompt: str, readers: list[Reader]) -> list[Call]:
    """Check that a finished task has the undisturbed text, each token once; return its calls."""
    whole = write_reply(prompt)
    assert task.result(120) == whole
    for reader in readers:
        reader.check(whole)
    assert sum(attempt.tokens for attempt in task.attempts) == len(split_tokens(whole))
    types = [e.type for e in task.events()]
    assert "start" not in types[types.index("content") :], "what stood was never thrown away"
    assert task.usage is not None
    assert task.usage.completion_tokens == len(split_tokens(whole))
    again = rig.kit.attach(task.id)
    assert again.result(30) == whole
    assert [*again.events()] == [*task.events()], "compacted, the log tells the same"
    return rig.model.calls_of(task.id)


@pytest.mark.gate
def test_an_answer_of_thirty_times_the_limit_comes_in_thirty_parts(
    rig: Rig, scale: Scale, figures: Figures
) -> None:
    seconds = scale(short=16, full=30)
    prompt = new_prompt()
    task, readers = submit(rig, prompt, seconds=seconds)
    calls = check(rig, task, prompt, readers)
    *handed, last = task.attempts
    assert {(a.ended_as, a.code) for a in handed} == {("handed_on", "time_limit")}
    assert last.ended_as == "completed"
    assert len(calls) == len(task.attempts), "one call of the model for each part"
    least = seconds - 1
    assert len(handed) >= least
    extra = sum(call.tokens for call in calls) - task.snapshot().tokens
    figures(
        "8 time limit of 1 s",
        f"an answer of {seconds} s: {len(handed)} hand-overs, one text, {len(readers)} readers saw "
        f"each delta once, no retry, {extra} tokens generated beyond what was kept",
    )


@pytest.mark.parametrize("moment", first_of(["after", "before", "twice"], rest_in_gate=True))
def test_a_kill_in_a_hand_over_and_a_message_delivered_twice_double_nothing(
    rig: Rig, post: tuple[Post, str], scale: Scale, figures: Figures, moment: str
) -> None:
    app, _ = post
    rounds, handed, deaths = scale(short=4, full=20), app.handed, rig.hooks.deaths
    for _ in range(rounds):
        app.before = rig.hooks.kill if moment == "before" else None
        app.after = rig.hooks.kill if moment == "after" else None
        app.twice = moment == "twice"
        prompt = new_prompt()
        task, readers = submit(rig, prompt, seconds=2)
        check(rig, task, prompt, readers)
    app.before, app.after, app.twice = None, None, False
    handed, deaths = app.handed - handed, rig.hooks.deaths - deaths
    assert handed >= rounds
    assert deaths == (0 if moment == "twice" else rounds)
    what = {"twice": "its message posted twice"}.get(moment, f"kill -9 {moment} its message is out")
    figures(
        f"8 hand-over, {what}",
        f"{rounds} tasks, {handed} hand-overs, {deaths} kills: 0 tokens lost or doubled",
    )


@pytest.mark.gate
@pytest.mark.parametrize("moment", ["published", "noted", "answered"])
def test_a_crash_while_a_wait_is_handed_on_runs_the_task_once(
    rig: Rig, post: tuple[Post, str], scale: Scale, figures: Figures, moment: str
) -> None:
    """Before its message is out, before that is noted, before the delivery is answered."""
    app, _ = post
    rounds, handed = scale(short=1, full=20), app.handed

    def lose_the_answer() -> None:
        rig.entrance.swallow_answers = 1

    def ask() -> lt.Task:
        [task] = rig.kit.map([new_prompt()], model="demo-fast", rpm=1, retries=20).tasks
        assert task is not None
        return task

    for _ in range(rounds):
        ask().result(30)  # that was the turn of this minute, which is a short one here
        app.before = rig.hooks.kill if moment == "published" else None
        app.after = {"noted": rig.hooks.kill, "answered": lose_the_answer}.get(moment)
        task = ask()
        assert task.result(60) == text_of(str(task.prompt), 1), "a wait costs no attempt"
        assert (app.before, app.after, rig.entrance.swallow_answers) == (None, None, 0)
        [call] = rig.model.calls_of(task.id)
        assert call.is_whole
    figures(
        f"8 hand-on for a limit, crash before it is {moment}",
        f"{rounds} tasks, {app.handed - handed} hand-ons: each ran once",
    )


def test_a_kill_at_any_token_costs_no_token_and_no_text(
    rig: Rig, scale: Scale, figures: Figures
) -> None:
    rng = random.Random(8)
    least, before = scale(short=8, full=200), rig.hooks.deaths
    targets: dict[str, int] = {}

    async def strike(call: Call) -> None:
        at = targets.get(call.prompt)
        if at is not None and call.tokens > at:
            del targets[call.prompt]
            rig.hooks.kill()

    rig.model.after_write = strike
    done, generated, kept, paid = 0, 0, 0, 0
    while rig.hooks.deaths - before < least:
        prompts = [new_prompt() for _ in range(4)]
        targets[prompts[0]] = rng.randrange(60)
        batch = [(prompt, *submit(rig, prompt, seconds=0.4)) for prompt in prompts]
        for prompt, task, readers in batch:
            calls = check(rig, task, prompt, readers)
            generated += sum(call.tokens for call in calls)
            kept += task.snapshot().tokens
            paid += len(calls)
        done += 1
        targets.clear()
    kills, tasks = rig.hooks.deaths - before, 4 * done
    extra = 100 * (generated - kept) / kept
    figures(
        "8 demo-continue, kill -9 at a random token",
        f"{kills} kills, {tasks} tasks, four at once, {paid} calls: {tasks} texts equal to "
        f"the undisturbed ones, {extra:.1f} % more tokens generated than kept",
    )


def test_a_process_that_is_told_to_end_hands_on_at_once(
    rig: Rig, scale: Scale, figures: Figures
) -> None:
    rounds = scale(short=4, full=20)
    handed = 0
    for _ in range(rounds):
        begun = threading.Event()

        async def note(call: Call, begun: threading.Event = begun) -> None:
            if call.tokens > 5:
                begun.set()

        rig.model.after_write = note
        prompt = new_prompt()
        task, readers = submit(rig, prompt, seconds=2)
        assert begun.wait(30)
        rig.hooks.terminate()
        check(rig, task, prompt, readers)
        handed += sum(a.code == "shutdown" for a in task.attempts)
        assert "retrying" not in {a.ended_as for a in task.attempts}
    assert handed, task.attempts
    figures(
        "8 SIGTERM", f"{rounds} drains, {handed} hand-overs, 0 retries, 0 tokens lost or doubled"
    )


@pytest.mark.gate
def test_a_cancel_between_two_parts_ends_the_task_once(rig: Rig, post: tuple[Post, str]) -> None:
    app, _ = post
    for _ in range(3):
        prompt = new_prompt()
        task, readers = submit(rig, prompt, seconds=3)
        is_out = threading.Event()
        app.before = is_out.set
        assert is_out.wait(30)
        task.cancel()
        with pytest.raises(lt.TaskCancelledError):
            task.result(30)
        assert write_reply(prompt).startswith(task.text)
        for reader in readers:
            reader.check(task.text)
        assert [e.type for e in task.events()].count("cancelled") == 1
