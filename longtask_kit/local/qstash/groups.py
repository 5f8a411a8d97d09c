"""URL groups: named sets of endpoints, of which each gets every message (the path's `topics`)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longtask_kit.local.qstash.destination import check_url
from longtask_kit.local.qstash.errors import MalformedRequestError
from longtask_kit.local.qstash.message import HeaderMap, HeaderPairs, check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ENDPOINTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One member of a group."""

    url: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlGroup:
    """A URL group as it is stored; it exists as long as it has endpoints."""

    name: str
    created_at_ms: int
    updated_at_ms: int
    endpoints: Sequence[Endpoint] = ()
    headers: HeaderMap = field(default_factory=dict)

    def dump(self) -> str:
        """Return the group as JSON, for storage."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def load(cls, record: str) -> UrlGroup:
        """Return the group that `dump` wrote."""
        fields = json.loads(record)
        endpoints = [Endpoint(**endpoint) for endpoint in fields.pop("endpoints")]
        return cls(endpoints=endpoints, **fields)

    def to_wire(self) -> dict[str, Any]:
        """Return the answer of `GET /v2/topics/{name}`."""
        endpoints = [
            {"url": endpoint.url} | ({"name": endpoint.name} if endpoint.name else {})
            for endpoint in self.endpoints
        ]
        wire: dict[str, Any] = {
            "name": self.name,
            "createdAt": self.created_at_ms,
            "updatedAt": self.updated_at_ms,
            "endpoints": endpoints,
        }
        return wire | ({"headers": self.headers} if self.headers else {})

    def with_endpoints(self, added: Sequence[Endpoint], *, time_ms: int) -> UrlGroup:
        """Return the group with endpoints added; one with the same URL or name is updated.

        Raises:
            MalformedRequestError: There would be too many.
        """
        endpoints = list(self.endpoints)
        for new in added:
            known = [at for at, old in enumerate(endpoints) if _is_same(old, new)]
            if known:
                kept_name = new.name or endpoints[known[0]].name
                endpoints[known[0]] = Endpoint(url=new.url, name=kept_name)
                endpoints = [old for at, old in enumerate(endpoints) if at not in known[1:]]
            else:
                endpoints.append(new)
        if len(endpoints) > MAX_ENDPOINTS:
            raise MalformedRequestError(f"a url group has at most {MAX_ENDPOINTS} endpoints")
        return dataclasses.replace(self, endpoints=endpoints, updated_at_ms=time_ms)

    def without_endpoints(
        self, removed: Sequence[dict[str, str | None]], *, time_ms: int
    ) -> UrlGroup:
        """Return the group without the endpoints that are named by URL or by name."""
        urls = {one["url"] for one in removed if one.get("url")}
        names = {one["name"] for one in removed if one.get("name")}
        kept = [
            endpoint
            for endpoint in self.endpoints
            if endpoint.url not in urls and (endpoint.name is None or endpoint.name not in names)
        ]
        return dataclasses.replace(self, endpoints=kept, updated_at_ms=time_ms)

    def with_defaults(self, headers: HeaderPairs) -> list[tuple[str, str]]:
        """Return publish headers, with the group's own where the publisher sets none."""
        given = list(headers)
        names = {name.lower() for name, _ in given}
        return given + [
            (name, value)
            for name, values in self.headers.items()
            for value in values
            if name.lower() not in names
        ]


def parse_endpoints(document: object, *, need_url: bool) -> list[dict[str, str | None]]:
    """Return the endpoints of `{"endpoints": [{"url", "name"}]}`.

    Raises:
        MalformedRequestError: The document has another form, or a URL can't be called.
    """
    found = document.get("endpoints") if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise MalformedRequestError('expected a JSON body {"endpoints": [{"url": ...}]}')
    endpoints = [{"url": one.get("url"), "name": one.get("name")} for one in found]
    for one in endpoints:
        if not all(value is None or isinstance(value, str) for value in one.values()):
            raise MalformedRequestError("expected url and name of an endpoint to be text")
        if need_url:
            check_url(one["url"] or "", what="endpoint")
        elif not (one["url"] or one["name"]):
            raise MalformedRequestError("expected the url or the name of each endpoint")
        if one["name"]:
            check_name(one["name"], what="endpoint name")
    return endpoints


def parse_group_headers(document: object) -> HeaderMap:
    """Return the default headers of `{"headers": {"Name": ["value"]}}`.

    Raises:
        MalformedRequestError: The document has another form.
    """
    found = document.get("headers") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise MalformedRequestError('expected a JSON body {"headers": {"Name": ["value"]}}')
    headers = {}
    for name, values in found.items():
        several = [values] if isinstance(values, str) else values
        if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
            raise MalformedRequestError("expected each header's values as a list of texts")
        headers[name] = several
    return headers


def _is_same(old: Endpoint, new: Endpoint) -> bool:
    return old.url == new.url or (new.name is not None and old.name == new.name)
