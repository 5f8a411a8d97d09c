"""What people would write instead of the kit, each as a process of its own.

`python -m tests.benchmarks.contestants NAME MODEL_URL` reads a line of JSON a task, with `id` and
`model`, streams the model with the openai SDK and publishes every token on the channel `id`, then
`end`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

from openai import AsyncOpenAI

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Publish = Callable[[str, str], Awaitable[None]]


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

    redis = Redis(unix_socket_path=os.environ["BENCH_SOCKET"])

    async def publish(task_id: str, text: str) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.xadd(f"bench:{task_id}", {"d": text})
        pipeline.publish(task_id, text)
        await pipeline.execute()

    return publish


CONTESTANTS: dict[str, Callable[[], Publish]] = {
    "naive": publish_naively,
    "redis-py": publish_by_redis_py,
}


async def run_task(client: AsyncOpenAI, publish: Publish, task_id: str, model: str) -> None:
    """Stream one answer, token by token."""
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "x"}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            await publish(task_id, text)
    await publish(task_id, "end")


async def main(name: str, model_url: str) -> None:
    """Run tasks until standard input closes."""
    client = AsyncOpenAI(api_key="x", base_url=f"{model_url}/v1", max_retries=0)
    publish = CONTESTANTS[name]()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    running: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        running.add(asyncio.create_task(run_task(client, publish, task["id"], task["model"])))
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
