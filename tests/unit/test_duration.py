"""An attempt near its host's time limit: is it handed on, or is this its end?"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from longtask_kit.errors import RetryableError
from longtask_kit.log.store import Store
from longtask_kit.server.duration import end_in_time
from longtask_kit.server.handlers import TaskContext
from longtask_kit.server.openai_continue import UNKNOWN
from longtask_kit.server.stop import Stop
from longtask_kit.server.writer import LogWriter
from longtask_kit.settings import Settings
from longtask_kit.submit.spec import TaskSpec

SPEC = TaskSpec(prompt="x")


class Source:
    """A model service that does not say whether it continues; somebody asks."""

    def __init__(self, answer: Any) -> None:  # noqa: ANN401 - or what is raised, or None: silence
        self.answer = answer
        self.asked = 0

    async def __call__(self, context: TaskContext) -> AsyncIterator[str]:
        yield context.text

    async def can_continue(self, spec: TaskSpec) -> bool:
        assert spec is SPEC
        self.asked += 1
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)


@pytest.mark.parametrize(
    ("answer", "said", "stop", "asked"),
    [
        (True, ("content",), Stop.LIMIT, 1),
        (False, ("content",), Stop.TOO_LONG, 1),
        (RetryableError("away", code="model_connection"), ("content",), Stop.TOO_LONG, 1),
        (None, ("content",), Stop.TOO_LONG, 1),
        (True, (), Stop.TOO_LONG, 0),  # or an attempt that adds nothing would follow another
        (True, ("reasoning", "content"), Stop.TOO_LONG, 0),  # behind which no service goes on
    ],
)
def test_a_service_that_does_not_say_whether_it_continues_is_asked_in_time(
    answer: object, said: tuple[Any, ...], stop: Stop, asked: int
) -> None:
    async def run() -> None:
        settings = Settings(
            upstash_redis_rest_url="http://127.0.0.1:9", upstash_redis_rest_token="unused"
        )
        store, source = Store.open(settings), Source(answer)
        try:
            log_writer = LogWriter(store, min_flush_interval_s=0, heartbeat_s=1)
            writer = log_writer.open_attempt("task_12345678", 1)
            writer.keep(UNKNOWN, None, unsaid={})
            for kind in said:
                await writer.write("text", kind)
            await end_in_time(writer, source, SPEC, limit_s=0.05)
            assert (writer.stopped.result(), source.asked) == (stop, asked)
        finally:
            await store.aclose()

    asyncio.run(run())
