"""Which model a kit's tasks ask when they name none, and at whose service.

With the local stack alone: hosted, the webhook app knows its own.
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from longtask_kit.errors import ConfigError, ask_whether
from longtask_kit.settings import Settings, check_secret, check_url, is_loopback, secret
from longtask_kit.submit.endpoint import OPENAI_URL, Endpoint, make_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from longtask_kit.client.prices import Prices
    from longtask_kit.submit.spec import Api, TaskSpec

_TIMEOUT_S = 5.0
_SHOWN_MODELS = 20


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a kit's tasks go that don't say it themselves.

    Attributes:
        model: What they ask; None leaves it to the app.
        url: Of the kernel's own model service, "" where it has none.
        find_endpoint: Returns the endpoint's id for a model's name, None for the app's own service.
        api: Of the model service; None leaves it to the app.
        prices: What a million tokens cost there, if somebody said it.
        replay: Returns a task as it is replayed, given its sample; None where it is not.
        recorded: Models whose answers are replayed, where no other can be asked.
        service: As `url`, also where a cassette stands before it.
    """

    model: str | None = None
    url: str = ""
    find_endpoint: Callable[[str], str | None] = lambda _: None
    api: Api | None = None
    prices: Prices | None = None
    replay: Callable[[TaskSpec, int], TaskSpec | None] = lambda *_: None
    recorded: Sequence[str] = ()
    service: str = ""

    def complete(self, spec: TaskSpec, *, sample: int = 0) -> TaskSpec:
        """Return a task with model, endpoint and API; another kernel's task gets this kernel's."""
        model = spec.model or (self.model if spec.handler == "openai" else None)
        if spec.handler == "openai":
            named = spec.aim(model, None, spec.api or self.api)
            if (replayed := self.replay(named, sample)) is not None:
                return replayed
        endpoint = self.find_endpoint(model) if model else None
        return spec.aim(model, endpoint, spec.api or self.api)


def find_endpoint(settings: Settings, key: str | None, url: str | None) -> Endpoint | None:
    """Return the model service that somebody has named, by `connect()` or by the environment.

    Args:
        settings: Of the environment.
        key: `model_key` of `connect()`, or None.
        url: `model_url` of `connect()`, or None.

    Raises:
        ConfigError: A value can't be meant, or the key is missing.
    """
    given_key, given_url = _check("model_key", key, _strip_key), _check("model_url", url, check_url)
    # The environment's key is not for whatever URL somebody tries: it may be another company's.
    if given_key is None and given_url is None:
        given_key = secret(settings.openai_api_key) or None
    given_url = given_url or settings.openai_base_url
    if given_key is None and given_url is None:
        return None
    endpoint = make_endpoint(given_url or OPENAI_URL, given_key or "")
    if not endpoint.key and not is_loopback(endpoint.url):
        name = "model_key" if url is not None else "OPENAI_API_KEY"
        raise ConfigError(
            f"{endpoint.host} is to be asked for the model, and there is no key: give {name}, or "
            "choose the demo by connect(model='demo') or LONGTASK_MODEL=demo."
        )
    return endpoint


def explain_unknown(model: str, own: Sequence[str]) -> str:
    """Return what to tell somebody who names a model, and nobody who could be asked for it.

    Args:
        model: The name.
        own: The local stack's models.
    """
    meant = ask_whether(model, own)
    listed = f" The local stack has: {', '.join(own)}." if meant else ""
    return (
        f"The model {model!r:.120} is none of the local stack's{meant}, and "
        "there is no key for it: set OPENAI_API_KEY (and OPENAI_BASE_URL, if it isn't OpenAI's), "
        "or give connect(model=…, model_key=…); or choose the demo by "
        f"connect(model='demo') or LONGTASK_MODEL=demo.{listed}"
    )


def refuse_stack(endpoint: Endpoint, environment: Mapping[str, str]) -> None:
    """Refuse an endpoint that is the local stack itself.

    Raises:
        ConfigError: It is.
    """
    ours = {_find_place(url) for name, url in environment.items() if name.endswith("_URL")}
    if _find_place(endpoint.url) in ours:
        raise ConfigError(
            f"{endpoint.host} is the local stack itself, whose demo model needs no key: unset "
            "OPENAI_BASE_URL and OPENAI_API_KEY (or leave out model_url), or set the model "
            "service's own."
        )


def refuse_app(endpoint: Endpoint) -> None:
    """Refuse an endpoint that is a webhook app of ours, whose tasks would come back to it.

    Raises:
        ConfigError: It is one; or nobody listens there.
    """
    if endpoint.url == OPENAI_URL:
        return
    for root in (endpoint.url, endpoint.url.removesuffix("/v1")):
        if _is_app(_get(f"{root}/api/health", key="")):
            raise ConfigError(
                f"{endpoint.host} is a longtask_kit webhook app, not a model service: to have it "
                "run tasks, connect('https://…', api_key=…); for a model, set OPENAI_BASE_URL (or "
                "model_url) to the model service itself."
            )


def choose_model(endpoint: Endpoint) -> str:
    """Return the model to ask where nobody has named one.

    Raises:
        ConfigError: The server on this machine has several, or nobody listens there.
    """
    default = str(Settings.model_fields["model"].default)
    if not is_loopback(endpoint.url):
        return default
    names = _read_models(_get(f"{endpoint.url}/models", key=endpoint.key))
    if not names or default in names:
        return default
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names[:_SHOWN_MODELS]) + (", …" if len(names) > _SHOWN_MODELS else "")
    raise ConfigError(
        f"{endpoint.host} has several models: {shown}. Choose one by connect(model=…) or "
        "LONGTASK_MODEL."
    )


def _get(url: str, *, key: str) -> Any:  # noqa: ANN401
    """Return a server's JSON, None where it answers otherwise.

    Raises:
        ConfigError: Nobody listens there.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked: http or https
    proxies = urllib.request.ProxyHandler({}) if is_loopback(url) else urllib.request.ProxyHandler()
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except HTTPError as exc:
        exc.close()
    except URLError as exc:
        if is_loopback(url) and isinstance(exc.reason, ConnectionRefusedError):
            raise ConfigError(
                f"Nobody listens at {urlsplit(url).netloc}, which is to be asked for the model: "
                "start that server, correct OPENAI_BASE_URL (or model_url), or choose the demo by "
                "connect(model='demo') or LONGTASK_MODEL=demo."
            ) from exc
    except (OSError, HTTPException, ValueError, RecursionError):
        pass  # a convenience: whoever asks it for a task says what is wrong
    return None


def _read_models(answer: object) -> list[str]:
    rows = answer.get("data") if isinstance(answer, dict) else None
    rows = rows if isinstance(rows, list) else []
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    return [name for name in names if isinstance(name, str) and name.strip()]


def _is_app(answer: object) -> bool:
    services = answer.get("services") if isinstance(answer, dict) else None
    return isinstance(services, dict) and {"redis", "queue"} <= services.keys()


def _find_place(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return "127.0.0.1" if is_loopback(url) else parts.hostname, parts.port


def _check(name: str, value: str | None, check: Callable[[str], str]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"connect({name}=…) takes text, got {type(value).__name__}.")
    try:
        return check(value.strip())
    except ValueError as exc:
        raise ConfigError(f"connect({name}=…): {exc}.") from None


def _strip_key(key: str) -> str:
    check_secret(key)
    return key
