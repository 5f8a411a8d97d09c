"""`longtask doctor`: every environment name and every service, checked by a live call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import httpx

from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.log.store import Store
from longtask_kit.settings import (
    SERVER_NAMES,
    WHERE,
    Settings,
    is_loopback,
    secret,
)
from longtask_kit.submit.queue import Queue
from longtask_kit.transport import TRANSPORT_ERRORS, open_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Verdict = Literal["ok", "fails", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was checked, how it is, and what to do about it."""

    subject: str
    verdict: Verdict
    detail: str


async def examine(settings: Settings) -> list[Finding]:
    """Check names first, then the services that can be called with what is set."""
    findings = list(_examine_names(settings))
    missing = {finding.subject for finding in findings if finding.verdict == "fails"}
    checks: list[tuple[str, set[str], Callable[[Settings], Awaitable[str]]]] = [
        ("Redis answers", {"UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"}, _ask_redis),
        ("QStash answers", {"QSTASH_TOKEN", "LONGTASK_BASE_URL"}, _ask_queue),
        ("signing keys match", {"QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY"}, _compare_keys),
        ("model answers", {"OPENAI_API_KEY"}, _ask_model),
        ("webhook answers", {"LONGTASK_BASE_URL"}, _ask_webhook),
    ]
    for subject, needs, ask in checks:
        if needs & missing:
            findings.append(Finding(subject, "note", "not asked: a name above is missing"))
            continue
        began = time.perf_counter()
        try:
            detail = await ask(settings)
        except LongTaskError as exc:
            findings.append(Finding(subject, "fails", str(exc)))
        else:
            spent_ms = (time.perf_counter() - began) * 1000
            findings.append(Finding(subject, "ok", f"{detail} in {spent_ms:.0f} ms"))
    return findings


def _examine_names(settings: Settings) -> Iterator[Finding]:
    for name in SERVER_NAMES:
        value = settings.find(name)
        if value is None:
            yield Finding(name, "fails", f"not set: get it from {WHERE[name]}")
        else:
            shown = urlsplit(value).netloc if isinstance(value, str) else "set"
            yield Finding(name, "ok", shown)
    if not is_loopback(settings.qstash_url) and is_loopback(settings.base_url):
        yield Finding(
            "LONGTASK_BASE_URL",
            "fails",
            "on this machine, where hosted QStash can't reach it: use a tunnel or a deployment",
        )
    yield Finding("LONGTASK_MODEL", "note", settings.model)
    guard = "set" if settings.api_key else "not set: /api/tasks is open to whoever reaches the app"
    yield Finding("LONGTASK_API_KEY", "note", guard)


async def _ask_redis(settings: Settings) -> str:
    store = Store.open(settings)
    try:
        await store.ping()
    finally:
        await store.aclose()
    return "PONG"


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
    return "current and next" if ours == (current, following) else "current; the next one differs"


async def _ask_model(settings: Settings) -> str:
    base_url = settings.openai_base_url or "https://api.openai.com/v1"
    headers = {"Authorization": f"Bearer {secret(settings.openai_api_key)}"}
    answer = await _get(f"{base_url}/models", "OPENAI_BASE_URL", headers)
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
            f"{urlsplit(url).netloc} is not reachable ({type(exc).__name__}): check {name}, and "
            "whether it is up."
        ) from exc
