"""What a caller of the queue can get wrong; each becomes an answer whose text is the message.

A MalformedRequestError is a 400, a PlanLimitError a 412, a RateLimitError a 429.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class MalformedRequestError(ValueError):
    """The request can't be understood; the message says what was expected and found."""


class DurationError(MalformedRequestError):
    """A duration such as `1d10h30m` doesn't parse or is too long."""


class ExpressionError(MalformedRequestError):
    """A retry delay expression doesn't parse, or has no finite value."""


class DestinationError(MalformedRequestError):
    """A destination or callback URL can't be delivered to."""


class HeaderError(MalformedRequestError):
    """An `Upstash-*` publish header has a value outside its range."""


class PlanLimitError(Exception):
    """The request is more than the chosen plan of the hosted service allows."""


class RateLimitError(PlanLimitError):
    """There were too many requests.

    Attributes:
        headers: By which the SDKs tell the daily limit from the burst.
    """

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers
