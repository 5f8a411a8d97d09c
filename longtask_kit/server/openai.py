"""The built-in handler: a request, the stream's bytes to deltas, errors to retry or not."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.log.events import Usage
from longtask_kit.log.text import make_valid_text
from longtask_kit.server.handlers import Outcome, TaskContext
from longtask_kit.settings import secret
from longtask_kit.transport import (
    NO_LIMIT,
    TRANSPORT_ERRORS,
    has_socks_proxy,
    let_die_with_loop,
    needs_proxy_variables,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec


class OpenAIHandler:
    """Streams chat completions from any OpenAI-compatible service.

    The official client makes the request and maps the errors; the stream is read as bytes and
    only what is needed is decoded, since the client's own chunk objects cost ~170 us each.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AsyncOpenAI | None = None

    async def __call__(self, context: TaskContext) -> AsyncIterator[str | Outcome]:
        """Yield the deltas of one completion, then its `Outcome`.

        Raises:
            RetryableError: 429, 5xx, timeout, or the connection broke.
            NonRetryableError: Bad key, bad request, unknown model, refused by a content filter.
        """
        if self._client is None:
            await asyncio.to_thread(_load_client)
        from openai import OpenAIError

        request = _build_request(context.spec, self._settings.model)
        try:
            async for item in self._stream(request, context):
                yield item
        except OpenAIError as exc:
            raise map_model_error(exc, secret(self._settings.openai_api_key)) from exc

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _stream(
        self, request: dict[str, Any], context: TaskContext
    ) -> AsyncIterator[str | Outcome]:
        import httpx2
        from openai import BadRequestError

        client = self._open_client()
        headers = {"X-Client-Request-Id": f"{context.task_id}/{context.attempt}"}
        while True:
            streaming = client.chat.completions.with_streaming_response.create(
                **request, extra_headers=headers
            )
            try:
                async with streaming as response:
                    key = secret(self._settings.openai_api_key)
                    async for item in decode_stream(response.iter_bytes(), key):
                        yield item
            except BadRequestError as exc:
                if not _adapt_request(request, exc.param):
                    raise
            # openai maps the errors of a request, not those of a byte stream.
            except httpx2.ReadTimeout as exc:
                raise _silent() from exc
            except (httpx2.HTTPError, *TRANSPORT_ERRORS) as exc:
                raise RetryableError(
                    f"The model's connection broke mid-stream ({type(exc).__name__}).",
                    code="model_connection",
                ) from exc
            else:
                return

    def _open_client(self) -> AsyncOpenAI:
        if self._client is None:
            import httpx2
            from openai import AsyncOpenAI

            self._settings.require("OPENAI_API_KEY")
            self._client = AsyncOpenAI(
                api_key=secret(self._settings.openai_api_key),
                base_url=self._settings.openai_base_url,
                max_retries=0,  # the queue retries; one attempt calls the model once
                timeout=httpx2.Timeout(self._settings.model_timeout_s, connect=10.0),
                http_client=_open_http_client(self._settings.openai_base_url),
            )
        return self._client


def _load_client() -> None:
    """Import what the first attempt needs, about half a second of it.

    In a thread, and when it is needed: on the event loop it would stop every stream of the app, and
    at the start it would delay that. A second attempt that comes meanwhile waits in its own thread.
    """
    # What `client.chat.completions` imports when it is first read.
    import openai.resources.chat.chat
    import openai.resources.chat.completions.completions  # noqa: F401


def warm_up() -> None:
    """Load what the first task needs, and have garbage collections leave it alone from then on.

    For a process that is ours, once it serves. A full collection looks at the libraries' 300,000
    objects, which stops every stream for 0.1 s, again and again.
    """
    _load_client()
    gc.collect()
    gc.freeze()


def _open_http_client(url: str | None) -> DefaultAsyncHttpxClient:
    """Return connections as many as there are tasks; see `transport` for why aiohttp's."""
    import httpx2
    from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient

    trust_env = needs_proxy_variables(url)
    if trust_env and has_socks_proxy():
        return DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=None))
    client = DefaultAioHttpClient(
        limits=httpx2.Limits(max_connections=NO_LIMIT), trust_env=trust_env
    )
    let_die_with_loop(client)
    return client


def _build_request(spec: TaskSpec, default_model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": spec.prompt}]
    if spec.system is not None:
        messages.insert(0, {"role": "system", "content": spec.system})
    return {
        "model": spec.model or default_model,
        "messages": messages,
        "max_tokens": spec.max_tokens,
        "temperature": spec.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _adapt_request(request: dict[str, Any], refused: str | None) -> bool:
    """Leave out or rename a parameter that a model refused; whether there is something to retry.

    OpenAI's reasoning models take `max_completion_tokens` and no temperature; some compatible
    servers know no `stream_options`.
    """
    if refused not in ("max_tokens", "temperature", "stream_options") or refused not in request:
        return False
    value = request.pop(refused)
    if refused == "max_tokens":
        request["max_completion_tokens"] = value
    return True


async def decode_stream(
    chunks: AsyncIterator[bytes], key: str = ""
) -> AsyncIterator[str | Outcome]:
    """Decode a chat completion's SSE bytes into text deltas and one `Outcome`.

    Args:
        chunks: The bytes, cut anywhere.
        key: The API key; should an error quote it, it is not stored.

    Raises:
        RetryableError: The stream ended early, or a chunk is malformed.
    """
    usage: Usage | None = None
    finish_reason: str | None = None
    is_done = False
    async for chunk in _read_chunks(chunks):
        if chunk is _DONE:
            is_done = True
            continue
        text, reason, counted = _decode_chunk(chunk, key)
        finish_reason, usage = reason or finish_reason, counted or usage
        if text:
            yield text
    if not (is_done or finish_reason):
        raise RetryableError(
            "The model's stream ended before its answer did.", code="model_connection"
        )
    yield Outcome(usage=usage, finish_reason=finish_reason)


_DONE = object()


async def _read_chunks(chunks: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Yield the JSON of each event, `_DONE`, and of what is no JSON the bytes.

    An event is taken as soon as its line is there: some servers send no blank line behind it.
    Others spread one over several lines; only then is the blank line waited for.
    """
    buffer = b""
    held: list[bytes] = []  # lines of an event that is no JSON yet
    async for chunk in chunks:
        *lines, buffer = _normalize_line_ends(buffer + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (data := line[5:].strip()):
                item = data if held else _parse(data)
                if isinstance(item, bytes):
                    held.append(item)
                else:
                    yield item
            elif held and not line:
                yield _parse(b"\n".join(held))
                held.clear()
    if buffer.removeprefix(b"data:").strip() == b"[DONE]":  # the one that may stay unfinished
        yield _DONE
    if held:
        yield _parse(b"\n".join(held))


def _normalize_line_ends(text: bytes) -> bytes:
    r"""Return a stream's bytes with `\n` for the standard's three line ends; JSON escapes all."""
    if b"\r" not in text:
        return text
    body = text.removesuffix(b"\r")  # that `\n` may follow
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + text[len(body) :]


def _parse(data: bytes) -> Any:  # noqa: ANN401
    """Return an event's JSON, `_DONE`, or its bytes when it is neither."""
    if data == b"[DONE]":
        return _DONE
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError):
        return data


def _decode_chunk(chunk: Any, key: str) -> tuple[str, str | None, Usage | None]:  # noqa: ANN401
    """Return text delta, finish reason and usage of one chunk."""
    try:
        if chunk.get("error"):
            raise RetryableError(
                f"The model failed mid-stream: {_error_text(chunk['error'], key)}",
                code="model_error",
            )
        choices = chunk.get("choices") or [{}]
        text = (choices[0].get("delta") or {}).get("content") or ""
        reason = choices[0].get("finish_reason")
        return (
            make_valid_text(text),
            reason if isinstance(reason, str) else None,
            _read_usage(chunk.get("usage")),
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise RetryableError(
            "The model sent a chunk that is not a chat completion chunk.", code="model_protocol"
        ) from exc


def _read_usage(counted: object) -> Usage | None:
    """Return the counts if all are there; an odd usage must not cost the answer."""
    names = tuple(Usage.__dataclass_fields__)
    if not isinstance(counted, dict) or not all(type(counted.get(n)) is int for n in names):
        return None
    return Usage(**{n: counted[n] for n in names})


def map_model_error(exc: OpenAIError, key: str = "") -> RetryableError | NonRetryableError:
    """Tell whether the queue should deliver again after this error of the model service.

    Args:
        exc: What the client raised.
        key: The API key; some services quote it in their error, and it must not be stored.
    """
    import httpx2
    from openai import APIStatusError, APITimeoutError

    if isinstance(exc, APIStatusError):
        code = exc.code or f"http_{exc.status_code}"
        message = f"The model service answered {exc.status_code}: {_error_text(exc.body, key)}"
        if exc.status_code in (408, 409, 429) or exc.status_code >= 500:
            # "insufficient_quota" is a 429 too, and waiting does not fill an account.
            if code == "insufficient_quota":
                return NonRetryableError(message, code=code)
            retry_after_s = parse_retry_after(exc.response.headers.get("retry-after"))
            return RetryableError(message, code=code, retry_after_s=retry_after_s)
        return NonRetryableError(message, code=code)
    # aiohttp's transport calls a connection that was closed without an answer a connect timeout.
    if isinstance(exc, APITimeoutError) and not isinstance(exc.__cause__, httpx2.ConnectTimeout):
        return _silent()
    return RetryableError(
        f"The model service is not reachable ({type(exc).__name__}); check OPENAI_BASE_URL.",
        code="model_connection",
    )


def _silent() -> RetryableError:
    return RetryableError("The model was silent for too long.", code="model_timeout")


def parse_retry_after(value: str | None) -> float | None:
    """Return seconds of a `Retry-After` header, or None for a date or nothing usable."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86_400 else None


def _error_text(body: object, key: str = "") -> str:
    """Return the readable part of an error body in OpenAI's shape."""
    if body is None:
        return "no explanation"
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = make_valid_text(str(body))
    return (text.replace(key, "***") if key else text)[:500]  # redact first: a cut key still leaks
