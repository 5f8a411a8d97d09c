"""Whether each service answers, and how fast: asked by `longtask doctor` and the dashboard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from longtask_kit.errors import (
    ConfigError,
    LongTaskError,
    StoreRefusedError,
    is_untrusted,
    name_foreign,
)
from longtask_kit.log.redis import RedisClient
from longtask_kit.settings import WHERE, Settings, secret
from longtask_kit.submit.endpoint import OPENAI_URL
from longtask_kit.submit.queue import Queue
from longtask_kit.transport import (
    TRANSPORT_ERRORS,
    make_connection_options,
    open_client,
    tell_proxy,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CLOCK_LIMIT_S = 30.0  # a token of the queue's counts as expired, or as not valid yet, beyond it


@dataclass(frozen=True, slots=True)
class Check:
    """A call that tells whether a service is as it should be.

    Attributes:
        subject: What is then true.
        needs: Names of the settings without which it can't be asked.
        ask: Returns what was found, or raises what is wrong.
    """

    subject: str
    needs: frozenset[str]
    ask: Callable[[Settings], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a check has found.

    Attributes:
        service: Its name.
        is_well: None where nobody asked.
        detail: What was found, or what is wrong and its cure.
        latency_ms: How long the answer took, connecting included.
    """

    service: str
    is_well: bool | None
    detail: str
    latency_ms: float | None = None


async def examine(service: str, asking: Awaitable[str]) -> Health:
    """Return what a call for a service's health leads to."""
    began = time.perf_counter()
    try:
        detail = await asking
    except LongTaskError as exc:
        return Health(service=service, is_well=False, detail=str(exc))
    spent_ms = (time.perf_counter() - began) * 1000
    return Health(service=service, is_well=True, detail=detail, latency_ms=spent_ms)


async def _ask_redis(settings: Settings) -> str:
    redis = RedisClient(settings)
    try:
        [(seconds, micros)] = await redis.run([["TIME"]])
        await redis.run([["SET", "longtask:doctor", "1", "EX", "60"]])
    except StoreRefusedError as exc:
        if "NOPERM" not in str(exc):
            raise ConfigError(
                f"{exc}: copy UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN again, of one "
                f"database, from {WHERE['UPSTASH_REDIS_REST_TOKEN']}."
            ) from exc
        raise ConfigError(
            "It takes the token for reading only: copy UPSTASH_REDIS_REST_TOKEN again from "
            f"{WHERE['UPSTASH_REDIS_REST_TOKEN']}, the one that is not the read-only one."
        ) from exc
    finally:
        await redis.aclose()
    off_s = time.time() - (int(seconds) + int(micros) / 1e6)
    if abs(off_s) > _CLOCK_LIMIT_S:
        raise ConfigError(
            f"It answers, and this machine's clock is {abs(off_s):.0f} s "
            f"{'ahead of' if off_s > 0 else 'behind'} its: signatures seem expired, or not valid "
            "yet. Set the clock, e.g. by `timedatectl set-ntp true`."
        )
    return "it takes the token for writing, and the clocks agree,"


async def _ask_queue(settings: Settings) -> str:
    await _read_signing_keys(settings)
    return "it takes the token"


async def _read_signing_keys(settings: Settings) -> tuple[str, str]:
    queue = Queue.open(settings)
    try:
        return await queue.read_signing_keys()
    finally:
        await queue.aclose()


async def _compare_keys(settings: Settings) -> str:
    current, following = await _read_signing_keys(settings)
    ours = secret(settings.qstash_current_signing_key), secret(settings.qstash_next_signing_key)
    if current not in ours:
        raise ConfigError(
            "QStash signs with another key: it was rotated, or belongs to another account. "
            f"Copy both keys again from {WHERE['QSTASH_CURRENT_SIGNING_KEY']}."
        )
    if ours == (following, current):
        raise ConfigError(
            "QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY are swapped: exchange their "
            "values, or deliveries are refused after the next rotation."
        )
    return "current and next" if ours == (current, following) else "current; the next one differs"


async def _ask_model(settings: Settings) -> str:
    base_url = settings.openai_base_url or OPENAI_URL
    key = secret(settings.openai_api_key)
    answer = await _get_as_openai(
        f"{base_url}/models", {"Authorization": f"Bearer {key}"} if key else {}
    )
    if answer.status_code in (401, 403):
        raise ConfigError(f"{urlsplit(base_url).netloc} refused the key: check OPENAI_API_KEY.")
    if answer.status_code != 200:
        raise ConfigError(
            f"{base_url}/models answered {answer.status_code}: check OPENAI_BASE_URL."
        )
    try:
        names = {model["id"] for model in answer.json()["data"]}
    except (ValueError, KeyError, TypeError):
        return "it takes the key"
    if settings.model not in names:
        raise ConfigError(f"It takes the key but has no model {settings.model!r}: LONGTASK_MODEL.")
    return f"it takes the key and has {settings.model}"


async def _ask_webhook(settings: Settings) -> str:
    answer = await _get(f"{settings.base_url}/api/health", "LONGTASK_BASE_URL", {})
    try:
        body = answer.json()
        status, services = body["status"], body["services"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{settings.base_url}/api/health answered {answer.status_code}, not our webhook app: "
            "is the app deployed there, and does LONGTASK_BASE_URL end with its mount prefix?"
        ) from None
    if status != "ok":
        silent = ", ".join(name for name, answers in services.items() if not answers)
        raise ConfigError(f"It is up, but does not reach {silent}: check its own environment.")
    return "it is up and reaches its services"


async def _get(url: str, name: str, headers: dict[str, str]) -> httpx.Response:
    try:
        async with open_client(url, timeout=10.0) as client:
            return await client.get(url, headers=headers)
    except (*TRANSPORT_ERRORS, httpx.InvalidURL) as exc:
        raise ConfigError(
            f"{urlsplit(url).netloc} is not reachable{tell_proxy(url)} ({name_foreign(exc)}): "
            f"check {name}, and whether it is up."
        ) from exc


async def _get_as_openai(url: str, headers: dict[str, str]) -> Any:  # noqa: ANN401 - httpx2's
    """Ask by the library that the openai SDK uses, which trusts the system's certificates."""
    import httpx2

    options = make_connection_options(url, httpx2.create_ssl_context)
    host = urlsplit(url).netloc
    try:
        async with httpx2.AsyncClient(timeout=10.0, **options) as client:
            return await client.get(url, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        if is_untrusted(exc):
            raise ConfigError(
                f"{host} shows a certificate that this machine does not trust, as behind a "
                "company's proxy: write the CA of that proxy, in PEM form, into a file and set "
                "SSL_CERT_FILE to it (where the webhook app runs, too)."
            ) from exc
        raise ConfigError(
            f"{host} is not reachable{tell_proxy(url)} ({name_foreign(exc)}): check "
            "OPENAI_BASE_URL, and whether it is up."
        ) from exc


REDIS = Check(
    "Redis answers",
    frozenset({"UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"}),
    _ask_redis,
)
QUEUE = Check("QStash answers", frozenset({"QSTASH_TOKEN", "LONGTASK_BASE_URL"}), _ask_queue)
KEYS = Check(
    "signing keys match", frozenset({"QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY"}), _compare_keys
)
MODEL = Check("model answers", frozenset({"OPENAI_API_KEY"}), _ask_model)
WEBHOOK = Check("webhook answers", frozenset({"LONGTASK_BASE_URL"}), _ask_webhook)
