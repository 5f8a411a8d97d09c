"""What the queue calls: verify, run or settle, answer."""

import json
import time
from base64 import b64decode
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse
from qstash import Receiver
from qstash.errors import SignatureError as ForeignSignatureError

from longtask_kit.errors import SignatureError
from longtask_kit.log.keys import is_task_id
from longtask_kit.log.record import Busy
from longtask_kit.server.attempt import Answer, busy, refuse, run_delivery
from longtask_kit.server.http_edge import BadRequestError
from longtask_kit.server.services import Services
from longtask_kit.settings import SIGNING_NAMES, Settings, is_loopback, secret
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.traces import trace_attempt


class DeliveriesApi:
    """What the queue calls; nothing is read or written before the signature is checked."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings

    async def webhook(self, request: Request) -> JSONResponse:
        """Run the task's next attempt to its end; the answer tells the queue whether to retry."""
        arrived = time.monotonic()
        payload = await self._read_delivery(request, self._settings.webhook_url)
        task_id = payload.get("taskId")
        if not (isinstance(task_id, str) and is_task_id(task_id)):
            return _respond(refuse('The body holds no "taskId".'))
        delivery_id = request.headers.get("upstash-message-id", "")
        with trace_attempt(task_id, delivery_id, request.headers):
            return _respond(await self._run(task_id, delivery_id, arrived=arrived))

    async def failure(self, request: Request) -> JSONResponse:
        """Mark a task failed whose retries are used up, so that a reader never waits for ever."""
        payload = await self._read_delivery(request, self._settings.failure_url)
        try:
            task_id = json.loads(b64decode(payload["sourceBody"]))["taskId"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return _respond(refuse("The body holds no task: not a failure callback of ours."))
        return _respond(await self._settle_failed(str(task_id), payload))

    async def run_unsigned(
        self,
        request: Request,
        task_id: Annotated[str, Query(alias="taskId")] = "",
        prompt: str = "",
    ) -> JSONResponse:
        """Run a task without queue and signature; 405 unless `LONGTASK_DEV=1`, loopback only."""
        if not (self._settings.dev and _is_from_this_machine(request)):
            raise BadRequestError("Only with LONGTASK_DEV=1, from this machine.", status_code=405)
        if not is_task_id(task_id):
            raise BadRequestError('"taskId" must be task_ and 8 to 64 letters, digits, - or _.')
        arrived = time.monotonic()
        store = (await self._services.open()).store
        if await store.read_task(task_id) is None:
            await store.create(task_id, TaskSpec(prompt=prompt).to_wire())
        return _respond(await self._run(task_id, "development", arrived=arrived))

    async def _run(self, task_id: str, delivery_id: str, *, arrived: float) -> Answer:
        opened = await self._services.open()
        return await run_delivery(
            task_id,
            delivery_id=delivery_id,
            arrived=arrived,
            store=opened.store,
            log_writer=opened.log_writer,
            handlers=opened.handlers,
            fail_fast=self._services.fail_fast,
            limiter=opened.limiter,
            queue=opened.queue,
            max_duration_s=self._settings.max_duration_s,
        )

    async def _read_delivery(self, request: Request, url: str) -> dict[str, Any]:
        body = await request.body()
        signatures = request.headers.getlist("upstash-signature")
        if len(signatures) > 1:
            raise SignatureError("More than one Upstash-Signature header.")
        # The URL comes from the configuration: a forwarded Host header is the client's to choose.
        signature = signatures[0] if signatures else ""
        verify_signature(signature=signature, body=body, url=url, settings=self._settings)
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        return payload if isinstance(payload, dict) else {}

    async def _settle_failed(self, task_id: str, payload: dict[str, Any]) -> Answer:
        store = (await self._services.open()).store
        record = await store.read_task(task_id)
        cause = record.error if record and record.error else f"answer {payload.get('status')}"
        reason = f"All {int(payload.get('retried', 0)) + 1} deliveries failed; the last: {cause}"
        outcome = await store.settle(
            task_id,
            "failed",
            reason=reason,
            code="retries_exhausted",
            delivery_id=str(payload.get("sourceMessageId") or ""),
        )
        if isinstance(outcome, Busy):  # the queue gave up on an attempt that still streams
            return busy(task_id, outcome.left_s)
        return Answer(200, {"taskId": task_id, "status": "failed"})


def _is_from_this_machine(request: Request) -> bool:
    """Tell whether a person at this machine sent it: no proxy, no web page of somebody else's."""
    headers = request.headers
    client = request.client.host if request.client else ""
    # Behind a proxy or tunnel every caller seems local, or says so itself.
    is_direct = not {"forwarded", "x-forwarded-for", "x-real-ip"} & set(headers.keys())
    # Any page may make its visitor's browser send a GET, an <img> is enough; or, by DNS rebinding,
    # let its own name lead here.
    is_own_page = headers.get("sec-fetch-site") in (None, "none", "same-origin")
    is_own_name = is_loopback(f"//{headers.get('host', '')}")
    return client in ("127.0.0.1", "::1") and is_direct and is_own_page and is_own_name


def _respond(answer: Answer) -> JSONResponse:
    return JSONResponse(answer.body, answer.status_code, answer.headers)


def verify_signature(*, signature: str, body: bytes, url: str, settings: Settings) -> None:
    """Check that a delivery is from the queue, for this URL, with this body, and not too old.

    Args:
        signature: The `Upstash-Signature` header; empty when there was none.
        body: The raw body.
        url: The URL the queue was told to call; never taken from the request.
        settings: Holds the current and the next signing key.

    Raises:
        SignatureError: It is not. The message does not quote the signature.
    """
    if not signature:
        raise SignatureError("The Upstash-Signature header is missing.")
    keys = [getattr(settings, name.lower()) for name in SIGNING_NAMES]
    if not all(keys):
        raise SignatureError("No signing keys are configured, so no delivery can be trusted.")
    receiver = Receiver(*map(secret, keys))
    try:
        receiver.verify(signature=signature, body=body.decode(), url=url)
    except UnicodeDecodeError as exc:
        raise SignatureError("The body is not UTF-8.") from exc
    except (ForeignSignatureError, KeyError, ValueError, AttributeError, TypeError) as exc:
        # KeyError and AttributeError: the SDK reads claims that a forged token may lack.
        raise SignatureError(
            "The signature does not match: wrong key, other URL or body, or expired. "
            f"LONGTASK_BASE_URL makes the expected URL {url}"
        ) from exc
