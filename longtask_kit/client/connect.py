"""Where to: the hosted services, the local stack, or an app's HTTP API."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from longtask_kit.cassettes import Cassette
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.cassette import find_file
from longtask_kit.client.door import Door
from longtask_kit.client.http_api import HttpBackend
from longtask_kit.client.kit import Kit
from longtask_kit.client.own_model import (
    Aim,
    choose_model,
    explain_unknown,
    find_endpoint,
    refuse_app,
    refuse_stack,
)
from longtask_kit.client.prices import check_prices
from longtask_kit.client.progress import say
from longtask_kit.client.recorder import Recorder
from longtask_kit.client.replay import find_tape
from longtask_kit.errors import ConfigError
from longtask_kit.settings import CLIENT_NAMES, Settings, check_secret, check_url
from longtask_kit.stages import write_log

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from longtask_kit.client.cassette import Redact
    from longtask_kit.client.prices import Prices
    from longtask_kit.client.replay import Mode, Tape
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.submit.endpoint import Endpoint
    from longtask_kit.submit.spec import Api

_HOSTED_NAMES = ("QSTASH_TOKEN", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")


def connect(
    url: str | None = None,
    *,
    model: str | None = None,
    model_key: str | None = None,
    model_url: str | None = None,
    api: Api | None = None,
    prices: Prices | None = None,
    api_key: str | None = None,
    settings: Settings | None = None,
    replay: str | os.PathLike[str] | None = None,
    mode: Mode | None = None,
    replay_speed: float | None = None,
    redact: Redact | None = None,
    quiet: bool = False,
) -> Kit:
    """Return a kit, and say in one line which services it talks to, and which model.

    With `url`, only the HTTP API of a webhook app is used. Else, when the Upstash variables are
    set in the environment or `.env`, the services they name; when none is, the local stack, which
    is started or joined. There the model is yours when a key for one is given, here or as
    `OPENAI_API_KEY`, and otherwise a scripted demo.

    Args:
        url: Base URL of a webhook app, e.g. `https://app.example.com`.
        model: What tasks ask that name none themselves; `demo` costs nothing. Default is
            `LONGTASK_MODEL`, and with a key `gpt-4o-mini`, or the one that a server on this
            machine has. A demo that `LONGTASK_MODEL` names gives way to `model_key`, `model_url`.
        model_key: Your key for an OpenAI-compatible service; only with the local stack, which
            keeps it (`longtask keys`), so that tasks outlive this process.
        model_url: Its base URL, e.g. `http://127.0.0.1:11434/v1`; default `OPENAI_BASE_URL`, else
            OpenAI's. A server on this machine needs no key.
        api: Which API of the model service tasks are asked by that don't say it: `chat` (the
            default) or `responses`.
        prices: What a million tokens cost, (in, out), of all models or by model: cards say then
            what an answer cost, and `kit.map()` need not be told.
        api_key: The app's `LONGTASK_API_KEY`, if it has one; only with `url`.
        settings: Instead of the environment.
        replay: A cassette, which `kit.record()` wrote: tasks are answered from it, by the local
            stack, whatever services are set. A relative path is the notebook's folder's. Default is
            `LONGTASK_REPLAY`.
        mode: `replay`, the default, asks nobody: what is not in it fails at once. `extend` asks the
            model for what is missing, or failed when it was recorded, and records that; `renew`
            asks and records all. The model is the file's, unless one is named; that of
            `LONGTASK_MODEL` is not replayed where the file has no answer of it. A key is looked for
            by these two alone.
        replay_speed: 1 is the recorded pace, 2 twice as fast, 0 as fast as it goes.
        redact: The function that `kit.record(redact=…)` was given.
        quiet: Print nothing.

    Raises:
        ConfigError: Some of the names are set, others are missing; or the model's key is.
        LocalStackError: The local stack could not start, or one of another version has tasks under
            way; the message says the cure.
    """
    own_model = model_key is not None or model_url is not None
    if api not in (None, "chat", "responses"):
        raise ConfigError(f"connect(api=…) is {api!r:.40}: expected 'chat' or 'responses'.")
    check_prices(prices)
    aim = Aim(_check_model(model), api=api, prices=prices)
    settings = settings or Settings()
    write_log(settings.log)
    tape = find_tape(settings, replay, mode, replay_speed, redact)
    if url is not None:
        if own_model:
            raise ConfigError(_explain_foreign(url))
        if tape is not None:
            aim = _aim_over_http(url, tape, aim)
        return _announce(_open_http_kit(url, api_key, aim), quiet, settings)
    if api_key is not None:
        raise ConfigError(
            "`api_key` goes with a URL: connect('https://…', api_key=…). A model's key is "
            "`model_key`."
        )
    if tape is None and is_hosted(settings):
        settings.require(*CLIENT_NAMES)
        if own_model:
            raise ConfigError(_explain_foreign(str(settings.base_url)))
        return _announce(_open_kit(settings, describe(settings), aim), quiet, settings)
    kit = _open_local_kit(settings, model, model_key, model_url, aim, tape)
    return _announce(kit, quiet, settings)


def _open_local_kit(
    settings: Settings,
    model: str | None,
    model_key: str | None,
    model_url: str | None,
    aim: Aim,
    tape: Tape | None,
) -> Kit:
    from longtask_kit.local.endpoints import (
        EndpointFiles,
        is_of_stack,
        make_guests,
        make_model_handler,
    )
    from longtask_kit.local.stack import LocalStack

    cassette = tape.read() if tape is not None else Cassette()
    is_alone = tape is not None and tape.mode == "replay"
    named = model or _find_default(
        settings,
        cassette.models,  # who was asked is who is meant, unless another one is named
        is_alone=is_alone,
        has_own=model_key is not None or model_url is not None,
    )
    endpoint = None
    if not is_alone:  # else no key is needed, and nobody is looked for
        endpoint = _read_choice(settings, named, model_key, model_url)
    stack = LocalStack.join_or_start()

    @cache
    def keep_endpoint() -> str | None:
        kept = endpoint or find_endpoint(settings, model_key, model_url)
        if kept is None:
            return None
        refuse_stack(kept, stack.environment)
        files = EndpointFiles(stack.data_dir, secret=stack.environment["UPSTASH_REDIS_REST_TOKEN"])
        if not files.has(files.make_id(kept)):
            refuse_app(kept)
        return files.keep(kept)

    if endpoint is not None:
        keep_endpoint()
        named = named or choose_model(endpoint)
    description = _describe_choice(named, endpoint)
    url = endpoint.url if endpoint is not None else ""
    aim = replace(
        aim,
        model=named,
        url=url,
        service=url,
        find_endpoint=lambda name: None if is_of_stack(name) else keep_endpoint(),
    )
    if tape is not None:
        told = tape.describe(cassette)
        whom = "local stack, " if tape.mode == "replay" else f"{description.rstrip('.')}; "
        description = f"{whom}{told}"
        aim = _aim_at_tape(aim, tape, stack)

    def revive() -> Settings | None:
        nonlocal stack
        ended, stack = stack, LocalStack.join_or_start()
        return None if stack.pid == ended.pid else stack.settings

    def host_options() -> dict[str, Any]:
        handler = make_model_handler(stack.settings, stack.data_dir)
        return {"openai": handler, "guests": make_guests(stack.environment)}

    kit = _open_kit(stack.settings, description, aim, revive, host_options)
    if tape is not None and tape.mode != "replay":
        Recorder(kit._door, tape.path, redact=tape.redact).start()
    return kit


def _aim_at_tape(aim: Aim, tape: Tape, stack: LocalStack) -> Aim:
    """Return where tasks go that a cassette answers, or the model that is recorded into it."""
    if tape.mode == "renew":
        return aim
    from longtask_kit.local.endpoints import EndpointFiles
    from longtask_kit.submit.endpoint import Endpoint

    files = EndpointFiles(stack.data_dir, secret=stack.environment["UPSTASH_REDIS_REST_TOKEN"])
    endpoint_id = files.keep(tape.aim_at(Endpoint(url=stack.environment["OPENAI_BASE_URL"])))
    is_alone = tape.mode == "replay"
    return replace(
        aim,
        url=tape.place,
        find_endpoint=(lambda _: None) if is_alone else aim.find_endpoint,
        recorded=tape.read().models if is_alone else (),
        replay=lambda spec, sample: tape.take(spec, endpoint_id, sample=sample),
    )


def _aim_over_http(url: str, tape: Tape, aim: Aim) -> Aim:
    """Return where tasks go over the HTTP API of the local stack's app.

    Raises:
        ConfigError: It is another app, which reads no file of this computer.
    """
    from longtask_kit.local.stack import LocalStack

    stack = LocalStack.find()
    if stack is None or stack.environment["LONGTASK_BASE_URL"] != url.rstrip("/"):
        raise ConfigError(
            f"A cassette is replayed by the local stack, and {url} is another app: leave out the "
            "URL, or replay=… and LONGTASK_REPLAY."
        )
    if tape.mode != "replay":
        raise ConfigError(f"mode={tape.mode!r} goes without a URL: the app can't tell who asks.")
    named = replace(aim, model=aim.model or next(iter(tape.read().models), None))
    return _aim_at_tape(named, tape, stack)


def _find_default(
    settings: Settings,
    recorded: Sequence[str] = (),
    *,
    is_alone: bool = False,
    has_own: bool = False,
) -> str | None:
    """Return the model of `LONGTASK_MODEL`, where it can be meant, else that of a cassette.

    Args:
        settings: Of the environment.
        recorded: Whose answers the cassette holds.
        is_alone: They are replayed, and nobody else is asked.
        has_own: `connect()` was given a key or a URL: whoever does that means no demo.
    """
    from longtask_kit.local.endpoints import is_of_stack

    named = settings.model if "model" in settings.model_fields_set else None
    is_unheard = is_alone and bool(recorded) and named not in recorded
    if named is not None and (is_unheard or (has_own and is_of_stack(named))):
        named = None
    return named or next(iter(recorded), None)


def is_hosted(settings: Settings) -> bool:
    """Tell whether the environment names services, so that no local stack is needed."""
    return any(settings.find(name) is not None for name in _HOSTED_NAMES)


def _read_choice(
    settings: Settings,
    named: str | None,
    model_key: str | None = None,
    model_url: str | None = None,
) -> Endpoint | None:
    """Return the service that is asked for a model, if one is named, or for any.

    None is the stack's own: whoever names the demo needs no other, not even one that answers.
    """
    from longtask_kit.local.endpoints import is_of_stack, list_own

    is_own = named is not None and is_of_stack(named)
    if is_own and model_key is None and model_url is None:
        return None
    endpoint = find_endpoint(settings, model_key, model_url)
    if endpoint is None and named is not None:
        raise ConfigError(explain_unknown(named, list_own()))
    return None if is_own else endpoint


def _describe_choice(named: str | None, endpoint: Endpoint | None) -> str:
    from longtask_kit.local.endpoints import describe_stack
    from longtask_kit.local.stack import LocalStack

    if endpoint is None:
        return describe_stack(LocalStack.DESCRIPTION, named)
    return f"local stack, {f'model {named}' if named else 'the model'} at {endpoint.host}"


def find_own_service(settings: Settings) -> tuple[Endpoint | None, str | None]:
    """Return whom the local stack would ask, None for its own service, and for which model.

    Raises:
        ConfigError: As `connect`.
    """
    named = _find_default(settings)
    endpoint = _read_choice(settings, named)
    return endpoint, named or (choose_model(endpoint) if endpoint else None)


def describe_local(settings: Settings) -> str:
    """Say where tasks go when no service is named, without a start and without asking anybody."""
    try:
        named = _find_default(settings)
        return _describe_choice(named, _read_choice(settings, named))
    except ConfigError as exc:
        return f"the local stack, but not yet: {exc}"


def _check_model(model: str | None) -> str | None:
    if model is not None and not (isinstance(model, str) and model.strip()):
        raise ConfigError("connect(model=…) takes a model's name, e.g. 'gpt-4o-mini' or 'demo'.")
    return model


def _explain_foreign(app: str) -> str:
    return (
        f"The webhook app at {app} asks the model with its own key: set OPENAI_API_KEY there, and "
        "leave out model_key and model_url. They go with the local stack, which is used when no "
        "Upstash variable is set."
    )


def _open_http_kit(url: str, api_key: str | None, aim: Aim) -> Kit:
    for name, given in (("url", url), ("…, api_key=…", api_key or "")):
        if not isinstance(given, str):
            raise ConfigError(f"connect({name}) takes text, got {type(given).__name__}.")
    try:
        base_url = check_url(url.strip())
    except ValueError as exc:
        raise ConfigError(f"connect(url): {exc}.") from exc
    try:
        if api_key is not None:
            api_key = api_key.strip()
            check_secret(api_key)
    except ValueError as exc:
        raise ConfigError(f"connect(…, api_key=…): the key {exc}.") from exc
    door = Door(lambda: HttpBackend(base_url, api_key=api_key), aim=aim)
    return Kit(door, f"HTTP API at {base_url}")


def _open_kit(
    settings: Settings,
    description: str,
    aim: Aim,
    revive: Callable[[], Settings | None] | None = None,
    host_options: Callable[[], dict[str, Any]] | None = None,
) -> Kit:
    door = Door(lambda: ServiceBackend(settings), settings=settings, aim=aim, revive=revive)
    return Kit(door, description, host_options=host_options)


def describe(settings: Settings) -> str:
    """Name the services that settings lead to, without a secret."""
    queue, redis = urlsplit(settings.qstash_url), urlsplit(settings.upstash_redis_rest_url or "")
    return f"QStash {queue.netloc}, Redis {redis.netloc}, webhook {settings.base_url}"


def _announce(kit: Kit, quiet: bool, settings: Settings) -> Kit:
    if settings.record is not None:
        Recorder(kit._door, find_file(settings.record)).start()
        kit.description += f"; recorded into {Path(settings.record).name}"
    if not quiet:
        say(f"longtask_kit: {kit.description}\n")
    return kit
