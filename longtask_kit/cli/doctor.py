"""`longtask doctor`: every environment name and every service, checked by a live call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource

from longtask_kit.cli.doctor_names import Finding, examine_names, examine_place
from longtask_kit.client import health
from longtask_kit.errors import ConfigError
from longtask_kit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from longtask_kit.local.stack import LocalStack

_SERVICES = [health.REDIS, health.QUEUE, health.KEYS, health.WEBHOOK]


def list_names() -> list[str]:
    """Return the names that are set in the environment or `.env`."""
    try:
        return [*os.environ, *(name.upper() for name in DotEnvSettingsSource(Settings).env_vars)]
    except UnicodeDecodeError:
        return [*os.environ]  # the settings say what is wrong with that file


async def examine(settings: Settings) -> list[Finding]:
    """Check names first, then the services that can be called with what is set."""
    findings = [*_examine_tape(settings), *examine_names(settings)]
    missing = {finding.subject for finding in findings if finding.verdict == "fails"}
    checks = [*_SERVICES[:-1], health.MODEL, _SERVICES[-1]]
    return findings + await _ask_all(settings, checks, missing=missing)


async def examine_local(settings: Settings, stack: LocalStack) -> list[Finding]:
    """Say which part comes from the environment and which from the local stack; ask all of it.

    Args:
        settings: Of the environment, in which no service is named.
        stack: The local stack.
    """
    from longtask_kit.client.connect import describe_local, find_own_service

    fields = [name for name in settings.model_fields_set if getattr(settings, name) is not None]
    findings = examine_place(_find_names(fields), stack.environment, describe_local(settings))
    findings += [*_examine_tape(settings), *await _ask_all(stack.settings, _SERVICES)]
    try:
        endpoint, model = find_own_service(settings)
    except ConfigError as exc:
        return [*findings, Finding("model answers", "fails", str(exc))]
    used = stack.settings
    if endpoint is not None:
        own: dict[str, Any] = {"openai_base_url": endpoint.url, "model": model}
        used = used.model_copy(update=own | {"openai_api_key": SecretStr(endpoint.key)})
    return findings + await _ask_all(used, [health.MODEL])


def _examine_tape(settings: Settings) -> Iterator[Finding]:
    """Say of a cassette that the environment names whether it answers before every service."""
    if settings.replay is None:
        return
    from longtask_kit.client.replay import find_tape

    try:
        tape = find_tape(settings, None, None, None, None)
        told = tape.describe(tape.read()) if tape else ""
    except ConfigError as exc:
        yield Finding("LONGTASK_REPLAY", "fails", str(exc))
    else:
        detail = f"connect() asks it, by the local stack, before the services below: {told}"
        yield Finding("LONGTASK_REPLAY", "note", detail)


async def _ask_all(
    settings: Settings, checks: Sequence[health.Check], *, missing: Collection[str] = ()
) -> list[Finding]:
    findings = []
    for check in checks:
        if check.needs.intersection(missing):
            note = "not asked: a name above is missing or wrong"
            findings.append(Finding(check.subject, "note", note))
            continue
        found = await health.examine(check.subject, check.ask(settings))
        if found.is_well:
            detail = f"{found.detail} in {found.latency_ms:.0f} ms"
            findings.append(Finding(check.subject, "ok", detail))
        else:
            findings.append(Finding(check.subject, "fails", found.detail))
    return findings


def _find_names(fields: Iterable[str]) -> list[str]:
    """Return what the environment calls these settings, and the variables beside them."""
    aliases = [Settings.model_fields[name].validation_alias for name in fields]
    names = [
        alias if isinstance(alias, str) else name.upper()
        for name, alias in zip(fields, aliases, strict=True)
    ]
    return [*names, *(name for name, value in os.environ.items() if value)]
