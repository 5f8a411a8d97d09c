"""What the hosted service's plans allow, so that code can meet its limits here; pure.

Numbers: wire doc, section 8, and the documentation's rate limit page for the burst. How sizes and
delays are refused is not documented: 412 here, as for queues and schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from longtask_kit.local.qstash.errors import PlanLimitError, RateLimitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.local.qstash.message import Message

DAY_S = 86_400
# Sending has no limit of requests a second; everything else has.
_SENDING = ("/v2/publish/", "/v2/enqueue/", "/v2/batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The limits of one plan; None is no limit.

    Attributes:
        name: How the service calls it.
        messages_per_day: Messages accepted from midnight to midnight, UTC.
        message_bytes: Size of one body.
        batch_bytes: Size of a whole batch request.
        delay_s: How far ahead a message may be due.
        timeout_s: Longest `Upstash-Timeout`.
        queues: Number of queues; likewise schedules and URL groups.
        group_endpoints: Endpoints of one URL group.
        requests_per_s: Requests that send nothing, in one second.
    """

    name: str
    messages_per_day: int | None = None
    message_bytes: int | None = None
    batch_bytes: int | None = 100_000_000
    delay_s: int | None = None
    timeout_s: int | None = None
    queues: int | None = None
    schedules: int | None = None
    groups: int | None = None
    group_endpoints: int | None = None
    requests_per_s: int | None = 100

    def check_size(self, what: str, found: int, most: int | None, unit: str = "") -> None:
        """Refuse what is beyond a limit.

        Raises:
            PlanLimitError: Names the limit and the plan.
        """
        if most is not None and found > most:
            raise PlanLimitError(
                f"{what}: the {self.name} plan allows {most}{unit and ' '}{unit}, this is {found}"
            )

    def check_messages(self, messages: Sequence[Message], *, time_ms: int) -> None:
        """Refuse messages that are too large, too far ahead, or may take too long.

        Raises:
            PlanLimitError: Names the limit and the plan.
        """
        for message in messages:
            ahead_s = -(-(message.not_before_ms - time_ms) // 1000)
            self.check_size("message too large", len(message.body), self.message_bytes, "bytes")
            self.check_size("delay too long", ahead_s, self.delay_s, "s")
            self.check_size("timeout too long", message.timeout_s or 0, self.timeout_s, "s")

    def explain_spent_day(self, *, time_ms: int) -> RateLimitError:
        """Return the refusal of a message when the day's are used up."""
        reset_s = (time_ms // 1000 // DAY_S + 1) * DAY_S
        return RateLimitError(
            f"exceeded daily message limit: the {self.name} plan allows {self.messages_per_day} "
            "messages a day (UTC)",
            _rate_headers("RateLimit", self.messages_per_day or 0, reset_s),
        )


class BurstCounter:
    """Counts the requests of the present second."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._second = 0
        self._count = 0

    def check(self, path: str, *, time_s: float) -> None:
        """Count a request, unless it sends a message.

        Raises:
            RateLimitError: There were too many in this second.
        """
        most = self._plan.requests_per_s
        if most is None or path.startswith(_SENDING):
            return
        if int(time_s) != self._second:
            self._second, self._count = int(time_s), 0
        self._count += 1
        if self._count > most:
            # Without `RateLimit-Limit`: the SDKs would take it for the daily limit.
            raise RateLimitError(
                f"exceeded burst rate limit: {most} requests a second",
                _rate_headers("Burst-RateLimit", most, self._second + 1),
            )


def day_of(time_ms: int) -> str:
    """Return the UTC day that a message counts for."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")


def _rate_headers(prefix: str, most: int, reset_s: int) -> dict[str, str]:
    return {
        f"{prefix}-Limit": str(most),
        f"{prefix}-Remaining": "0",
        f"{prefix}-Reset": str(reset_s),
    }


UNLIMITED = Plan(name="unlimited", batch_bytes=None, requests_per_s=None)
PLANS = {
    "free": Plan(
        name="free",
        messages_per_day=1000,
        message_bytes=1_000_000,
        delay_s=7 * DAY_S,
        timeout_s=15 * 60,
        queues=10,
        schedules=10,
        groups=1,
        group_endpoints=100,
    ),
    "payg": Plan(name="payg", message_bytes=10_000_000, delay_s=365 * DAY_S, timeout_s=2 * 60 * 60),
}
