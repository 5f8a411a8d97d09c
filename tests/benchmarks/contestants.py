"""What people would write instead of the kit, each as a process of its own.

`python -m tests.benchmarks.contestants NAME` says `ready`, then reads a line of JSON a task, with
`id` and `model`, and streams the model with the openai SDK to whoever listens. A line with the
task's id says that a reader who joins from now on misses nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

from openai import AsyncOpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Publish = Callable[[str, str], Awaitable[None]]
    RunTask = Callable[[str, str], Awaitable[None]]

END = "end"
TASKIQ_QUEUE = "bench:taskiq-stream"
TASKIQ_NAME = "bench_stream"


def _open_model() -> AsyncOpenAI:
    return AsyncOpenAI(api_key="x", base_url=os.environ["OPENAI_BASE_URL"], max_retries=0)


async def read_model(client: AsyncOpenAI, prompt: str, model: str) -> AsyncIterator[str]:
    """Yield the tokens of an answer."""
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            yield text


def publish_naively() -> Publish:
    """Three REST calls a token: store, announce, renew."""
    from upstash_redis.asyncio import Redis

    redis = Redis(
        os.environ["UPSTASH_REDIS_REST_URL"],
        os.environ["UPSTASH_REDIS_REST_TOKEN"],
        allow_telemetry=False,
    )

    async def publish(task_id: str, text: str) -> None:
        await redis.execute(["RPUSH", f"bench:{task_id}", text])
        await redis.execute(["PUBLISH", task_id, text])
        await redis.execute(["EXPIRE", f"bench:{task_id}", 600])

    return publish


def publish_by_redis_py() -> Publish:
    """One pipelined XADD and PUBLISH a token, on Redis' own protocol."""
    from redis.asyncio import Redis

    redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])

    async def publish(task_id: str, text: str) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.xadd(f"bench:{task_id}", {"d": text})
        pipeline.publish(task_id, text)
        await pipeline.execute()

    return publish


def publish_by_pubsub() -> Publish:
    """One PUBLISH a token; nothing is stored."""
    from redis.asyncio import Redis

    redis = Redis.from_url(os.environ["BENCH_REDIS_URL"])

    async def publish(task_id: str, text: str) -> None:
        await redis.publish(task_id, text)

    return publish


def _run_with(publish: Publish) -> RunTask:
    client = _open_model()

    async def run(task_id: str, model: str) -> None:
        async for text in read_model(client, task_id, model):
            await publish(task_id, text)
        await publish(task_id, END)

    return run


async def open_naive() -> RunTask:
    """Three REST calls a token."""
    return _run_with(publish_naively())


async def open_redis_py() -> RunTask:
    """One round trip a token."""
    return _run_with(publish_by_redis_py())


async def open_resumable() -> RunTask:
    """`resumable-stream` of PyPI: it answers a reader's request, then publishes to him."""
    resumable = importlib.import_module("resumable_stream")
    url, client = os.environ["BENCH_REDIS_URL"], _open_model()
    publisher, subscriber = resumable.RedisPublisher(url), resumable.RedisSubscriber(url)
    await publisher.connect()
    await subscriber.connect()
    context = resumable.create_resumable_stream_context(publisher=publisher, subscriber=subscriber)

    async def run(task_id: str, model: str) -> None:
        stream = await context.create_new_resumable_stream(
            task_id, lambda: read_model(client, task_id, model)
        )
        _say(task_id)
        async for _ in stream:
            pass

    return run


async def open_taskiq() -> RunTask:
    """A taskiq worker whose task publishes; its tasks come by the broker, not by a line."""
    taskiq_redis = importlib.import_module("taskiq_redis")
    taskiq_api = importlib.import_module("taskiq.api")
    url = os.environ["BENCH_REDIS_URL"]
    # Without a limit: the broker waits in BRPOP, and redis-py gives up after 5 s of its own accord.
    broker = taskiq_redis.ListQueueBroker(url=url, queue_name=TASKIQ_QUEUE, socket_timeout=None)
    run = _run_with(publish_by_pubsub())

    @broker.task(task_name=TASKIQ_NAME)  # type: ignore[untyped-decorator]
    async def stream(task_id: str, model: str) -> None:
        await run(task_id, model)

    broker.is_worker_process = True
    await broker.startup()
    work = taskiq_api.run_receiver_task(broker, max_async_tasks=200)
    _keep.append(asyncio.ensure_future(work))
    return run


_keep: list[asyncio.Future[None]] = []  # asyncio itself holds its tasks weakly

CONTESTANTS: dict[str, Callable[[], Awaitable[RunTask]]] = {
    "naive": open_naive,
    "redis-py": open_redis_py,
    "resumable": open_resumable,
    "taskiq": open_taskiq,
}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(name: str) -> None:
    """Run tasks until standard input closes."""
    run = await CONTESTANTS[name]()
    _say("ready")
    running: set[asyncio.Future[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        job = asyncio.ensure_future(run(task["id"], task["model"]))
        running.add(job)
        job.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
