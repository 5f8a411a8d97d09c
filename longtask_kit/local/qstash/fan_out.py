"""From one publish to its messages: one for a URL, one for each endpoint of a URL group."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.destination import Reach, is_url
from longtask_kit.local.qstash.errors import DestinationError
from longtask_kit.local.qstash.message import Message, new_message_id, parse_message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from longtask_kit.local.qstash.catalog import Catalog


class GroupMissingError(DestinationError):
    """The destination is no URL, and there is no URL group of that name."""


async def messages_for(
    catalog: Catalog,
    reach: Reach,
    destination: str,
    headers: Iterable[tuple[str, str]],
    *,
    body: bytes,
    now_ms: int,
    caller_ip: str | None,
    queue_name: str | None = None,
) -> list[Message]:
    """Return the messages of one publish, in the order of the group's endpoints.

    Raises:
        GroupMissingError: There is no such URL group.
        MalformedRequestError: A header's value is out of range, or a URL out of reach.
    """
    messages = await _parsed(
        catalog,
        destination,
        list(headers),
        body=body,
        now_ms=now_ms,
        caller_ip=caller_ip,
        queue_name=queue_name,
    )
    for message in messages:
        for url in (message.url, message.callback, message.failure_callback):
            if url is not None:
                reach.check(url)
    return messages


async def _parsed(
    catalog: Catalog,
    destination: str,
    given: list[tuple[str, str]],
    *,
    body: bytes,
    now_ms: int,
    caller_ip: str | None,
    queue_name: str | None,
) -> list[Message]:
    parse = functools.partial(
        parse_message, body=body, now_ms=now_ms, caller_ip=caller_ip, queue_name=queue_name
    )
    if is_url(destination):
        return [parse(given, message_id=new_message_id(), url=destination)]
    group = await catalog.group(destination)
    if group is None:
        raise GroupMissingError(
            "invalid destination url: endpoint has invalid scheme, add http:// or https:// "
            f"(and there is no url group {destination[:80]!r})"
        )
    return [
        parse(
            group.with_defaults(given),
            message_id=new_message_id(),
            url=endpoint.url,
            topic_name=group.name,
            endpoint_name=endpoint.name,
        )
        for endpoint in group.endpoints
    ]
