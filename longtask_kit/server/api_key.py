"""Who has the app's key, `LONGTASK_API_KEY`."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from longtask_kit.server.http_edge import BadRequestError, is_key

# Also what makes /docs offer to send the key.
_Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="The app's LONGTASK_API_KEY.")),
]


def check_bearer(
    key: str, let_guest: Callable[[Request], Awaitable[bool]] | None = None
) -> Callable[[Request, _Bearer], Awaitable[None]]:
    """Return the dependency that refuses a caller without the app's key.

    Args:
        key: The key.
        let_guest: Whether this call is open to one, too.
    """

    async def check_api_key(request: Request, bearer: _Bearer) -> None:
        if is_key(bearer.credentials if bearer else "", key):
            return
        if let_guest is None or not await let_guest(request):
            raise BadRequestError(
                "This server needs an API key: send `Authorization: Bearer <LONGTASK_API_KEY>`.",
                status_code=401,
            )

    return check_api_key
