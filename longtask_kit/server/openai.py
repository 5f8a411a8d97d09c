"""The built-in handler: asks a model service, and yields what it says."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.server.handlers import Keep, Outcome, TakeUp
from longtask_kit.server.openai_background import (
    RESPONSE,
    BackgroundDecoder,
    GoneError,
    begin_anew,
    cancel_response,
    is_in_background,
    name_run,
    tell_rest,
    tell_whole,
    wait_for_end,
)
from longtask_kit.server.openai_chat import ChatDecoder
from longtask_kit.server.openai_continue import (
    IDS,
    NEVER,
    RAW,
    TEXT,
    UNKNOWN,
    Probe,
    aim_behind,
    find_way,
    is_continuable,
)
from longtask_kit.server.openai_errors import map_model_error
from longtask_kit.server.openai_request import (
    adapt_request,
    build_request,
    build_responses_request,
)
from longtask_kit.server.openai_responses import ResponsesDecoder
from longtask_kit.server.openai_stream import decode_stream, drain, read_bytes, tell_breaks
from longtask_kit.settings import secret
from longtask_kit.traces import CallSpan
from longtask_kit.transport import (
    NO_LIMIT,
    is_socks,
    let_die_with_loop,
    make_connection_options,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from openai import AsyncAPIResponse, AsyncOpenAI, DefaultAsyncHttpxClient

    from longtask_kit.server.continuation import Standing
    from longtask_kit.server.handlers import Control, TaskContext
    from longtask_kit.server.openai_decoder import Decoder, Piece
    from longtask_kit.settings import Settings
    from longtask_kit.submit.spec import TaskSpec

    Heed = Callable[[TaskContext, int, Mapping[str, str]], None]
    _Build = Callable[[TaskSpec, str], dict[str, Any]]
    _Ask = Callable[
        [dict[str, Any], dict[str, str]], AbstractAsyncContextManager[AsyncAPIResponse[Any]]
    ]

_NOTHING_LEFT = TakeUp()  # all that it may say stands
_OPENAI_URL = "https://api.openai.com/v1"  # its client's own, where none is set


class OpenAIHandler:
    """Streams answers of any OpenAI-compatible service: of chat completions, or of responses.

    The official client makes the request and maps the errors; the stream is read as bytes and
    only what is needed is decoded, since the client's own chunk objects cost ~170 us each.

    Args:
        settings: Name the service.
        heed: Told status and headers of each answer, before anything of it is yielded.
    """

    def __init__(self, settings: Settings, *, heed: Heed | None = None) -> None:
        self._settings = settings
        self._heed = heed
        self._client: AsyncOpenAI | None = None
        self._continues: dict[str, bool] = {}  # models that were asked

    async def __call__(self, context: TaskContext) -> AsyncIterator[Piece | Outcome | Control]:
        """Yield what the model says, then the `Outcome`.

        Raises:
            RetryableError: 429, 5xx, timeout, or the connection broke.
            NonRetryableError: Bad key, bad request, unknown model, refused by a content filter.
        """
        model, url = self._name_model(context.spec), self._settings.openai_base_url
        with CallSpan(context.spec.to_wire, model=model, url=url or _OPENAI_URL) as span:
            async with contextlib.aclosing(self._ask(context)) as said:
                async for item in said:
                    if isinstance(item, Outcome):
                        usage = item.usage
                        span.note(
                            finish_reason=item.finish_reason,
                            input_tokens=usage.prompt_tokens if usage else None,
                            output_tokens=usage.completion_tokens if usage else None,
                        )
                    yield item

    async def _ask(self, context: TaskContext) -> AsyncGenerator[Piece | Outcome | Control]:
        if self._client is None:
            await asyncio.to_thread(_load_client)
        from openai import APIStatusError, OpenAIError

        read = self._read_on if self._has_run(context) else self._stream
        try:
            with tell_breaks():
                async for item in read(context):
                    yield item
        except OpenAIError as exc:
            if self._heed is not None and isinstance(exc, APIStatusError):
                self._heed(context, exc.status_code, exc.response.headers)
            raise map_model_error(exc, secret(self._settings.openai_api_key)) from exc

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    def _has_run(self, context: TaskContext) -> bool:
        standing = context.standing
        is_known = standing is not None and standing.way == RESPONSE and bool(standing.place)
        return is_known and is_in_background(context.spec)

    async def _read_on(self, context: TaskContext) -> AsyncIterator[Piece | Outcome | Control]:
        """Yield what comes behind a place of a response in the background; or begin it anew."""
        standing = context.standing
        assert standing is not None  # noqa: S101 - it has a run
        try:
            async for item in self._read_rest(standing):
                yield item
        except GoneError:
            run_id = f"{context.run_id}/{standing.place['id']}"  # that one came to nothing
            context = replace(context, text="", standing=None, run_id=run_id)
            async for item in begin_anew(self._stream(context)):
                yield item

    async def _read_rest(self, standing: Standing) -> AsyncIterator[Piece | Outcome | Control]:
        from openai import BadRequestError, NotFoundError

        client, place = self._open_client(), standing.place
        key = secret(self._settings.openai_api_key)
        decoder = BackgroundDecoder(key, place=place, goes_on=any(standing.texts.values()))
        retrieve = client.responses.with_streaming_response.retrieve
        try:
            if "seq" in place:  # else its events have no numbers
                seq = place["seq"]
                async with retrieve(place["id"], stream=True, starting_after=seq) as response:
                    yield TakeUp(standing.stood, is_paid_again=False)
                    yield Keep(RESPONSE, place)
                    async for item in decode_stream(read_bytes(response), decoder, key=key):
                        yield item
                    return
        except NotFoundError as exc:
            raise GoneError from exc
        except BadRequestError:
            pass  # too late for its events
        except RetryableError:
            if not decoder.has_failed:
                raise
        whole = await wait_for_end(client, place)
        if decoder.has_failed:
            # A front end of ours says so, too, when its task has started over: that one runs on.
            said = begin_anew(tell_whole(whole, key), is_paid_again=False)
        else:
            said = tell_rest(whole, standing, key)
        async for told in said:
            yield told

    async def cancel_run(self, spec: TaskSpec, place: Mapping[str, Any]) -> None:
        """End what runs for a task at its service, if something does."""
        if is_in_background(spec) and "id" in place:
            await cancel_response(self._open_client(), place)

    async def _stream(self, context: TaskContext) -> AsyncIterator[Piece | Outcome | Control]:
        from openai import BadRequestError, UnprocessableEntityError

        key = secret(self._settings.openai_api_key)
        build, ask, decoder = await self._choose_api(context.spec)
        request = build(context.spec, self._settings.model)
        taken = await self._aim_behind(request, context)
        if taken is _NOTHING_LEFT:
            yield TakeUp()
            yield Outcome(finish_reason="length")
            return
        while True:
            try:
                async with ask(request, self._make_headers(context, request)) as response:
                    if self._heed is not None:
                        self._heed(context, response.status_code, response.headers)
                    if taken is not None:
                        yield taken
                    way = self._find_way(context, response.headers)
                    if not is_in_background(context.spec):
                        yield Keep(way)
                    kind = response.headers.get("content-type", "")
                    chunks = read_bytes(response)
                    place = context.standing.place if taken and context.standing else {}
                    reader = decoder(
                        key, goes_on=taken is not None, place=place if way == IDS else None
                    )
                    async for item in decode_stream(chunks, reader, key=key, content_type=kind):
                        yield item
                    await drain(chunks)
            except (BadRequestError, UnprocessableEntityError) as exc:
                if adapt_request(request, exc):
                    continue
                if taken is None:
                    raise
                # It does not go on behind this; what it makes of the prompt alone will be seen.
                context, taken = replace(context, text="", standing=None), None
                request = build(context.spec, self._settings.model)
            else:
                return

    def _make_headers(self, context: TaskContext, request: dict[str, Any]) -> dict[str, str]:
        headers = {"X-Client-Request-Id": f"{context.task_id}/{context.attempt}"}
        if is_in_background(context.spec):
            headers["Idempotency-Key"] = name_run(context.run_id, request)
        return headers

    async def _aim_behind(self, request: dict[str, Any], context: TaskContext) -> TakeUp | None:
        """Have a request go on behind what stands, where the service can; else it starts over."""
        standing = context.standing
        if standing is None or not standing.is_plain or not is_continuable(context.spec):
            return None
        way = standing.way
        if way == UNKNOWN and await self.can_continue(context.spec):
            way = TEXT
        if way not in (RAW, IDS, TEXT):
            return None
        ids, text = standing.ids, standing.told_text
        tokens = len(ids) if way == IDS else standing.tokens
        if way == IDS and not (ids and text):
            return None
        stood = aim_behind(request, text, tokens=tokens, way=way, ids=ids)
        return _NOTHING_LEFT if stood is None else TakeUp({"content": stood})

    def _find_way(self, context: TaskContext, headers: Mapping[str, str]) -> str:
        way = find_way(context.spec, self._settings.openai_base_url, headers)
        if way == UNKNOWN and (known := self._continues.get(self._name_model(context.spec))):
            return TEXT
        return NEVER if way == UNKNOWN and known is False else way

    def _name_model(self, spec: TaskSpec) -> str:
        return spec.model or self._settings.model

    async def can_continue(self, spec: TaskSpec) -> bool:
        """Tell whether a service that does not say so can go on behind a text: asked once."""
        model = self._name_model(spec)
        if model not in self._continues:
            try:
                self._continues[model] = await self._probe(Probe(model))
            except NonRetryableError:  # it knows no such parameters
                self._continues[model] = False
        return self._continues[model]

    async def _probe(self, probe: Probe) -> bool:
        whole = await self._ask_briefly(probe.ask_whole())
        head = probe.cut(whole)
        if head is None:
            return False
        return probe.agrees(whole, head, await self._ask_briefly(probe.ask_rest(head)))

    async def _ask_briefly(self, request: dict[str, Any]) -> str:
        from openai import OpenAIError

        key = secret(self._settings.openai_api_key)
        _, ask, decoder = await self._choose_api(None)
        try:
            async with ask(request, {"X-Client-Request-Id": "longtask-probe/0"}) as response:
                kind = response.headers.get("content-type", "")
                said = decode_stream(
                    read_bytes(response), decoder(key, goes_on=True), key=key, content_type=kind
                )
                return "".join([item async for item in said if isinstance(item, str)])
        except OpenAIError as exc:
            raise map_model_error(exc, key) from exc

    async def _choose_api(self, spec: TaskSpec | None) -> tuple[_Build, _Ask, type[Decoder]]:
        """Return how an API is asked, and what reads its answer.

        The body goes as `extra_body`, for the client neither knows every parameter nor leaves
        messages as they are.
        """
        client = self._open_client()
        if spec is None or spec.api != "responses":
            create = client.chat.completions.with_streaming_response.create
            return (
                build_request,
                lambda body, headers: create(
                    model="", messages=[], stream=True, extra_body=body, extra_headers=headers
                ),
                ChatDecoder,
            )
        responses = await asyncio.to_thread(lambda: client.responses)  # imports much
        respond = responses.with_streaming_response.create
        return (
            build_responses_request,
            lambda body, headers: respond(stream=True, extra_body=body, extra_headers=headers),
            BackgroundDecoder if spec is not None and is_in_background(spec) else ResponsesDecoder,
        )

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
                http_client=self._open_connections(),
            )
        return self._client

    def _open_connections(self) -> DefaultAsyncHttpxClient:
        return _open_http_client(self._settings.openai_base_url)


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
    gc.freeze()
    gc.enable()


def _open_http_client(url: str | None) -> DefaultAsyncHttpxClient:
    import httpx2

    return open_connections(make_connection_options(url or _OPENAI_URL, httpx2.create_ssl_context))


def open_connections(options: dict[str, Any]) -> DefaultAsyncHttpxClient:
    """Return connections as many as there are tasks; see `transport` for why aiohttp's."""
    import httpx2
    from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient

    if is_socks(options["proxy"]):
        return DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=None), **options)
    client = DefaultAioHttpClient(limits=httpx2.Limits(max_connections=NO_LIMIT), **options)
    let_die_with_loop(client)
    return client
