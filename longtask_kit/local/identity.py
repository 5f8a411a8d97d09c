"""What a stack keeps over restarts: ports, tokens, keys.

Messages that waited in the queue, and shells that were told the environment, still find the stack
after it ended and was started again.
"""

from __future__ import annotations

import json
import secrets
import socket
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import is_port
from longtask_kit.local.files import write_private
from longtask_kit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from longtask_kit.local.config import StackConfig

_SERVICES = ("redis", "qstash", "app", "model")
# Printed in QStash's own documentation of local development: they protect nothing.
DEV_KEYS = {
    "QSTASH_TOKEN": "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0=",
    "QSTASH_CURRENT_SIGNING_KEY": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
    "QSTASH_NEXT_SIGNING_KEY": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
}
_FORMER_APPS_KEPT = 20  # the app seldom moves; a waiting message lives for days


def load_identity(data_dir: Path) -> dict[str, Any]:
    """Return what a stack keeps over restarts; fresh secrets for a new one.

    Raises:
        LocalStackError: The file is not as a stack wrote it. New secrets in its place would lose
            the messages that wait for the app's old port without a word.
    """
    path = data_dir / "identity.json"
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        kept = {}
    except (OSError, ValueError, RecursionError) as exc:
        raise LocalStackError(_explain_damage(path, str(exc))) from exc
    if not isinstance(kept, dict):
        raise LocalStackError(_explain_damage(path, f"found a {type(kept).__name__}"))
    identity = _make_identity() | kept  # a part that is missing is made anew
    for name, value in identity.items():
        if not _is_right(name, value):
            raise LocalStackError(_explain_damage(path, f"{name} is not what it should be"))
    return identity


def save_identity(data_dir: Path, identity: dict[str, Any]) -> None:
    """Keep it for the next start."""
    write_private(data_dir / "identity.json", json.dumps(identity))


def _make_identity() -> dict[str, Any]:
    return {
        "ports": {},
        "former_apps": [],
        "qstash_token": secrets.token_urlsafe(32),
        "current_signing_key": f"sig_{secrets.token_urlsafe(32)}",
        "next_signing_key": f"sig_{secrets.token_urlsafe(32)}",
        "redis_token": secrets.token_urlsafe(32),
        "redis_read_only_token": secrets.token_urlsafe(32),
        "app_key": secrets.token_urlsafe(32),
        "model_key": f"sk-demo-{secrets.token_urlsafe(24)}",
    }


def _is_right(name: str, value: object) -> bool:
    if name == "ports":
        return isinstance(value, dict) and all(is_port(port) for port in value.values())
    if name == "former_apps":
        return isinstance(value, list) and all(isinstance(origin, str) for origin in value)
    return isinstance(value, str) and value != ""


def _explain_damage(path: Path, reason: str) -> str:
    return (
        f"{path} should hold the stack's ports and tokens as JSON, and can't be read ({reason}). "
        "Restore it, or delete it: the stack then makes new ones, keeps the tasks, and loses "
        "messages that still wait in the queue."
    )


def bind_all(
    config: StackConfig, identity: dict[str, Any]
) -> tuple[dict[str, socket.socket], dict[str, str]]:
    """Bind every service; returns the sockets, and old origins of the app with the new one."""
    ports: dict[str, int] = identity["ports"]
    known = [*identity["former_apps"], *_find_app(ports)]
    listeners = {}
    # Chosen ports first: another service must not get one of them because it had it last time.
    for name in sorted(_SERVICES, key=lambda name: not getattr(config, f"{name}_port")):
        wanted = getattr(config, f"{name}_port")
        listeners[name] = _bind(name, wanted) if wanted else _bind_free(ports.get(name, 0))
        ports[name] = listeners[name].getsockname()[1]
    (origin,) = _find_app(ports)
    identity["former_apps"] = keep_former(known, origin)
    return listeners, dict.fromkeys(identity["former_apps"], origin)


def _find_app(ports: dict[str, int]) -> list[str]:
    """Return the app's origin, if it has had a port."""
    return [f"http://127.0.0.1:{ports['app']}"] if "app" in ports else []


def keep_former(origins: list[str], origin: str) -> list[str]:
    """Return the app's last origins other than the present one, each once, the latest last."""
    latest_first = dict.fromkeys(reversed(origins))  # keeps the first of each, in order
    former = [old for old in latest_first if old != origin]
    return former[:_FORMER_APPS_KEPT][::-1]


def _bind(name: str, port: int) -> socket.socket:
    # IPPROTO_TCP: see serve.bind; asyncio sets TCP_NODELAY only then.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # until then SO_REUSEADDR lets a second socket have the same port
    except OSError as exc:
        listener.close()
        raise LocalStackError(
            f"Port {port} for {name} can't be used: {exc.strerror}. Stop what listens there "
            f"(`longtask down`, if it is a stack), or choose another with --{name}-port."
        ) from exc
    return listener


def _bind_free(preferred: int) -> socket.socket:
    """Bind the port of last time if it is free, else any."""
    try:
        return _bind("", preferred)
    except LocalStackError:
        return _bind("", 0)


def make_environment(identity: dict[str, Any]) -> dict[str, str]:
    """Return the environment that points every SDK, and the kit, at this stack."""
    urls = {name: f"http://127.0.0.1:{port}" for name, port in identity["ports"].items()}
    return {
        "QSTASH_URL": urls["qstash"],
        "QSTASH_TOKEN": identity["qstash_token"],
        "QSTASH_CURRENT_SIGNING_KEY": identity["current_signing_key"],
        "QSTASH_NEXT_SIGNING_KEY": identity["next_signing_key"],
        "UPSTASH_REDIS_REST_URL": urls["redis"],
        "UPSTASH_REDIS_REST_TOKEN": identity["redis_token"],
        "UPSTASH_REDIS_REST_READ_ONLY_TOKEN": identity["redis_read_only_token"],
        "OPENAI_API_KEY": identity["model_key"],
        "OPENAI_BASE_URL": f"{urls['model']}/v1",
        "LONGTASK_BASE_URL": urls["app"],
        "NEXT_PUBLIC_BASE_URL": urls["app"],
        "LONGTASK_API_KEY": identity["app_key"],
        "LONGTASK_MODEL": "demo",
    }


def make_settings(environment: Mapping[str, str]) -> Settings:
    """Return settings from a stack's environment; of the process's own only `LONGTASK_` tuning."""
    names = {
        "LONGTASK_BASE_URL": "base_url",
        "LONGTASK_MODEL": "model",
    }
    values = {
        names.get(name, name.lower()): value
        for name, value in environment.items()
        if name not in ("NEXT_PUBLIC_BASE_URL", "LONGTASK_API_KEY")  # `Guests` has the latter
    }
    return Settings(_env_file=None, dev=False, api_key=None, **values)
