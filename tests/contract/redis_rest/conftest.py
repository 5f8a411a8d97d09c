"""One Valkey and one REST app in front of it, shared by the redis tests.

One of each a session. What runs through the official SDKs runs against a hosted database as well,
if `TEST_UPSTASH_REDIS_REST_URL` and `TEST_UPSTASH_REDIS_REST_TOKEN` name one.
"""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from upstash_redis import Redis

from longtask_kit.local.redis.app import create_redis_rest_app
from longtask_kit.local.redis.valkey import ValkeyProcess
from longtask_kit.log.keys import new_task_id
from tests.contract.redis_rest.cluster import Node, run_cluster
from tests.serving import serve

TOKEN = "local-token"
READ_ONLY_TOKEN = "local-read-only-token"
HEARTBEAT_S = 0.2


Run = Callable[[str], Any]


class Service(NamedTuple):
    """Where a database answers, and with which token."""

    url: str
    token: str


def _find_hosted() -> Service | None:
    url, token = (os.environ.get(name) for name in HOSTED_NAMES)
    return Service(url, token) if url and token else None


# Not the names that the SDKs read: no test may reach a database by accident.
HOSTED_NAMES = ("TEST_UPSTASH_REDIS_REST_URL", "TEST_UPSTASH_REDIS_REST_TOKEN")
HOSTED = _find_hosted()


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
    app = create_redis_rest_app(
        redis_url, token=TOKEN, read_only_token=READ_ONLY_TOKEN, heartbeat_s=HEARTBEAT_S
    )
    with serve(app) as url:
        yield url


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[Node]]:
    with run_cluster() as nodes:
        yield nodes


@pytest.fixture
def moving_cluster() -> Iterator[list[Node]]:
    """A cluster to be moved about and shot at, with a spare node."""
    with run_cluster(spares=1) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def cluster_url(cluster: list[Node]) -> Iterator[str]:
    """The service in front of a cluster; it is told one node."""
    with serve(create_redis_rest_app(cluster[1].url, token=TOKEN)) as url:
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


@pytest.fixture(params=["local", "cluster", *(["hosted"] if HOSTED else [])])
def service(request: pytest.FixtureRequest) -> Service:
    """The local service before a server and before a cluster, and a hosted database if named."""
    if request.param == "hosted":
        assert HOSTED is not None
        return HOSTED
    name = "rest_url" if request.param == "local" else "cluster_url"
    return Service(request.getfixturevalue(name), TOKEN)


@pytest.fixture
def key(service: Service) -> Iterator[str]:
    """The beginning of all keys of one test, which are deleted after it: nothing is flushed.

    The braces put them into one slot, without which a cluster can't do all that a server can.
    """
    prefix = f"{{{new_task_id()}}}"
    yield prefix
    with Redis(url=service.url, token=service.token, allow_telemetry=False) as client:
        cursor, first = 0, True
        while cursor or first:
            first = False
            cursor, keys = client.scan(cursor, match=f"{prefix}*", count=1000)
            if keys:
                client.delete(*keys)


PACKAGES = ["@upstash/redis@^1.39", "@upstash/ratelimit@^2"]
_PRELUDE = """
import { Redis } from "@upstash/redis";
const [url, token, key] = process.argv.slice(2);
const sent = [];  // the path of every request
const plainFetch = globalThis.fetch;
globalThis.fetch = (to, options) => {
  sent.push(new URL(to).pathname);
  return plainFetch(to, options);
};
const redis = new Redis({ url, token, retry: false });
const failure = async (work) => { try { await work; } catch (error) { return error.message; } };
const until = async (isMet) => {
  for (let tries = 0; tries < 500; tries++) {
    if (await isMet()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error("never happened");
};
"""


@pytest.fixture(scope="session")
def node_folder() -> Iterator[Path]:
    """A folder in which node finds the SDK, and the rate limiters that are made of it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not here: the JavaScript SDK is not tested")
    with tempfile.TemporaryDirectory(prefix="lt-node-") as name:
        command = [npm, "install", "--prefix", name, "--no-audit", "--no-fund", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm could not install {PACKAGES}: {done.stderr.strip()[-300:]}")
        yield Path(name)


@pytest.fixture
def run(node_folder: Path, service: Service, key: str) -> Run:
    """Run JavaScript whose last word is `done(value)`; returns that value."""

    def run_script(script: str) -> Any:  # noqa: ANN401 - any JSON
        path = node_folder / "test.mjs"
        done = "const done = (value) => { console.log(JSON.stringify(value)); process.exit(0); };"
        path.write_text(f"{_PRELUDE}\n{done}\n{script}")
        node = shutil.which("node") or "node"
        finished = subprocess.run(
            [node, str(path), service.url, service.token, key],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"UPSTASH_DISABLE_TELEMETRY": "1", "no_proxy": "*"},
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run_script
