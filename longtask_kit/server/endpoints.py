"""A handler of many model services: each task is asked of the one that its kernel gave.

For the app of the local stack, which every notebook of a user shares, and whose keys must not mix.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import SecretStr

from longtask_kit.errors import NonRetryableError
from longtask_kit.server.openai import OpenAIHandler, open_connections
from longtask_kit.server.replay import ReplayHandler

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    from longtask_kit.server.handlers import Said, TaskContext
    from longtask_kit.server.openai import Heed
    from longtask_kit.settings import Settings
    from longtask_kit.submit.endpoint import Endpoint
    from longtask_kit.submit.spec import TaskSpec

_NO_KEY = "longtask-no-key"  # the SDK wants one, also for a server that wants none


class KnownEndpoints(Protocol):
    """Where endpoints are kept."""

    def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint that is about to be used, or None when it is not there (any more)."""
        ...

    def has(self, endpoint_id: str) -> bool:
        """Tell whether it is there."""
        ...


class EndpointsHandler:
    """Asks the model service that a task names, or the app's own.

    Args:
        settings: Of the app; its own model service is in them.
        known: Those that kernels gave.
        is_own: Whether the app's own model service has a model of this name, which it then runs
            whatever endpoint a task came with.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        known: KnownEndpoints,
        is_own: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._known = known
        self._is_own = is_own
        self._heed: Heed | None = None
        self._own = OpenAIHandler(settings, heed=self._tell)
        self._opened: dict[str, _Opened] = {}

    def listen(self, heed: Heed) -> None:
        """Have somebody told status and headers of each answer, as `OpenAIHandler` tells them."""
        self._heed = heed

    def _tell(self, context: TaskContext, status: int, headers: Mapping[str, str]) -> None:
        if self._heed is not None:
            self._heed(context, status, headers)

    async def __call__(self, context: TaskContext) -> AsyncIterator[Said]:
        """Yield what the model says, as `OpenAIHandler` does.

        Raises:
            NonRetryableError: The task's endpoint is not there any more (`key_gone`); or as
                `OpenAIHandler`.
            RetryableError: As `OpenAIHandler`.
        """
        async with self._use(context.spec) as handler:
            said = cast("AsyncGenerator[Said]", handler(context))
            async with contextlib.aclosing(said):
                async for item in said:
                    yield item

    async def can_continue(self, spec: TaskSpec) -> bool:
        """Tell whether the service of a task can go on behind a text, as `OpenAIHandler` does."""
        async with self._use(spec) as handler:
            return await handler.can_continue(spec)

    async def cancel_run(self, spec: TaskSpec, place: Mapping[str, Any]) -> None:
        """End what runs for a task at its service, as `OpenAIHandler` does."""
        async with self._use(spec) as handler:
            await handler.cancel_run(spec, place)

    def replays(self, spec: TaskSpec) -> bool:
        """Tell whether a task is answered from a recording."""
        found = self._known.find(spec.endpoint) if spec.endpoint else None
        return found is not None and found.cassette is not None

    async def aclose(self) -> None:
        """Close the connections."""
        for opened in self._opened.values():
            await opened.handler.aclose()
        await self._own.aclose()

    @contextlib.asynccontextmanager
    async def _use(self, spec: TaskSpec) -> AsyncIterator[OpenAIHandler]:
        await self._forget_gone()
        endpoint_id = spec.endpoint
        endpoint = self._known.find(endpoint_id) if endpoint_id is not None else None
        is_recorded = endpoint is not None and endpoint.cassette is not None
        is_own = not is_recorded and self._is_own(spec.model or self._settings.model)
        if endpoint_id is None or is_own:
            yield self._own
            return
        if endpoint is None:
            raise NonRetryableError(
                "The model key that this task was submitted with is gone: forgotten, or unused for "
                "too long. Give it again by connect() in a kernel that has it, then retry.",
                code="key_gone",
            )
        opened = self._opened.get(endpoint_id)
        if opened is None:
            make = ReplayHandler if is_recorded else _EndpointHandler
            handler = make(self._settings, endpoint, heed=self._tell)
            opened = self._opened[endpoint_id] = _Opened(handler)
        opened.users += 1
        try:
            yield opened.handler
        finally:
            opened.users -= 1

    async def _forget_gone(self) -> None:
        """Close what nobody may use any more: a forgotten key leaves memory, too."""
        for endpoint_id, opened in list(self._opened.items()):
            if opened.users == 0 and not self._known.has(endpoint_id):
                self._opened.pop(endpoint_id, None)
                await opened.handler.aclose()


@dataclass(slots=True)
class _Opened:
    """Connections to an endpoint, and how many attempts use them."""

    handler: OpenAIHandler
    users: int = 0


class _EndpointHandler(OpenAIHandler):
    """Asks one endpoint, over its own proxy, trusting its own certificates."""

    def __init__(self, settings: Settings, endpoint: Endpoint, *, heed: Heed) -> None:
        key = SecretStr(endpoint.key or _NO_KEY)
        mine: dict[str, Any] = {"openai_api_key": key, "openai_base_url": endpoint.url}
        super().__init__(settings.model_copy(update=mine), heed=heed)
        self._endpoint = endpoint

    def _open_client(self) -> AsyncOpenAI:
        try:
            client = super()._open_client()
        except (OSError, ValueError, ImportError) as exc:
            # Its text may quote the proxy with its password.
            raise NonRetryableError(
                f"{self._endpoint.host} can't be asked as the kernel's environment says "
                f"({type(exc).__name__}): check the proxy variables and SSL_CERT_FILE there, then "
                "connect() and submit again.",
                code="config",
            ) from None
        # Set in any case: the SDK would take those of this process, which are another kernel's.
        client.organization = self._endpoint.organization
        client.project = self._endpoint.project
        return client

    def _open_connections(self) -> DefaultAsyncHttpxClient:
        endpoint = self._endpoint
        options: dict[str, Any] = {"trust_env": False, "proxy": endpoint.proxy}
        if endpoint.ca_file or endpoint.ca_folder:
            options["verify"] = _load_certificates(endpoint)
        return open_connections(options)


def _load_certificates(endpoint: Endpoint) -> ssl.SSLContext:
    import ssl

    # As httpx and openai read SSL_CERT_FILE and SSL_CERT_DIR: the first of them alone.
    folder = None if endpoint.ca_file else endpoint.ca_folder
    return ssl.create_default_context(cafile=endpoint.ca_file, capath=folder)
