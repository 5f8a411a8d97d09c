"""A Redis of the user's own: password, user, database, TLS, and what is said when it refuses."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
import redis
import trustme
from upstash_redis import Redis

import longtask_kit as lt
from longtask_kit.local.redis.app import create_redis_rest_app
from longtask_kit.local.redis.valkey import find_binary
from tests.contract.redis_rest.conftest import TOKEN
from tests.contract.redis_rest.test_subscribe import subscribe
from tests.serving import free_port, serve
from tests.tls import terminate_tls
from tests.wait import wait_until

# The second tier, for whoever brings a Redis of their own, is frozen.
pytestmark = pytest.mark.thorough

PASSWORD = "s3cret:@/?#%"  # nothing that a URL could carry as it is
USER_PASSWORD = "s3cret-of-app"
SAFE = quote(PASSWORD, safe="")


class OwnRedis(NamedTuple):
    """Where it listens: plainly, in TLS; and the file of the CA."""

    port: int
    tls_port: int
    ca_file: Path

    def url(self, form: str) -> str:
        """Fill in the ports and the CA."""
        return form.format(
            plain=f"127.0.0.1:{self.port}",
            tls=f"127.0.0.1:{self.tls_port}",
            named=f"localhost:{self.tls_port}",
            ca=quote(str(self.ca_file)),
        )


@pytest.fixture(scope="module")
def own() -> Iterator[OwnRedis]:
    port, ca = free_port(), trustme.CA()
    with tempfile.TemporaryDirectory(prefix="lt-") as folder, terminate_tls(port, ca) as tls_port:
        ca_file = Path(folder) / "ca.pem"
        ca.cert_pem.write_to_path(str(ca_file))
        process = subprocess.Popen(
            [
                *(str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
                *("--locale-collate", "C", "--loglevel", "warning", "--dir", folder),
                *("--requirepass", PASSWORD),
                *("--user", "app", "on", f">{USER_PASSWORD}", "~*", "&*", "+@all"),
                *("--user", "reader", "on", f">{USER_PASSWORD}", "~*", "&*", "-@all", "+ping"),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            with redis.Redis(port=port, password=PASSWORD, protocol=2) as client:
                wait_until(lambda: _answers(client))
            yield OwnRedis(port, tls_port, ca_file)
        finally:
            process.kill()
            process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(
    ("form", "database"),
    [
        (f"redis://:{SAFE}@{{plain}}", 0),
        (f"redis://default:{SAFE}@{{plain}}/0", 0),
        (f"redis://app:{USER_PASSWORD}@{{plain}}/3", 3),
        (f"redis://{{plain}}?username=app&password={USER_PASSWORD}&db=4", 4),
        (f"rediss://app:{USER_PASSWORD}@{{tls}}/5?ssl_ca_certs={{ca}}", 5),
        (f"rediss://:{SAFE}@{{named}}?ssl_ca_certs={{ca}}", 0),
        (f"rediss://:{SAFE}@{{tls}}?ssl_cert_reqs=none", 0),
    ],
)
def test_the_service_works_in_front_of_every_form_of_url(
    own: OwnRedis, form: str, database: int
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (
        serve(create_redis_rest_app(own.url(form), token=TOKEN)) as url,
        Redis(url, TOKEN, rest_retries=0) as sdk,
        httpx.Client(base_url=url, headers=headers) as http,
        redis.Redis(port=own.port, password=PASSWORD, db=database, protocol=2) as raw,
    ):
        sdk.set("form", form)
        assert raw.get("form") == form.encode()
        batch = sdk.multi()
        batch.set("n", 1).incr("n")
        assert batch.exec() == [True, 2]
        sdk.rpush("list", "x")
        assert sdk.execute(["BLPOP", "list", 1]) == ["list", "x"]
        with subscribe(http, "/subscribe/c") as events:
            next(events)
            assert sdk.publish("c", "hello") == 1
            assert next(events) == "message,c,hello"
        raw.flushdb()


def test_a_whole_stack_runs_on_a_redis_with_user_database_and_tls(
    own: OwnRedis, home: Path
) -> None:
    url = own.url(f"rediss://app:{USER_PASSWORD}@{{tls}}/6?ssl_ca_certs={{ca}}")
    with (
        lt.LocalStack.start(redis_url=url, time_scale=0.001) as stack,
        lt.connect(settings=stack.settings, quiet=True) as kit,
    ):
        assert kit.submit("Explain tides", model="demo-fast").result(30)
        assert "s3cret" not in stack.log_path.read_text()


REFUSALS = [
    ("redis://:s3cret-wrong@{plain}", "(?i)password.*redis://user:password@host"),
    (f"redis://nobody:{USER_PASSWORD}@{{plain}}", "(?i)password.*redis://user:password@host"),
    ("redis://{plain}", "(?i)authentication.*redis://user:password@host"),
    (f"redis://reader:{USER_PASSWORD}@{{plain}}", r"permissions.*\+@all"),
    (f"redis://:{SAFE}@{{plain}}/99", "DB index.*Name a database that it has"),
    (f"redis://:{SAFE}@{{plain}}/three", "redis://localhost:6379/0"),
    (f"redis://:{SAFE}@{{plain}}?bogus=1", "redis://user:password@host:port/0"),
    (f"redis://:{SAFE}@{{tls}}", r"expect TLS\? If so, use rediss://"),
    (f"rediss://:{SAFE}@{{plain}}", r"speak TLS\? If not, use redis://"),
    (f"rediss://:{SAFE}@{{tls}}", "not trusted.*ssl_ca_certs="),
    (f"redis://:{SAFE}@127.0.0.1:1", "(?i)refused|connect call failed"),
    (f"redis://:{SAFE}@nowhere.invalid:6379", "nowhere.invalid"),
]


@pytest.mark.parametrize(("form", "says"), REFUSALS)
def test_a_redis_that_refuses_is_told_with_the_cure_and_no_secret(
    own: OwnRedis, home: Path, form: str, says: str
) -> None:
    with pytest.raises(lt.LocalStackError, match=says) as caught:
        lt.LocalStack.start(redis_url=own.url(form))
    assert "--redis-url" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    for log in home.rglob("*.log"):
        assert "s3cret:@/?#%" not in log.read_text()
        assert SAFE not in log.read_text()
        assert USER_PASSWORD not in log.read_text()


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("redis://:s3cret-wrong@{plain}", 500),
        ("redis://{plain}", 400),  # NOAUTH, in Redis' words
        (f"redis://reader:{USER_PASSWORD}@{{plain}}", 400),  # NOPERM
        (f"redis://:{SAFE}@{{plain}}/99", 500),
        (f"redis://:{SAFE}@{{tls}}", 500),
        (f"rediss://:{SAFE}@{{tls}}", 500),
        (f"redis://:{SAFE}@127.0.0.1:1", 500),
    ],
)
def test_the_service_answers_in_json_and_logs_no_secret(
    own: OwnRedis, form: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(create_redis_rest_app(own.url(form), token=TOKEN)) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer: Any = httpx.post(url, json=["GET", "k"], headers=headers, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]
    for text in (answer.text, caplog.text):
        assert not any(secret in text for secret in (SAFE, PASSWORD, USER_PASSWORD, "s3cret-wrong"))
