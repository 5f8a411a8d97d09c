"""The bytes of a model's stream: cut into events, decoded, and told from what is no answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.server.openai_errors import find_error, no_answer, silent
from longtask_kit.transport import TRANSPORT_ERRORS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from openai import AsyncAPIResponse

    from longtask_kit.server.handlers import Outcome
    from longtask_kit.server.openai_decoder import Decoder, Piece

DONE = object()
"""The event `[DONE]`."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_ODD_BYTES = (
    16_000_000  # a whole answer as JSON must be readable, an endless page must not fill
)
_QUOTED_CHARS = 300
_DRAIN_S = 0.05


async def read_bytes(response: AsyncAPIResponse[Any]) -> AsyncIterator[bytes]:
    """Yield the stream's bytes."""
    with tell_breaks():
        async for chunk in response.iter_bytes():
            yield chunk


@contextlib.contextmanager
def tell_breaks() -> Iterator[None]:
    """Raise ours where a body breaks off; openai maps what fails before, in no answer or error."""
    import httpx2

    try:
        yield
    except httpx2.ReadTimeout as exc:
        raise silent() from exc
    except (httpx2.HTTPError, *TRANSPORT_ERRORS) as exc:
        raise RetryableError(
            f"The model's connection broke mid-stream ({type(exc).__name__}).",
            code="model_connection",
        ) from exc


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows a whole answer, mostly its last few bytes, so that the connection is kept.

    Briefly, and whatever comes: the answer stands.
    """
    with contextlib.suppress(RetryableError, TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in chunks:
                pass


async def decode_stream(
    chunks: AsyncIterator[bytes], decoder: Decoder, *, key: str = "", content_type: str = ""
) -> AsyncIterator[Piece | Outcome]:
    """Decode the bytes of one answer into what is said, and one `Outcome`.

    Args:
        chunks: The bytes, cut anywhere; nothing is read behind `[DONE]`.
        decoder: Knows the API's events.
        key: The API key; should an error quote it, it is not stored.
        content_type: The answer's header, for the error of what is no stream.

    Raises:
        RetryableError: The stream ended early, is malformed, holds a passing error or no answer.
        NonRetryableError: It holds an error that another attempt would meet again.
    """
    events = EventLines()
    try:
        async for chunk in chunks:
            for event in events.feed(chunk):
                if text := _find_plain_text(event, decoder):
                    yield text
                    continue
                for item in _read_event(event, decoder, events):
                    yield item
                if decoder.is_over:
                    break
            if decoder.is_over:
                break
        for event in events.close():
            if decoder.is_over:
                break
            for item in _read_event(event, decoder, events):
                yield item
    except (RetryableError, NonRetryableError):
        if not decoder.is_whole:  # what comes behind a finish reason takes nothing back
            raise
    if not decoder.is_whole:
        if not decoder.has_spoken:
            raise no_answer(events.quote_odd(), content_type, key)
        if not decoder.is_over:
            raise RetryableError(
                "The model's stream ended before its answer did.", code="model_connection"
            )
    for last in decoder.end():
        yield last


def _find_plain_text(event: Any, decoder: Decoder) -> str:  # noqa: ANN401
    try:
        return decoder.find_plain_text(event)
    except (LookupError, TypeError, AttributeError):
        return ""


def _read_event(event: Any, decoder: Decoder, events: EventLines) -> Sequence[Piece]:  # noqa: ANN401
    items: Sequence[Piece] | None = None
    if event is DONE:
        decoder.is_over = True
        return ()
    if type(event) is dict:
        try:
            items = decoder.feed(event)
        except (LookupError, TypeError, AttributeError) as exc:
            raise _broken("a chunk of a shape that is not the API's") from exc
    elif isinstance(event, bytes) and _is_opening(event):  # it may have held text
        raise _broken("a chunk that is not JSON")
    if items is None:  # a ping, a vendor's extra
        events.note_odd(event)
        return ()
    return items


def _broken(what: str) -> RetryableError:
    return RetryableError(f"The model sent {what}.", code="model_protocol")


class EventLines:
    """Cuts a stream into events: the JSON of each, `DONE`, and of what is no JSON the bytes.

    An event is taken as soon as its line is there: some servers send no blank line behind it.
    Others spread one over several lines; only then is the blank line waited for. What is no event
    at all, as a web page or a JSON body, is kept: it may be the answer, or say why there is none.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._held: list[bytes] = []  # lines of an event that is no JSON yet
        self._is_error = False  # of the type "error", by its `event:` line
        self._odd: list[bytes] = []
        self._odd_bytes = 0
        self._noted = ""

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """Yield the events that these bytes complete."""
        *lines, self._buffer = _normalize_line_ends(self._buffer + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                event = None if self._held or self._is_error else _parse(line[5:].strip())
                if type(event) is dict:  # the fast way
                    yield event
                else:
                    yield from self._take_data(line[5:].strip())
            elif not line:
                yield from self._end_event()
            else:
                yield from self._take_other(line)

    def close(self) -> Iterator[Any]:
        """Yield what is left once the bytes have ended."""
        last, self._buffer = self._buffer, b""
        if last.startswith(b"data:"):
            # Cut off, unless it is whole without its line end.
            if not isinstance(event := _parse(last[5:].strip()), bytes):
                yield event
        elif last:
            yield from self._take_other(last)
        yield from self._end_event()
        body = _parse(b"\n".join(self._odd))
        if isinstance(body, dict):
            yield body

    def note_odd(self, event: object) -> None:
        """Keep the beginning of what is no part of an answer, for the error if none comes."""
        if len(self._noted) < _QUOTED_CHARS:
            self._noted += f" {_to_text(event)}"[:_QUOTED_CHARS]

    def quote_odd(self) -> str:
        """Return how what was no answer began."""
        page = b"\n".join(self._odd)[: 4 * _QUOTED_CHARS].decode(errors="replace").strip()
        return (page or self._noted.strip())[:_QUOTED_CHARS]

    def _take_data(self, data: bytes) -> Iterator[Any]:
        if not data:
            return
        event = data if self._held else _parse(data)
        if self._held or (isinstance(event, bytes) and _is_opening(event)):
            self._held.append(data)
        else:
            yield self._name(event)

    def _end_event(self) -> Iterator[Any]:
        if self._held:
            event = _parse(b"\n".join(self._held))
            self._held.clear()
            yield self._name(event)
        elif self._is_error:
            yield self._name("no explanation")

    def _name(self, event: Any) -> Any:  # noqa: ANN401
        """Return an event's data as what its `event:` line says it is."""
        is_error, self._is_error = self._is_error, False
        return self._as_error(event) if is_error else event

    def _take_other(self, line: bytes) -> Iterator[Any]:
        line = line.removeprefix(_BYTE_ORDER_MARK)
        name, _, value = line.partition(b":")
        if name == b"data":  # behind a byte-order mark
            yield from self._take_data(value.strip())
        elif name == b"event":
            self._is_error = value.strip() == b"error"
        elif name == b"error":
            yield self._as_error(_parse(value.strip()))
        elif name not in (b"", b"id", b"retry"):
            event = _parse(line) if line.startswith(b"{") else None
            if isinstance(event, dict) and find_error(event):
                yield event
            if self._odd_bytes < _MAX_ODD_BYTES:
                self._odd.append(line)
                self._odd_bytes += len(line)

    def _as_error(self, event: Any) -> Any:  # noqa: ANN401
        if event is DONE or (isinstance(event, dict) and event.get("error")):
            return event
        return {"error": _to_text(event) if isinstance(event, bytes) else event}


def _is_opening(data: bytes) -> bool:
    """Whether JSON of several lines may begin so."""
    return data[:1] in (b"{", b"[")


def _to_text(event: object) -> str:
    if isinstance(event, bytes):
        return event.decode(errors="replace")
    return json.dumps(event, ensure_ascii=False)


def _normalize_line_ends(text: bytes) -> bytes:
    r"""Return a stream's bytes with `\n` for the standard's three line ends; JSON escapes all."""
    if b"\r" not in text:
        return text
    body = text.removesuffix(b"\r")  # that `\n` may follow
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + text[len(body) :]


def _parse(data: bytes) -> Any:  # noqa: ANN401
    """Return an event's JSON, `DONE`, or its bytes when it is neither."""
    if data == b"[DONE]":
        return DONE
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return data
