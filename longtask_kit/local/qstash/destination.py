"""The destination in a publish path, and where it may point to (wire doc, section 0.1)."""

from __future__ import annotations

import functools
import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from longtask_kit.local.qstash.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;="
_AUTHORITY = re.compile("https?://[^/?#]*", re.IGNORECASE)
_ESCAPED_IPV6 = re.compile("^(https?://)%5B([0-9a-f:.]+)%5D", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a URL's request goes.

    Attributes:
        is_tls: Whether the scheme is https.
        host: A name, or an address without brackets.
        port: The scheme's own if the URL has none.
        netloc: Host and port as the `Host` header has them; fit for a log line.
        userinfo: `user:password`, decoded; empty without.
        is_address: Whether the host needs no look-up.
        is_loopback: Whether it is on this machine.
    """

    is_tls: bool
    host: str
    port: int
    netloc: str
    userinfo: str
    is_address: bool
    is_loopback: bool


def origin_of(url: str) -> Origin:
    """Return where the request of a URL goes.

    Raises:
        ValueError: It has no host, or a port that can't be.
    """
    return _parse_origin(url[: _target_start(url)])


# An origin is looked at several times on a message's way, and comes again and again.
@functools.lru_cache(maxsize=256)
def _parse_origin(text: str) -> Origin:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise ValueError(str(exc)) from exc
    if not url.host or not 0 < (url.port or 1) <= 65_535:
        raise ValueError("the host is missing or its port is wrong")
    is_tls = url.scheme == "https"
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        address = None
    return Origin(
        is_tls=is_tls,
        host=url.host,
        port=url.port or (443 if is_tls else 80),
        netloc=url.netloc.decode("latin-1"),
        userinfo=urllib.parse.unquote(url.userinfo.decode("latin-1")),
        is_address=address is not None,
        is_loopback=address.is_loopback if address else url.host.lower() == "localhost",
    )


def destination_of(
    raw_path: bytes, query: bytes, *, prefix: bytes = b"/v2/publish/", need_url: bool = False
) -> str:
    """Return the destination that stands verbatim behind `prefix` in a request target.

    The path must be the raw one: a decoded path has lost the difference between `%2F` and `/`.
    The query string is the destination's too, except for the control parameters.

    Args:
        raw_path: The path, not decoded.
        query: The query string, not decoded.
        prefix: What stands before the destination.
        need_url: Whether the name of a URL group won't do.

    Raises:
        DestinationError: It is neither an http(s) URL nor can be a group's name.
    """
    destination = raw_path.partition(prefix)[2].decode("latin-1")
    if destination.lower().startswith(("http%3a", "https%3a")):
        destination = urllib.parse.unquote(destination)
    # httpx, and with it the Python SDK, escapes the brackets of an IPv6 address.
    destination = _ESCAPED_IPV6.sub(r"\1[\2]", destination)
    kept = [part for part in _parts(query) if not _is_control(part)]
    if kept:
        destination += ("&" if "?" in destination else "?") + "&".join(kept)
    # A raw target is ASCII already; a percent-encoded destination may not be once decoded.
    destination = urllib.parse.quote(destination.partition("#")[0], safe=_URL_CHARACTERS)
    if need_url or is_url(destination) or "/" in destination or ":" in destination:
        check_url(destination)
    return destination if is_url(destination) else destination.partition("?")[0]


def is_url(destination: str) -> bool:
    """Tell whether a destination is a URL; else it is the name of a URL group."""
    return destination.lower().startswith(("http://", "https://"))


def check_destination(destination: str) -> str:
    """Return a destination that came as text and not in a path: a URL, or a group's name.

    Raises:
        DestinationError: It is neither.
    """
    without_fragment = destination.partition("#")[0]
    if is_url(without_fragment):
        check_url(without_fragment)
    return without_fragment


def control_params(query: bytes) -> list[tuple[str, str]]:
    """Return the `upstash-*` query parameters, which stand for headers of the same name."""
    pairs = [part.partition("=") for part in _parts(query) if _is_control(part)]
    return [(name, urllib.parse.unquote_plus(value)) for name, _, value in pairs]


def check_url(url: str, *, what: str = "destination") -> None:
    """Refuse what isn't an absolute http(s) URL with a host.

    Raises:
        DestinationError: With the hosted service's own words.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise DestinationError(
            f"invalid {what} url: endpoint has invalid scheme, add http:// or https://"
        )
    if not url.isascii() or any(character <= " " for character in url):
        raise DestinationError(f"invalid {what} url: percent-encode spaces and non-ASCII text")
    try:
        origin_of(url)
    except ValueError as exc:
        raise DestinationError(f"invalid {what} url: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far the queue may deliver.

    Attributes:
        allow_remote: Whether beyond this machine.
        outbound: Origins that others stand in for at delivery.
    """

    allow_remote: bool
    outbound: Mapping[str, str]

    def check(self, url: str) -> None:
        """Refuse a URL that is out of reach.

        Raises:
            DestinationError: Says how to reach it.
        """
        if not self.allow_remote and not origin_of(rewrite(url, self.outbound)).is_loopback:
            raise DestinationError(
                f"invalid destination url: {url[:200]} is not on this machine; the local queue "
                "only delivers to 127.0.0.1, ::1 and localhost unless started with "
                "--allow-remote, or with --rewrite <origin>=<local origin> for this one"
            )


def rewrite(url: str, rewrites: Mapping[str, str]) -> str:
    """Return `url` with its origin replaced, if `rewrites` has it."""
    for origin, replacement in rewrites.items():
        rest = url.removeprefix(origin)
        if rest != url and (not rest or rest[0] in "/?"):
            return replacement.rstrip("/") + rest
    return url


def target_of(url: str) -> bytes:
    """Return the request target of a URL byte for byte, without a client's normalisation."""
    target = url[_target_start(url) :].partition("#")[0]
    return (target if target.startswith("/") else "/" + target).encode("latin-1")


def printable(url: str) -> str:
    """Return a URL fit for a log line: user info and query may hold secrets."""
    origin, path = origin_of(url), target_of(url).partition(b"?")[0].decode("latin-1")
    return f"{'https' if origin.is_tls else 'http'}://{origin.netloc}{path}"


def _target_start(url: str) -> int:
    """Where the authority ends: at the first of `/`, `?` and `#`."""
    end = _AUTHORITY.match(url)
    return end.end() if end else len(url)


def _parts(query: bytes) -> list[str]:
    return [part for part in query.decode("latin-1").split("&") if part]


def _is_control(part: str) -> bool:
    name = part.partition("=")[0].lower()
    return name == "qstash_token" or name.startswith("upstash-")
