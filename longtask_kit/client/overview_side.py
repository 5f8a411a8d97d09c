"""What stands beside a dashboard's tasks: services, queue, limiter; asked by who can ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtask_kit.client import health
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.http_api import HttpBackend
from longtask_kit.client.overview import Limit
from longtask_kit.errors import ConfigError, LongTaskError
from longtask_kit.log.limits import name_bucket
from longtask_kit.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longtask_kit.client.backend import Backend
    from longtask_kit.client.health import Health
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.settings import Settings
    from longtask_kit.submit.queue import Queue
    from longtask_kit.submit.queue_state import QueueState

_LIMITS_AT_MOST = 8
_SERVICES = {
    "Redis": health.REDIS,
    "QStash": health.QUEUE,
    "webhook": health.WEBHOOK,
    "model": health.MODEL,
}
HEALTH_COMMANDS = 3  # the clock and a write; and the app, asked for its health, asks for its own
OVER_HTTP = (
    "Over a URL the queue, its dead letters and the limiter are not seen: connect() with the "
    "services' own settings for them."
)
_LATEST = "What waits is counted in the latest 1,000 events of the queue's log."
_LOG_ONLY = (
    "QStash tells no number of messages that wait: counted here are those of the latest 1,000 "
    "events of its log, which come some seconds late."
)


async def read_health(backend: Backend, settings: Settings | None) -> tuple[Health, ...]:
    """Ask each service that can be asked from here, one by one: none slows another's answer."""
    if isinstance(backend, HttpBackend):
        return await _ask_app(backend)
    if settings is None:
        return ()
    asked = {name: c for name, c in _SERVICES.items() if name != "model" or _may_ask(settings)}
    found = [await health.examine(name, check.ask(settings)) for name, check in asked.items()]
    if "model" in asked:
        return tuple(found)
    note = "not asked: its key is the app's, and not set here"
    return (*found, health.Health(service="model", is_well=None, detail=note))


def _may_ask(settings: Settings) -> bool:
    return bool(settings.openai_api_key or settings.openai_base_url)


async def _ask_app(backend: HttpBackend) -> tuple[Health, ...]:
    services: dict[str, bool] = {}

    async def ask() -> str:
        services.update((await backend.read_health())["services"])
        return "it is up"

    app = await health.examine("webhook", ask())
    behind = [
        health.Health(
            service={"redis": "Redis", "queue": "QStash"}.get(name, name),
            is_well=answers,
            detail="the app reaches it" if answers else "the app does not reach it",
        )
        for name, answers in services.items()
    ]
    return (*behind, app)


async def read_queue(
    backend: Backend, settings: Settings | None
) -> tuple[QueueState | None, tuple[str, ...], str]:
    """Return what the queue says, what can't be told from here, and why it did not answer."""
    if not isinstance(backend, ServiceBackend):
        return None, (OVER_HTTP,), ""
    try:
        queue = await backend.queue.look()
    except LongTaskError as exc:
        return None, (), str(exc)
    is_here = settings is not None and is_loopback(settings.qstash_url)
    part = () if queue.is_whole else (_LATEST,)
    return queue, part if is_here else (_LOG_ONLY,), ""


async def read_limits(
    backend: Backend, settings: Settings | None, records: Iterable[TaskRecord]
) -> tuple[Limit, ...]:
    """Return the levels of the models that the newest tasks ask, where a limit is kept."""
    if not isinstance(backend, ServiceBackend) or settings is None:
        return ()
    models: dict[str, str] = {}  # by bucket
    for record in records:
        if len(models) == _LIMITS_AT_MOST:
            break
        wire, handler = record.wire, str(record.wire.get("handler") or "openai")
        model = str(wire.get("model") or settings.model)
        service = str(wire.get("endpoint") or settings.openai_base_url or "")
        endpoint = service if handler == "openai" else f"handler {handler}"
        models.setdefault(name_bucket(endpoint, model), model)
    levels = await backend.groups.store.limits.read_levels(list(models))
    return tuple(
        Limit(model=model, level=level)
        for model, level in zip(models.values(), levels, strict=True)
        if level is not None
    )


async def retry_dead_letter(backend: Backend, dead_letter_id: str, task_id: str) -> None:
    """Have what a dead letter asked for done after all, and forget the letter.

    A task that has failed is retried, for its message alone would find it ended.
    """
    queue = find_queue(backend)
    if task_id:
        await backend.retry(task_id)
        await queue.delete_dead_letter(dead_letter_id)
    else:
        await queue.send_again(dead_letter_id)


def find_queue(backend: Backend) -> Queue:
    """Return the queue itself.

    Raises:
        ConfigError: It is not reached from here.
    """
    if not isinstance(backend, ServiceBackend):
        raise ConfigError(OVER_HTTP)
    return backend.queue
