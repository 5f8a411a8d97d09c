"""The destination in a publish path, and where it may point to (wire doc, section 0.1)."""

import functools
import ipaddress
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from longtask_kit.local.qstash.errors import DestinationError

_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;="
# A URL is looked at several times on its way, and the same ones come again and again.
_parsed = functools.lru_cache(maxsize=256)(httpx.URL)


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
        parsed = _parsed(url)
    except httpx.InvalidURL as exc:
        raise DestinationError(f"invalid {what} url: {exc}") from exc
    if not parsed.host or not 0 < (parsed.port or 1) <= 65_535:
        raise DestinationError(f"invalid {what} url: the host is missing or its port is wrong")


def is_loopback(url: str) -> bool:
    """Tell whether a URL stays on this machine, as read by the client that will open it."""
    host = _parsed(url).host
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
        if not self.allow_remote and not is_loopback(rewrite(url, self.outbound)):
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
    after_scheme = url.partition("://")[2]
    starts = [at for at in (after_scheme.find("/"), after_scheme.find("?")) if at >= 0]
    target = after_scheme[min(starts) :] if starts else "/"
    return (target if target.startswith("/") else "/" + target).encode("latin-1")


def printable(url: str) -> str:
    """Return a URL fit for a log line: user info and query may hold secrets."""
    parsed = _parsed(url)
    return str(parsed.copy_with(query=None, userinfo=b""))


def _parts(query: bytes) -> list[str]:
    return [part for part in query.decode("latin-1").split("&") if part]


def _is_control(part: str) -> bool:
    name = part.partition("=")[0].lower()
    return name == "qstash_token" or name.startswith("upstash-")
