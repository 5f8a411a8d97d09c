"""The destination in a publish path, and where it may point to (wire doc, section 0.1)."""

import ipaddress
import urllib.parse
from collections.abc import Mapping

import httpx

from longtask_kit.local.qstash.errors import DestinationError

_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;="


def destination_of(raw_path: bytes, query: bytes, *, prefix: bytes = b"/v2/publish/") -> str:
    """Return the destination URL that stands verbatim behind `prefix` in a request target.

    The path must be the raw one: a decoded path has lost the difference between `%2F` and `/`.
    The query string is the destination's too, except for the control parameters.

    Raises:
        DestinationError: There is no http(s) URL behind the prefix.
    """
    destination = raw_path.partition(prefix)[2].decode("latin-1")
    if destination.lower().startswith(("http%3a", "https%3a")):
        destination = urllib.parse.unquote(destination)
    kept = [part for part in _parts(query) if not _is_control(part)]
    if kept:
        destination += ("&" if "?" in destination else "?") + "&".join(kept)
    # A raw target is ASCII already; a percent-encoded destination may not be once decoded.
    destination = urllib.parse.quote(destination.partition("#")[0], safe=_URL_CHARACTERS)
    check_url(destination)
    return destination


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
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise DestinationError(f"invalid {what} url: {exc}") from exc
    if not parsed.host or not 0 < (parsed.port or 1) <= 65_535:
        raise DestinationError(f"invalid {what} url: the host is missing or its port is wrong")


def is_loopback(url: str) -> bool:
    """Tell whether a URL stays on this machine, as read by the client that will open it."""
    host = httpx.URL(url).host
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def rewrite(url: str, rewrites: Mapping[str, str]) -> str:
    """Return `url` with its origin replaced, if `rewrites` has it."""
    for origin, replacement in rewrites.items():
        rest = url.removeprefix(origin)
        if rest != url and (not rest or rest[0] in "/?"):
            return replacement + rest
    return url


def target_of(url: str) -> bytes:
    """Return the request target of a URL byte for byte, without a client's normalisation."""
    after_scheme = url.partition("://")[2]
    starts = [at for at in (after_scheme.find("/"), after_scheme.find("?")) if at >= 0]
    target = after_scheme[min(starts) :] if starts else "/"
    return (target if target.startswith("/") else "/" + target).encode("latin-1")


def printable(url: str) -> str:
    """Return a URL fit for a log line: user info and query may hold secrets."""
    parsed = httpx.URL(url)
    return str(parsed.copy_with(query=None, userinfo=b""))


def _parts(query: bytes) -> list[str]:
    return [part for part in query.decode("latin-1").split("&") if part]


def _is_control(part: str) -> bool:
    name = part.partition("=")[0].lower()
    return name == "qstash_token" or name.startswith("upstash-")
