"""What the environment says of proxies and certificates, read by us and not by httpx."""

import asyncio
import sys
import traceback
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

import longtask_kit as lt
from longtask_kit.client import health
from longtask_kit.server.openai import _open_http_client
from longtask_kit.transport import (
    TRANSPORT_ERRORS,
    choose_proxy,
    open_client,
    open_quick_client,
)
from tests.command import longtask
from tests.serving import serve

PROXY = "http://proxy.example:3128"
HOSTED = {
    "QSTASH_TOKEN": "t",
    "UPSTASH_REDIS_REST_URL": "https://x.upstash.io",
    "UPSTASH_REDIS_REST_TOKEN": "t",
    "LONGTASK_BASE_URL": "https://app.example.com",
}


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_proxied"),
    [
        ("", "https://a.example", True),
        ("*", "https://a.example", False),
        ("b.example,*", "https://a.example", False),
        ("a.example", "https://a.example", False),
        ("A.EXAMPLE", "https://a.example", False),
        ("example", "https://a.example", False),
        (".a.example", "https://a.example", False),
        ("*.a.example", "https://x.a.example", False),
        ("a.example", "https://xa.example", True),
        ("b.example a.example", "https://a.example", False),
        ("a.example:443", "https://a.example", False),
        ("a.example:8443", "https://a.example", True),
        ("a.example:8443", "https://a.example:8443/v1", False),
        ("https://a.example", "https://a.example", False),
        ("10.1.2.3", "http://10.1.2.3:80", False),
        ("10.0.0.0/8", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://11.1.2.3", True),
        ("10.0.0.0/8", "https://ten.example", True),
        ("fd00::/8", "https://a.example", True),
        ("fd00::/8", "https://[fd12::5]", False),
        ("[fd12::5]", "https://[fd12::5]", False),
        ("[fd12::5]:443", "https://[fd12::5]", False),
        ("[fd12::5]:80", "https://[fd12::5]", True),
        ("fd12::5", "https://[fd12::5]", False),
        ("localhost,[::1]", "https://a.example", True),
        ("[, ],:,::,:::,/,//,.,*.,:99,a.example:x,%", "https://a.example", True),
    ],
)
def test_no_proxy_exempts_names_addresses_and_networks(
    no_proxy: str, url: str, is_proxied: bool
) -> None:
    proxies = {"http": PROXY, "https": PROXY, "no": no_proxy}
    assert choose_proxy(url, proxies) == (PROXY if is_proxied else None)


@pytest.mark.parametrize(
    ("proxies", "chosen"),
    [
        ({}, None),
        ({"http": PROXY}, None),
        ({"all": PROXY}, PROXY),
        ({"all": "socks4://x", "https": PROXY}, PROXY),
        ({"https": "", "all": PROXY}, PROXY),
        ({"https": "proxy.example:3128"}, PROXY),
        ({"https": "http://me:secret@proxy.example"}, "http://me:secret@proxy.example"),
    ],
)
def test_the_proxy_is_the_schemes_own_or_that_of_all(
    proxies: dict[str, str], chosen: str | None
) -> None:
    assert choose_proxy("https://a.example", proxies) == chosen


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("socks://me:secret@proxy", "none of these"),
        ("socks4://me:secret@proxy", "none of these"),
        ("ftp://me:secret@proxy", "none of these"),
        ("http://me:secret@[::1", "none of these"),
        ("http://me:secret@proxy:port", "none of these"),
        ("http://", "none of these"),
        ("socks5://me:secret@proxy:1080", "pip install socksio"),
        ("socks5h://me:secret@proxy:1080", "pip install socksio"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_by_its_variable(
    proxy: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(lt.ConfigError, match=f"ALL_PROXY.*{says}.*a.example in NO_PROXY") as told:
        choose_proxy("https://a.example", {"all": proxy})
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("no_proxy", ["fd00::/8", "localhost,[::1]"])
def test_what_httpx_cannot_read_of_no_proxy_keeps_nobody_from_connecting(
    no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (HOSTED | {"NO_PROXY": no_proxy, "HTTPS_PROXY": PROXY}).items():
        monkeypatch.setenv(name, value)
    lt.connect(quiet=True).close()
    lt.connect("https://app.example.com", quiet=True).close()
    _open_http_client(None)


def test_a_proxy_without_its_package_is_a_sentence_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    environment = HOSTED | {"ALL_PROXY": "socks5://127.0.0.1:9", "OPENAI_API_KEY": "k"}
    for arguments in (["run", "x"], ["ls"], ["queue", "list"], ["doctor"]):
        done = longtask(*arguments, **environment)
        assert done.returncode == 1
        assert "pip install socksio" in " ".join((done.stdout + done.stderr).split())
    monkeypatch.setenv("ALL_PROXY", environment["ALL_PROXY"])
    with pytest.raises(lt.ConfigError, match="socksio"):
        lt.connect("https://app.example.com", quiet=True)


def test_certificates_that_are_none_are_told_by_their_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for file in ("nowhere.pem", "no.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / file))
        for open_it in (open_client, open_quick_client, _open_http_client):
            with pytest.raises(lt.ConfigError, match=r"SSL_CERT_FILE.*PEM"):
                open_it("https://a.example")


@pytest.mark.anyio
async def test_a_request_takes_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.headers["host"])

    with serve(Starlette(routes=[Route("/x", answer)])) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        url = "http://far.example/x"
        async with open_client(url) as client:
            assert (await client.get(url)).text == "far.example"
        async with _open_http_client(url) as model_client:
            assert (await model_client.get(url)).text == "far.example"
        quick = open_quick_client(url)
        assert (await quick.request("GET", url)).text == "far.example"
        await quick.aclose()
        monkeypatch.setenv("no_proxy", "far.example")
        quick = open_quick_client(url)
        with pytest.raises(TRANSPORT_ERRORS):
            await quick.request("GET", url)
        await quick.aclose()
        async with open_client(url) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url)


@pytest.mark.filterwarnings("ignore:.*BasicAuth|.*proxy_auth:DeprecationWarning")  # httpx-aiohttp's
@pytest.mark.parametrize("answer", ["HTTP/1.1 407 Proxy Authentication Required", "no HTTP"])
@pytest.mark.anyio
async def test_a_proxys_password_reaches_the_proxy_and_no_error(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"{answer}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("https_proxy", f"http://me:canary@{place}")
        settings = lt.Settings(**{name.lower(): value for name, value in HOSTED.items()})
        for check in (health.REDIS, health.QUEUE, health.KEYS, health.MODEL, health.WEBHOOK):
            asked.clear()
            with pytest.raises(lt.LongTaskError, match=f"through the proxy {place}") as told:
                await check.ask(settings)
            assert b"Proxy-Authorization: Basic bWU6Y2FuYXJ5" in asked[0], check.subject
            shown = "".join(traceback.format_exception(told.value))
            assert "canary" not in f"{shown}{told.value.__cause__!r}", check.subject


@pytest.mark.anyio
async def test_a_small_request_is_sent_and_answered_as_httpx_does() -> None:
    async def answer(request: Request) -> JSONResponse:
        told = [
            request.url.path,
            request.headers.get("content-type"),
            (await request.body()).decode(),
        ]
        return JSONResponse([*told, "x" * 2000], 404, {"Retry-After": "7"})

    routes = [Route("/{rest:path}", answer, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])
    with serve(app) as url:
        quick, slow = open_quick_client(url), open_client(url)
        for client in (quick, slow):
            sent = await client.post(f"{url}/a%20b/http://x/y", headers={"X": "y"}, json=["ü", 1])
            assert sent.json()[:3] == ["/a b/http://x/y", "application/json", '["ü",1]']
            assert (sent.status_code, sent.headers["retry-after"]) == (404, "7")
            assert sent.headers["content-encoding"] == "gzip"
            asked = await client.request("GET", url, params={"q": "1"}, content="plain")
            assert asked.json()[:3] == ["/", "application/octet-stream", "plain"]
            assert not asked.is_success
            await client.aclose()
