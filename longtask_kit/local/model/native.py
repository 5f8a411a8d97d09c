"""Real models of this computer: each a child process, started on first use, stopped when idle."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import secrets
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from starlette.responses import Response, StreamingResponse

from longtask_kit.local.model.installed import InstalledModel, find_installed, list_models
from longtask_kit.local.model.native_request import make_raw_request
from longtask_kit.local.model.native_server import OPTIONS_VARIABLE, SLOTS
from longtask_kit.local.model.native_stream import (
    TELL_TOKENS,
    TokenTeller,
    chat_from_raw,
    read_frames,
    tell_tokens,
)
from longtask_kit.local.model.request import ApiError, wrong_field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from starlette.requests import Request
    from starlette.types import Send

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

MAX_OPEN = 4 * SLOTS  # as many run as there are slots; the others wait in the native server
_RETRY_AFTER_S = 5
_IDLE_STOP_S = 120.0
_LOAD_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_TIMEOUT = httpx.Timeout(None, connect=5.0)  # a ping comes each second; prompts may take longer
_HEADERS = {"Cache-Control": "no-cache", "X-Continues-Final-Message": "false"}
_TOLD_HEADERS = _HEADERS | {"X-Continues-Final-Message": "token_ids"}
_CHAT_PATH = "/v1/chat/completions"


class ModelGoneError(Exception):
    """The client has left before there was an answer."""


@dataclass(slots=True)
class _Child:
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient


class LocalModel:
    """One installed model and the process that runs it.

    Args:
        model: What to run.
        idle_stop_s: The process ends after so long without a request.
        threads: How many compute; None is one less than there are cores, at most 4.
    """

    def __init__(
        self, model: InstalledModel, *, idle_stop_s: float = _IDLE_STOP_S, threads: int | None
    ) -> None:
        self.model = model
        self.open_requests = 0
        self._idle_stop_s = idle_stop_s
        self._threads = threads
        self._child: _Child | None = None
        self._turn = asyncio.Lock()  # one starts or stops the process at a time
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The process that runs the model, or None."""
        child = self._child
        return child.process.pid if child and child.process.returncode is None else None

    async def answer(
        self, request: Request, path: str, body: dict[str, Any], *, begun: list[int] | None = None
    ) -> Response:
        """Pass a checked request on, and its answer back as it comes.

        Args:
            request: Whose client may leave.
            path: Where it goes.
            body: What of it the native server gets.
            begun: Tokens that its last message is, behind which a chat's answer is to go on.

        Raises:
            ApiError: Too many requests are open, the model can't run, or it refused.
            ModelGoneError: The client has left.
        """
        if self.open_requests >= MAX_OPEN:
            message = f"{self.model.name} runs on this computer and has {MAX_OPEN} requests already"
            raise ApiError(
                429,
                f"{message}; try again in {_RETRY_AFTER_S}s.",
                kind="requests",
                code="rate_limit_exceeded",
                retry_after_s=_RETRY_AFTER_S,
            )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._leave)
            self._enter()
            tells = path == _CHAT_PATH and bool(body.get("stream"))
            if begun is not None:
                sending = self._send_begun(body, begun)
            else:
                sending = self._send(path, body | (TELL_TOKENS if tells else {}))
            upstream = await _unless_gone(request, sending)
            stack.push_async_callback(upstream.aclose)
            if upstream.status_code != 200:
                raise _translate_error(upstream.status_code, await upstream.aread())
            if tells:
                parts = self._tell(upstream, body, is_raw=begun is not None)
                return _PassedOn(parts, stack.pop_all(), headers=_TOLD_HEADERS)
            if body.get("stream"):
                return _PassedOn(upstream.aiter_raw(), stack.pop_all(), headers=_HEADERS)
            content = await _unless_gone(request, _read_whole(upstream))
            return Response(content, media_type="application/json", headers=_HEADERS)

    async def stop(self) -> None:
        """End the process, and return when it has ended; the next request starts another."""
        async with self._turn:
            await self._end_child()

    async def _stop_if_idle(self) -> None:
        async with self._turn:  # asked again inside: a request may have come meanwhile
            if self.open_requests == 0:
                await self._end_child()

    async def _end_child(self) -> None:
        if self._child is None:
            return
        process = self._child.process
        await self._child.client.aclose()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._child = None

    def _enter(self) -> None:
        self.open_requests += 1
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def _leave(self) -> None:
        self.open_requests -= 1
        if self.open_requests == 0:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(self._idle_stop_s, self._stop_soon)

    def _stop_soon(self) -> None:
        task = asyncio.ensure_future(self._stop_if_idle())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _send(self, path: str, body: dict[str, Any]) -> httpx.Response:
        client = await self._open_client()
        try:
            return await client.send(client.build_request("POST", path, json=body), stream=True)
        except httpx.HTTPError as exc:
            raise _ended(type(exc).__name__) from exc

    async def _send_begun(self, body: dict[str, Any], begun: list[int]) -> httpx.Response:
        """Ask for what comes behind exactly these tokens, in the turn that they began."""
        *messages, last = body["messages"]
        said = (await self._ask("/detokenize", {"tokens": begun}))["content"]
        if said != last["content"]:  # those of another model, perhaps, of the same name
            raise wrong_field("token_ids", "expected the tokens of the last message's text")
        templated = (await self._ask("/apply-template", {"messages": messages}))["prompt"]
        prompt = await self._tokenize(templated, add_special=True, parse_special=True)
        return await self._send("/completion", make_raw_request(body, [*prompt, *begun]))

    async def _tokenize(self, text: str, **options: bool) -> list[int]:
        ids: list[int] = (await self._ask("/tokenize", {"content": text, **options}))["tokens"]
        return ids

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._send(path, body)
        raw = await _read_whole(answer)
        if answer.status_code != 200:
            raise _translate_error(answer.status_code, raw)
        said: dict[str, Any] = json.loads(raw)
        return said

    def _tell(
        self, upstream: httpx.Response, body: dict[str, Any], *, is_raw: bool
    ) -> AsyncIterator[str]:
        frames, teller = read_frames(upstream), TokenTeller(tokenize=self._tokenize)
        if not is_raw:
            return tell_tokens(frames, teller)
        counts = "stream_options" in body
        return chat_from_raw(frames, teller, model=self.model.name, counts=counts)

    async def _open_client(self) -> httpx.AsyncClient:
        async with self._turn:
            if self._child is None or self._child.process.returncode is not None:
                await self._end_child()
                self._child = await _start_child(self.model, self._threads)
                logger.info("%s runs, process %d", self.model.name, self._child.process.pid)
            return self._child.client


async def _start_child(model: InstalledModel, threads: int | None) -> _Child:
    key = secrets.token_urlsafe(24)
    options = {"name": model.name, "path": str(model.path), "sha256": model.sha256}
    secret_options = json.dumps(options | {"threads": threads, "key": key})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "longtask_kit.local.model.native_server"),
        stdin=asyncio.subprocess.PIPE,  # closed when we die, which ends it on every platform
        stdout=asyncio.subprocess.PIPE,
        # Not an argument, which every user of the machine can read.
        env=os.environ | {OPTIONS_VARIABLE: secret_options},
        start_new_session=True,  # a Ctrl-C in the terminal is for the stack
    )
    try:
        said = await _read_first_line(process)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    client = httpx.AsyncClient(
        base_url=said["url"],
        headers={"Authorization": f"Bearer {key}"},
        timeout=_TIMEOUT,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    )
    return _Child(process, client)


async def _read_first_line(process: asyncio.subprocess.Process) -> dict[str, str]:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        async with asyncio.timeout(_LOAD_TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError as exc:
        raise _ended(f"it was not loaded within {_LOAD_TIMEOUT_S:g} s") from exc
    if not line:
        raise _ended(f"code {await process.wait()} while loading; see the stack's log")
    said: dict[str, str] = json.loads(line)
    if "url" not in said:  # waiting heals none of these, so the queue must not try again
        raise ApiError(400, f"The model can't run: {said['error']}", code="model_unusable")
    return said


def _ended(reason: str) -> ApiError:
    message = f"The process that runs the model ended ({reason}); the next request starts it again."
    return ApiError(503, message, kind="server_error", code="model_process_ended")


async def _read_whole(upstream: httpx.Response) -> bytes:
    try:
        return await upstream.aread()
    except httpx.HTTPError as exc:
        raise _ended(type(exc).__name__) from exc


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, _T]) -> _T:
    """Wait for an answer for as long as somebody wants it."""
    work = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ModelGoneError
        return work.result()
    finally:
        leaving.cancel()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _translate_error(status: int, raw: bytes) -> ApiError:
    """Return the native server's error as OpenAI would say it."""
    try:
        error = json.loads(raw)["error"]
        message, kind = str(error["message"]), str(error["type"])
    except (ValueError, KeyError, TypeError):
        return ApiError(502, "The model's process gave an odd answer.", kind="server_error")
    if kind == "exceed_context_size_error":
        return ApiError(
            400,
            f"This model's maximum context length is {error['n_ctx']} tokens, and the prompt has "
            f"{error['n_prompt_tokens']}: shorten it, or use a larger model.",
            param="messages",
            code="context_length_exceeded",
        )
    return ApiError(status, message, kind=kind)


class _PassedOn(StreamingResponse):
    """A native stream on its way to the client, cut where the native one is cut.

    Returning before the last message makes uvicorn close the socket without an end, which the
    client sees as what it is: half an answer.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes] | AsyncIterator[str],
        stack: contextlib.AsyncExitStack,
        *,
        headers: dict[str, str],
    ) -> None:
        super().__init__(self._pass_on(parts), media_type="text/event-stream", headers=headers)
        self._stack = stack
        self._is_whole = False

    async def _pass_on(
        self, parts: AsyncIterator[bytes] | AsyncIterator[str]
    ) -> AsyncIterator[bytes]:
        with contextlib.suppress(httpx.HTTPError, ApiError):  # while its tokens were asked for
            async for part in parts:
                yield part.encode() if isinstance(part, str) else part
            self._is_whole = True

    async def stream_response(self, send: Send) -> None:
        async with self._stack:  # closing the native stream frees its slot
            head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(head)
            async for part in self.body_iterator:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if self._is_whole:
                await send({"type": "http.response.body", "body": b"", "more_body": False})


class LocalModels:
    """The installed models that have been asked for, and their processes."""

    def __init__(self, *, idle_stop_s: float = _IDLE_STOP_S, threads: int | None = None) -> None:
        self._idle_stop_s = idle_stop_s
        self._threads = threads
        self._running: dict[str, LocalModel] = {}

    def find(self, name: object) -> LocalModel | None:
        """Return the model of this name if it is installed now."""
        installed = find_installed(name) if isinstance(name, str) else None
        if installed is None:
            return None
        known = self._running.get(installed.name)
        if known is None or known.model != installed:
            known = LocalModel(installed, idle_stop_s=self._idle_stop_s, threads=self._threads)
            self._running[installed.name] = known
        return known

    @property
    def names(self) -> list[str]:
        """The models offered now."""
        return [model.name for model in self.offered()]

    def offered(self) -> list[InstalledModel]:
        """Return what can be asked for: the file is here, and so is what runs it."""
        can_run = importlib.util.find_spec("xllamacpp") is not None
        return [model for model in list_models() if can_run and model.path.is_file()]

    async def stop(self) -> None:
        """End every process."""
        await asyncio.gather(*(model.stop() for model in self._running.values()))
