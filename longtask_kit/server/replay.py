"""A handler of recorded answers: asks the stack's own model service for what a cassette holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.server.handlers import Replayed
from longtask_kit.server.openai import OpenAIHandler
from longtask_kit.server.openai_chat import ChatDecoder
from longtask_kit.server.openai_continue import NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from longtask_kit.server.handlers import TaskContext
    from longtask_kit.server.openai import Heed, _Ask, _Build
    from longtask_kit.server.openai_decoder import Decoder, Piece
    from longtask_kit.settings import Settings
    from longtask_kit.submit.endpoint import Endpoint
    from longtask_kit.submit.spec import TaskSpec


class ReplayHandler(OpenAIHandler):
    """Replays what one cassette holds, failed attempts too, and says that it does.

    Which sample and which attempt are asked for is told to the stack's own service, and to no
    other: this handler asks no other.
    """

    def __init__(self, settings: Settings, endpoint: Endpoint, *, heed: Heed) -> None:
        super().__init__(settings)
        del heed  # nobody's limits are met: a refusal that it replays is an old one
        self._endpoint = endpoint

    def _make_headers(self, context: TaskContext, request: dict[str, Any]) -> dict[str, str]:
        return super()._make_headers(context, request) | {
            "X-Longtask-Cassette": quote(self._endpoint.cassette or ""),
            "X-Longtask-Speed": self._endpoint.cassette_speed or "1",
            "X-Longtask-Sample": str(context.sample),
            "X-Longtask-Attempt": str(context.attempt),
        }

    def _find_way(self, *_: object) -> str:
        return NEVER  # what a cut left is replayed from its beginning

    async def _choose_api(self, spec: TaskSpec | None) -> tuple[_Build, _Ask, type[Decoder]]:
        """Ask by chat completions, whichever API was asked when it was recorded."""
        del spec
        build, ask, _ = await super()._choose_api(None)
        return build, ask, _ReplayDecoder


class _ReplayDecoder(ChatDecoder):
    """Reads what a recording tells beyond the shape of chat completions, in `longtask`."""

    def feed(self, event: dict[str, Any]) -> Sequence[Piece] | None:
        """Return what a chunk says; see `Decoder`."""
        match event.get("longtask"):
            case {"replayed": source}:
                return (Replayed(source),)
            case {"error": error}:
                raise _make_error(error)
        return super().feed(event)


def _make_error(error: Mapping[str, Any]) -> RetryableError | NonRetryableError:
    message, code = str(error["message"]), str(error["code"])
    if error.get("is_final"):
        return NonRetryableError(message, code=code)
    return RetryableError(message, code=code, retry_after_s=error.get("retry_after_s"))
