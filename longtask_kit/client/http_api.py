"""The HTTP API of a webhook app, called from a kernel that has no cloud secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from httpx_sse import SSEError, aconnect_sse

from longtask_kit.client.http_groups import HttpGroups
from longtask_kit.errors import (
    ConfigError,
    QuotaError,
    StoreError,
    StreamError,
    SubmitError,
    describe_foreign,
    name_foreign,
)
from longtask_kit.log.events import START, Cursor, TaskEvent, decode_frame
from longtask_kit.log.keys import is_task_id
from longtask_kit.log.news import SSE_TIMEOUT, check_answer, choose_error
from longtask_kit.log.record import TaskRecord
from longtask_kit.log.subscribe import EventSource, expired
from longtask_kit.submit.spec import MAX_OPEN_BODY_BYTES
from longtask_kit.submit.tasks import NextTry
from longtask_kit.transport import TRANSPORT_ERRORS, open_client, tell_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import httpx

    from longtask_kit.client.backend import GroupBackend
    from longtask_kit.log.events import Status
    from longtask_kit.submit.spec import TaskSpec
    from longtask_kit.submit.tasks import CancelAnswer


class HttpBackend:
    """A webhook app's HTTP API: no cloud secret in the notebook.

    Args:
        base_url: What the app has as `LONGTASK_BASE_URL`.
        api_key: What it has as `LONGTASK_API_KEY`, if it has one.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._base_url = base_url.rstrip("/")
        self._client = open_client(base_url, headers=headers, timeout=30.0)
        self._source = HttpSource(self._base_url, self._client)

    @property
    def source(self) -> EventSource:
        """See `Backend`."""
        return self._source

    async def submit(self, spec: TaskSpec, *, task_id: str | None = None) -> tuple[str, str]:
        """See `Backend`."""
        answer = await self._call("POST", "/api/tasks/start", json=spec.to_wire())
        return answer["taskId"], answer["messageId"]

    async def read(self, task_id: str) -> TaskRecord:
        """See `Backend`."""
        if not is_task_id(task_id):
            raise expired(task_id)
        return TaskRecord.from_wire(await self._call("GET", f"/api/tasks/{task_id}"))

    async def read_input(self, task_id: str) -> dict[str, Any]:
        """See `Backend`."""
        if not is_task_id(task_id):
            raise expired(task_id)
        answer = await self._call("GET", f"/api/tasks/{task_id}/input", holds="input")
        return dict(answer["input"])

    async def list(self, *, limit: int, status: Status | None) -> Sequence[TaskRecord]:
        """See `Backend`."""
        params = {"limit": limit} | ({"status": status} if status else {})
        answer = await self._call("GET", "/api/tasks", holds="tasks", params=params)
        return [TaskRecord.from_wire(wire) for wire in answer["tasks"]]

    async def cancel(self, task_id: str) -> CancelAnswer:
        """See `Backend`."""
        answer = await self._call("POST", "/api/tasks/cancel", json={"taskId": task_id})
        # `running` is the word of a version before.
        status: CancelAnswer = "cancelling" if answer["status"] == "running" else answer["status"]
        return status

    async def retry(self, task_id: str, *, retry_id: str = "") -> str:
        """See `Backend`."""
        answer = await self._call("POST", "/api/tasks/retry", json={"taskId": task_id})
        return str(answer.get("messageId") or "")

    async def find_next_try(self, task_id: str) -> NextTry:
        """See `Backend`."""
        return NextTry.from_wire(await self._call("GET", f"/api/tasks/{task_id}/next-try"))

    async def try_now(self, task_id: str) -> bool:
        """See `Backend`."""
        answer = await self._call("POST", "/api/tasks/try-now", json={"taskId": task_id})
        return bool(answer["isTried"])

    @property
    def groups(self) -> GroupBackend:
        """See `Backend`."""
        return HttpGroups(self._call)

    async def delete(self, task_id: str) -> None:
        """See `Backend`."""
        await self._call("DELETE", f"/api/tasks/{task_id}")

    async def read_health(self) -> dict[str, Any]:
        """Return what the app says of itself and of the services behind it."""
        return await self._call("GET", "/api/health", holds="services")

    async def aclose(self) -> None:
        """See `Backend`."""
        await self._client.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        holds: str = "taskId",
        **request: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        """Return the app's answer, which has the key `holds`, or raise what it says."""
        url = self._base_url + path
        asked = self._client.build_request(method, url, **request)
        self._check_size(asked)
        try:
            response = await self._client.send(asked)
        except TRANSPORT_ERRORS as exc:
            raise StoreError(
                f"{self._base_url} is not reachable{tell_proxy(self._base_url)} "
                f"({name_foreign(exc)}); is the webhook app up?"
            ) from exc
        answer = _read_json_object(response)
        if response.is_success and holds in answer:
            return answer
        raise _error_for(response, answer, url)

    def _check_size(self, asked: httpx.Request) -> None:
        """Refuse what the app would: megabytes are not sent to be told that they are too many."""
        size = len(asked.content)
        if size > MAX_OPEN_BODY_BYTES and "Authorization" not in asked.headers:
            raise SubmitError(
                f"The request has {size:,} bytes, and without its key {self._base_url} takes "
                f"{MAX_OPEN_BODY_BYTES:,} at most: give connect(…, api_key=…), shorten what is "
                "asked, or give a large file by its URL."
            )


def _read_json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_for(response: httpx.Response, answer: dict[str, Any], url: str) -> Exception:
    is_ours = isinstance(answer.get("error"), str)
    message = f"{url}: {answer.get('error') or f'answered {response.status_code}'}"
    foreign = (
        f"{url} answered {response.status_code}, and not as a longtask_kit app does: expected one "
        "there. Check the URL, its scheme, and the prefix that the app is mounted under."
    )
    match response.status_code:
        case 401 | 403 if is_ours:
            return ConfigError(message)
        case 404 if "taskId" in answer:
            return expired(str(answer["taskId"]))
        case 429:
            return QuotaError(message)
        case 400 | 413 | 502 if is_ours:
            return SubmitError(message)
        case status_code if status_code < 500 or status_code == 501:
            # A success without what we asked for, a redirect, somebody else's 404.
            return ConfigError(foreign)
        case _:
            return StoreError(message if is_ours else foreign)


class HttpSource:
    """Events from a webhook app's own `GET /api/tasks/stream`, which replays by itself."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self._url = f"{base_url}/api/tasks/stream"
        self._client = client

    async def open(self, task_id: str, *, after: Cursor) -> AsyncIterator[TaskEvent]:
        """See `EventSource.open`."""
        headers = {} if after == START else {"Last-Event-ID": str(after)}
        try:
            async with aconnect_sse(
                self._client,
                "GET",
                self._url,
                params={"taskId": task_id},
                headers=headers,
                timeout=SSE_TIMEOUT,
            ) as source:
                if source.response.status_code == 204:
                    return
                if source.response.status_code == 404:
                    raise expired(task_id, cursor=after)
                await check_answer(source.response, "api_key")
                source.response.encoding = "utf-8"  # as SSE is; a server may name any codec
                async for frame in source.aiter_sse():
                    # Not a comment behind a frame with an id, nor what somebody else put in.
                    if frame.data and frame.event == "message":
                        yield decode_frame(frame.data, frame.id)
        except (*TRANSPORT_ERRORS, SSEError, ValueError) as exc:
            raise choose_error(exc)(
                f"The event stream was lost: {describe_foreign(exc)}",
                task_id=task_id,
                cursor=str(after),
            ) from exc
        raise StreamError(
            f"The event stream was closed by {self._url}.", task_id=task_id, cursor=str(after)
        )
