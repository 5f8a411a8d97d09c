"""The routers of the front ends that an app has: who may call them, and whose ids are whose."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request, params

from longtask_kit.errors import ConfigError
from longtask_kit.server.api_key import check_bearer
from longtask_kit.server.front_ends.ag_ui_routes import create_ag_ui_router
from longtask_kit.server.front_ends.ai_sdk import can_reset
from longtask_kit.server.front_ends.ai_sdk_routes import EXPOSED_HEADERS, create_ai_sdk_router
from longtask_kit.server.front_ends.intake import Intake
from longtask_kit.server.front_ends.openai_routes import create_openai_router
from longtask_kit.server.http_edge import BadRequestError
from longtask_kit.server.services import Services

FRONT_ENDS = ("ag_ui", "ai_sdk", "responses")
"""Their names."""

Owner = Callable[..., str | Awaitable[str]]
"""A FastAPI dependency that says who calls."""


@dataclass(frozen=True, slots=True)
class FrontEnds:
    """Which front ends an app has, and how.

    Args:
        names: Of `FRONT_ENDS`.
        owner: Says whose a call's tasks are; None: everybody's who has the key.
        ai_sdk: The version of npm's `ai` in the page, or "".
        allow_system: Whether a page's history may hold system messages.

    Raises:
        ConfigError: There is no front end of such a name, or no such version.
    """

    names: Sequence[str] = ()
    owner: Owner | None = None
    ai_sdk: str = ""
    allow_system: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ConfigError(f"front_ends must be a list of names, as in [{self.names!r:.40}].")
        for name in self.names:
            if name not in FRONT_ENDS:
                known = ", ".join(FRONT_ENDS)
                raise ConfigError(f"There is no front end {str(name)[:40]!r}: expected {known}.")
        try:
            can_reset(self.ai_sdk)
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"ai_sdk: {exc}.") from exc

    @property
    def allowed_headers(self) -> list[str]:
        """What an allowed page may send: the SDKs have a dozen of their own."""
        return ["*"] if self.names else []

    @property
    def exposed_headers(self) -> list[str]:
        """What an allowed page may read; an SDK that is not told the second runs a task twice."""
        return ["x-request-id", "x-should-retry", *EXPOSED_HEADERS] if self.names else []


NO_FRONT_ENDS = FrontEnds()


def create_front_end_routers(
    front_ends: FrontEnds,
    services: Services,
    key: str,
    dependencies: Sequence[params.Depends],
) -> list[APIRouter]:
    """Return a router for each front end.

    Args:
        front_ends: Which.
        services: Of the app.
        key: What every call needs, or "".
        dependencies: As in `create_router`.
    """
    owner = front_ends.owner
    intake = Intake(services, key=key, has_owners=owner is not None)
    gates = [
        *([Depends(check_bearer(key))] if key else []),
        *dependencies,
        *([] if owner is None else [Depends(_note_owner(owner))]),
    ]
    model = services.settings.model
    routers = []
    if "ag_ui" in front_ends.names:
        routers.append(
            create_ag_ui_router(
                intake,
                key=key,
                model=model,
                allow_system=front_ends.allow_system,
                dependencies=gates,
            )
        )
    if "ai_sdk" in front_ends.names:
        routers.append(
            create_ai_sdk_router(
                intake,
                key=key,
                origins=services.settings.allowed_origins,
                version=front_ends.ai_sdk,
                allow_system=front_ends.allow_system,
                dependencies=gates,
            )
        )
    if "responses" in front_ends.names:
        routers.append(create_openai_router(intake, key=key, model=model, dependencies=gates))
    return routers


def _note_owner(owner: Owner) -> Callable[..., Awaitable[None]]:
    async def note_owner(
        request: Request,
        who: Any = Depends(owner),  # noqa: ANN401, B008 - FastAPI's way; the app's own value
    ) -> None:
        if not isinstance(who, str) or not who:
            raise BadRequestError("This app could not tell who you are.", status_code=401)
        request.state.longtask_owner = who

    return note_owner
