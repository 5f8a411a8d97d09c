"""What can be told of names and values alone, before anybody is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from longtask_kit.errors import find_nearest
from longtask_kit.settings import SERVER_NAMES, WHERE, Settings, is_loopback
from longtask_kit.wrong_settings import find_variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from longtask_kit.errors import ConfigError

Verdict = Literal["ok", "fails", "note", "doubt"]
_URLS = ("QSTASH_URL", "UPSTASH_REDIS_REST_URL", "LONGTASK_BASE_URL", "OPENAI_BASE_URL")
_OURS = ("QSTASH_", "UPSTASH_", "OPENAI_", "LONGTASK_", "SSL_CERT_")
_MISSPELT = ("QSTASH_", "UPSTASH_", "OPENAI_", "LONGTASK_", "LONGTASKS_", "LONG_TASK_")
# What we read besides the settings; and what other programs read.
_OTHER_NAMES = (
    "LONGTASK_HOME",
    "LONGTASK_STACK_OPTIONS",
    "LONGTASK_LLM_OPTIONS",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
)
_OF_OTHERS = (
    "UPSTASH_VECTOR_",
    "UPSTASH_SEARCH_",
    "UPSTASH_WORKFLOW_",
    "UPSTASH_REDIS_REST_READ_ONLY_TOKEN",
    "UPSTASH_DISABLE_TELEMETRY",
    "QSTASH_DEV",
    "OPENAI_ADMIN_KEY",
    "OPENAI_API_TYPE",
    "OPENAI_API_VERSION",
    "OPENAI_WEBHOOK_SECRET",
)
_RENAMED = {"OPENAI_API_BASE": "OPENAI_BASE_URL"}
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was checked, how it is, and what to do about it."""

    subject: str
    verdict: Verdict
    detail: str


def examine_names(settings: Settings) -> Iterator[Finding]:
    """Say of each setting whether it is there, and what can't be right about it."""
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
    yield from _examine_urls(settings)
    yield Finding("LONGTASK_MODEL", "note", settings.model)
    guard = "set" if settings.api_key else "not set: /api/tasks is open to whoever reaches the app"
    yield Finding("LONGTASK_API_KEY", "note", guard)


def _examine_urls(settings: Settings) -> Iterator[Finding]:
    if "/v2" in urlsplit(settings.qstash_url).path:
        yield Finding(
            "QSTASH_URL",
            "fails",
            "ends with a path of the API: set its origin alone, e.g. https://qstash.upstash.io",
        )
    for name in _URLS:
        url = settings.find(name)
        if isinstance(url, str) and url.startswith("http:") and not is_loopback(url):
            yield Finding(
                name,
                "note" if name == "OPENAI_BASE_URL" else "fails",
                "is http, so that whoever is on the way reads tokens and texts: set it to https",
            )


def examine_wrong(exc: ConfigError) -> list[Finding]:
    """Say which settings can't be meant, so that nobody could be asked."""
    found = [Finding(name, "fails", detail) for name, detail in exc.wrong.items()]
    found = found or [Finding("settings", "fails", str(exc))]
    return [*found, Finding("every service", "note", "not asked: a value above is wrong")]


def examine_spelling(names: Iterable[str]) -> Iterator[Finding]:
    """Say of names in the environment that nobody reads which was meant.

    Args:
        names: All that are set, in the environment or `.env`.
    """
    there = {*names}
    fields = Settings.model_fields.items()
    known = [find_variable(name, field) for name, field in fields] + [*_OTHER_NAMES]
    for name in sorted(there - {*known}):
        if not name.startswith(_MISSPELT) or name.startswith(_OF_OTHERS):
            continue
        near = _RENAMED.get(name) or _find_meant(name, known)
        is_ours = name.startswith("LONGTASK_")
        if near is not None and (is_ours or near not in there):
            yield Finding(name, "doubt", f"is no name of ours: did you mean {near}?")
        elif is_ours:
            yield Finding(name, "doubt", "is no name of ours, and nobody reads it: remove it")


def _find_meant(name: str, known: Iterable[str]) -> str | None:
    """Return the name with the same beginning that is nearest in the rest."""
    name = name.replace("LONG_TASK_", "LONGTASK_").replace("LONGTASKS_", "LONGTASK_")
    start, _, rest = name.partition("_")
    rests = [one.removeprefix(f"{start}_") for one in known if one.startswith(f"{start}_")]
    near = find_nearest(rest, rests)
    return None if near is None else f"{start}_{near}"


def examine_values(values: Mapping[str, str]) -> Iterator[Finding]:
    """Say of values as they stand in the environment what others than we would stumble over."""
    for name, value in values.items():
        if name.startswith(_OURS) and value.strip() and value != value.strip():
            yield Finding(
                name,
                "note",
                "has blanks around it, which we leave out and other programs don't: remove them",
            )
        elif name.startswith(_OURS) and len(value) > 1 and value[0] == value[-1] in "'\"":
            yield Finding(name, "fails", "has quotes around it, as part of the value: remove them")


def examine_place(environment: Iterable[str], provided: Iterable[str], model: str) -> list[Finding]:
    """Say, with the local stack, which part comes from where.

    Args:
        environment: Names that are set in the environment or `.env`.
        provided: Names that the local stack sets for its services.
        model: What is used for a model, as `connect()` says it.
    """
    known = {name.upper() for name in environment}
    is_told = [n for n in sorted(known) if n.startswith(_OURS) or n in _PROXIES]
    why = [n for n in ("LONGTASK_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL") if n in known]
    because = f"because of {', '.join(why)}" if why else "since no model and no key is named"
    return [
        Finding("the environment sets", "note", ", ".join(is_told) or "nothing of ours"),
        Finding("the local stack provides", "note", ", ".join(provided)),
        Finding("used for a model", "note", f"{model} ({because})"),
    ]
