"""What a local stack is started with, and what its options may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

OPTIONS_VARIABLE = "LONGTASK_STACK_OPTIONS"  # how `LocalStack` tells them to its process
_PLANS = (None, "free", "payg")
_PORTS = ("redis_port", "qstash_port", "app_port", "model_port")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """What `longtask up` and `LocalStack` can choose.

    Attributes:
        data_dir: Where the data stay; one stack per folder.
        redis_port: Port of the Redis REST service, 0 for any free one; likewise the others.
        time_scale: Multiplies the queue's retry backoff, > 0; lessons and tests use less than 1.
        tokens_per_s: Speed of the demo model.
        idle_exit_s: The stack ends after so long without a request or a task under way; None never.
        allow_remote: Let the queue deliver beyond this machine.
        redis_url: A Redis or Valkey, or a cluster, to use instead of the embedded one.
        rewrites: Destinations that local ones stand in for, as `https://example.com=http://…`.
        dev_keys: Use the token and signing keys that everybody knows from QStash's development
            server, so that its JavaScript SDK in development mode takes the queue for it.
        plan: `free` or `payg`: the queue refuses what that plan of the hosted one does.
        dedup_window_s: How long the queue remembers a deduplication id, in seconds, > 0.

    Raises:
        LocalStackError: A value that can't be meant; names the option and what it may be.
    """

    data_dir: Path
    redis_port: int = 0
    qstash_port: int = 0
    app_port: int = 0
    model_port: int = 0
    time_scale: float = 1.0
    tokens_per_s: float = 60.0
    idle_exit_s: float | None = 900.0
    allow_remote: bool = False
    redis_url: str | None = None
    rewrites: Sequence[str] = ()
    dev_keys: bool = False
    plan: str | None = None
    dedup_window_s: float = 600.0

    def __post_init__(self) -> None:
        for name in _PORTS:
            self._expect(name, is_port, "a port from 1 to 65535, or 0 for any free one")
        self._expect("time_scale", _is_positive, "a number above 0, e.g. 1.0")
        self._expect("tokens_per_s", _is_positive, "a number above 0, e.g. 60.0")
        self._expect("plan", lambda plan: plan in _PLANS, "free or payg, or left out for no limits")
        self._expect("dedup_window_s", _is_window, "seconds above 0, at most a year, e.g. 600")
        if self.idle_exit_s is not None:
            self._expect("idle_exit_s", _is_positive, "seconds above 0, or None for never")
        if self.redis_url is not None and not _is_redis_url(self.redis_url):
            raise LocalStackError(  # without what was found, which may hold a password
                "redis_url (--redis-url) must be a URL such as redis://localhost:6379/0, "
                "rediss://… or unix:///path/to/socket, and is none of these."
            )
        for rewrite in self.rewrites:
            if not all(map(_is_origin, rewrite.partition("=")[::2])):
                raise LocalStackError(
                    "rewrites (--rewrite) must be <from>=<to>, both http(s) URLs, e.g. "
                    f"https://example.com=http://127.0.0.1:9000; found {rewrite!r}."
                )
        self._refuse_shared_ports()

    def _expect(self, name: str, is_right: Callable[[object], bool], expected: str) -> None:
        value = getattr(self, name)
        if not is_right(value):
            raise LocalStackError(f"{_spell(name)} must be {expected}; found {value!r}.")

    def _refuse_shared_ports(self) -> None:
        users: dict[int, str] = {}
        for name in _PORTS:
            port = getattr(self, name)
            if port and port in users:
                raise LocalStackError(
                    f"{_spell(users[port])} and {_spell(name)} are both {port}: each service "
                    "needs a port of its own; 0 takes any free one."
                )
            users[port] = name


def make_config(data_dir: Path, options: Mapping[str, Any]) -> StackConfig:
    """Return the configuration from what `LocalStack` was called with.

    Raises:
        LocalStackError: An option has another name, or a value that can't be meant.
    """
    known = [field.name for field in fields(StackConfig) if field.name != "data_dir"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise LocalStackError(
            f"The local stack has no option {', '.join(unknown)}; it has {', '.join(known)}."
        )
    return StackConfig(data_dir=data_dir, **options)


def _spell(name: str) -> str:
    """Return an option as Python and as the command line call it."""
    if name == "idle_exit_s":
        return name
    flag = "dedup-window" if name == "dedup_window_s" else name.replace("_", "-")
    return f"{name} (--{flag})"


def is_port(value: object) -> bool:
    """Tell whether a value is a port to listen on, 0 for any."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65_535


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _is_window(value: object) -> bool:
    return _is_positive(value) and isinstance(value, int | float) and value <= 366 * 86_400


def _is_redis_url(value: object) -> bool:
    try:
        url = urlsplit(str(value))
        port = url.port
    except ValueError:  # the port is no number, or the host no address
        return False
    if url.scheme == "unix":
        is_whole = bool(url.path)
    else:  # redis-py takes a database that is no number for 0
        is_whole = bool(url.hostname) and (url.path[1:] or "0").isdecimal()
    return is_whole and port != 0 and url.scheme in ("redis", "rediss", "unix")


def _is_origin(value: str) -> bool:
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        return False
    is_bare = not (url.query or url.fragment or url.username)
    return url.scheme in ("http", "https") and bool(url.hostname) and port != 0 and is_bare
