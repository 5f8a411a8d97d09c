"""One Valkey and one REST app in front of it, shared by the redis tests.

One of each a session.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from upstash_redis import Redis

from longtask_kit.local.redis_rest import create_redis_rest_app
from longtask_kit.local.valkey import ValkeyProcess
from tests.serving import serve

TOKEN = "local-token"
HEARTBEAT_S = 0.2


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    process = ValkeyProcess(data_dir=folder / "data", socket_path=folder / "v.sock")
    asyncio.run(process.start())
    yield process.url
    asyncio.run(process.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def rest_url(redis_url: str) -> Iterator[str]:
    with serve(create_redis_rest_app(redis_url, token=TOKEN, heartbeat_s=HEARTBEAT_S)) as url:
        yield url


@pytest.fixture
def sdk(rest_url: str) -> Iterator[Redis]:
    """The official client, on an empty database."""
    with Redis(url=rest_url, token=TOKEN, rest_retries=0, allow_telemetry=False) as client:
        client.flushall()
        yield client


@pytest.fixture
def http(rest_url: str) -> Iterator[httpx.Client]:
    """A plain client that carries the token."""
    with httpx.Client(base_url=rest_url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client
