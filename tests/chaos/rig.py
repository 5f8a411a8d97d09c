"""Everything a task runs through, each part a process or socket of its own that can be hit."""

import contextlib
import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import longtask_kit as lt
from longtask_kit.local.identity import make_settings
from longtask_kit.log.events import TaskEvent
from tests.chaos.faulty_redis import FaultyRedis
from tests.chaos.recording_model import RecordingModel, text_of, tokens_of
from tests.chaos.webhooks import Webhooks
from tests.local.processes import find_valkey, is_alive
from tests.proxy import Proxy, proxy_to
from tests.serving import serve
from tests.wait import wait_until

_NUMBERS = itertools.count(1)
_TOPICS = ("Explain tides", "Tell a story about rivers", "List ten uses of salt", "解释潮汐")


@dataclass
class Rig:
    """A stack whose queue delivers to webhook processes of ours, which call a model of ours.

    Attributes:
        stack: Its queue, Redis and REST are used.
        settings: What a kit needs to submit and follow.
        kit: Follows over Redis.
        hooks: The webhook processes.
        entrance: The way from the queue, and from HTTP readers, to them.
        model: What they call.
    """

    stack: lt.LocalStack
    settings: lt.Settings
    kit: lt.Kit
    hooks: Webhooks
    entrance: Proxy
    model: RecordingModel

    def submit(self, prompt: str, *, model: str = "demo", max_tokens: int = 1000) -> "Watched":
        """Submit a task and watch every state that a reader of it can see."""
        task = self.kit.submit(prompt, model=model, max_tokens=max_tokens)
        return Watched(task, prompt, max_tokens)

    def check(self, watched: "Watched") -> list[TaskEvent]:
        """Check a finished task against what the model said, and return its log."""
        events = watched.check()
        attempts = {event.cursor.attempt for event in events} - {0}
        for attempt in attempts:
            calls = self.model.calls_of(watched.task.id, attempt)
            wrote = any(e.type == "content" and e.cursor.attempt == attempt for e in events)
            assert len(calls) in ((1,) if wrote else (0, 1)), f"attempt {attempt}: {calls}"
        assert len(self.model.calls_of(watched.task.id)) <= len(attempts)
        replayed = self.kit.attach(watched.task.id)
        assert replayed.result(30) == watched.task.text
        # Of an earlier attempt, a Redis whose power was cut may have lost what was heard.
        told = [e for e in replayed.events() if e.cursor.attempt == events[-1].cursor.attempt]
        assert told == events[-len(told) :], "a log tells the same, compacted or not"
        return events


@dataclass
class Watched:
    """A task, and a reader that looks at it after every change."""

    task: lt.Task
    prompt: str
    max_tokens: int
    looks: int = 0
    wrong: list[str] = field(default_factory=list)
    readers: list[lt.Task] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.watch(self.task)

    def watch(self, task: lt.Task) -> None:
        """Have another reader of the task watched as well."""
        self.readers.append(task)
        task._feed.listen(lambda _: self._look(task))
        task._feed.follow()

    def _look(self, task: lt.Task) -> None:
        attempt, text = task._feed.read(lambda state: (state.attempt, state.text))
        whole = text_of(self.prompt, attempt, max_tokens=self.max_tokens)
        with self._lock:
            self.looks += 1
            if not whole.startswith(text):
                self.wrong.append(f"attempt {attempt} showed {text!r}, the model says {whole!r}")

    def check(self) -> list[TaskEvent]:
        """Check that the log tells one clean run after the other, the last one whole."""
        text = self.task.result(60)
        assert [reader.result(60) for reader in self.readers] == [text] * len(self.readers)
        events = list(self.task.events())
        assert not self.wrong, self.wrong[:3]
        last = events[-1].cursor.attempt
        assert text == text_of(self.prompt, last, max_tokens=self.max_tokens)
        for attempt in range(last + 1):
            own = [event for event in events if event.cursor.attempt == attempt]
            assert [e.cursor.seq for e in own] == [*range(1, len(own) + 1)], "no entry is missing"
            streamed = [event for event in own if event.type == "content"]
            said = tokens_of(self.prompt, attempt, max_tokens=self.max_tokens)
            count = sum(event.tokens for event in streamed)
            assert "".join(event.data for event in streamed) == "".join(said[:count])
            assert count == len(said) or attempt < last
        assert [e.type for e in events].count("end") == 1
        assert [e.data for e in events if e.type == "status"].count("completed") == 1
        assert self.task.usage is not None
        # What was cut is paid, too, as far as the last attempt read of it in the log.
        assert self.task.usage.completion_tokens >= count
        return events


def new_prompt() -> str:
    """Return a prompt that no other task has."""
    number = next(_NUMBERS)
    return f"{_TOPICS[number % len(_TOPICS)]} {number}"


@contextlib.contextmanager
def open_rig(
    *, redis_url: str | None = None, front: FaultyRedis | None = None, **environment: str
) -> Iterator[Rig]:
    """Start everything, and end it.

    Args:
        redis_url: A Redis of the test's own, instead of the stack's.
        front: Stands before Redis for the webhook processes, and for them alone.
        environment: More variables of the webhook processes.
    """
    # Retries come at once (only Retry-After is waited for), and are not soon used up.
    with contextlib.ExitStack() as exits:
        enter = exits.enter_context
        stack = enter(lt.LocalStack.start(time_scale=1e-6, idle_exit_s=None, redis_url=redis_url))
        settings = make_settings(stack.environment)
        key = stack.environment["OPENAI_API_KEY"]
        model = RecordingModel(key)
        model_url = enter(serve(model))
        folder = enter(tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp"))
        redis_rest_url = settings.upstash_redis_rest_url or ""
        if front is not None:
            redis_rest_url = enter(front.stand_before(redis_rest_url))
        hooks = Webhooks(Path(folder) / "webhook.log")
        exits.callback(hooks.close)
        entrance = enter(proxy_to(hooks.url))
        own = {"base_url": entrance.url, "retries": 12, "openai_base_url": f"{model_url}/v1"}
        settings = settings.model_copy(update=own)
        hooks.start(
            {
                **stack.environment,
                "UPSTASH_REDIS_REST_URL": redis_rest_url,
                "OPENAI_BASE_URL": f"{model_url}/v1",
                "LONGTASK_BASE_URL": entrance.url,
                "LONGTASK_API_KEY": "",
                "LONGTASK_LEASE_S": "1",
                **environment,
            }
        )
        kit = enter(lt.connect(settings=settings, quiet=True))
        yield Rig(stack, settings, kit, hooks, entrance, model)


def run_stack(data: Path) -> lt.LocalStack:
    """Start a stack on a folder, with the ports and tokens that it had there before."""
    return lt.LocalStack.start(data, time_scale=1e-6, idle_exit_s=None)


def kill_stack(stack: lt.LocalStack) -> None:
    """Kill a stack's process group and its Valkey (-9), and reap."""
    valkey = find_valkey(stack.pid)
    os.kill(valkey, signal.SIGKILL)
    os.killpg(stack.pid, signal.SIGKILL)
    stack.stop()  # it is ours: somebody must reap it
    wait_until(lambda: not is_alive(valkey))
