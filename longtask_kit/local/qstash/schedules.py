"""Schedules: what is sent when, and their cron expressions; pure.

A schedule keeps the publish headers as they came, and reads them again at each turn.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import secrets
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cronsim import CronSim, CronSimError

from longtask_kit.local.qstash.errors import HeaderError
from longtask_kit.local.qstash.message import Message, check_name, parse_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CRON = re.compile(r"(?:CRON_TZ=(\S{1,64})\s+)?(\S+(?:\s+\S+){4})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as it was made."""

    schedule_id: str
    destination: str
    cron: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    created_at_ms: int
    caller_ip: str | None
    queue_name: str | None

    def dump(self) -> str:
        """Return the schedule as JSON, for storage."""
        fields = dataclasses.asdict(self) | {"body": base64.b64encode(self.body).decode()}
        return json.dumps(fields)

    @classmethod
    def load(cls, record: str) -> Schedule:
        """Return the schedule that `dump` wrote."""
        fields = json.loads(record)
        fields["body"] = base64.b64decode(fields["body"])
        fields["headers"] = [(name, value) for name, value in fields["headers"]]
        return cls(**fields)

    def example(self) -> Message:
        """Return a message as this schedule sends them, to read the options off.

        Raises:
            MalformedRequestError: A header's value is out of range.
        """
        return parse_message(
            self.headers,
            message_id="",
            url=self.destination,
            body=self.body,
            now_ms=self.created_at_ms,
            caller_ip=self.caller_ip,
            queue_name=self.queue_name,
        )


def parse_schedule(
    headers: Iterable[tuple[str, str]],
    *,
    destination: str,
    body: bytes,
    time_ms: int,
    caller_ip: str | None,
) -> Schedule:
    """Return the schedule that publish headers describe.

    Raises:
        MalformedRequestError: A header is missing or out of range; the message names it.
    """
    given = list(headers)
    options = {name.lower(): value.strip() for name, value in given}
    cron = options.get("upstash-cron", "")
    next_time_ms(cron, after_ms=time_ms)
    schedule_id = options.get("upstash-schedule-id") or f"scd_{secrets.token_hex(14)}"
    queue_name = options.get("upstash-queue-name") or None
    if queue_name is not None:
        check_name(queue_name, what="queue name")
    schedule = Schedule(
        schedule_id=check_name(schedule_id, what="schedule id"),
        destination=destination,
        cron=cron.strip(),
        # A moment makes no sense for what comes again and again; the delay counts for each.
        headers=[pair for pair in given if pair[0].lower() not in _NOT_KEPT],
        body=body,
        created_at_ms=time_ms,
        caller_ip=caller_ip,
        queue_name=queue_name,
    )
    schedule.example()
    return schedule


def next_time_ms(cron: str, *, after_ms: int) -> int:
    """Return the next time of a five-field cron expression, in unix ms.

    Args:
        cron: In UTC, or in the zone of a `CRON_TZ=<IANA name>` before it.
        after_ms: The time is later than this, in unix ms.

    Raises:
        HeaderError: The expression isn't one, or its time never comes.
    """
    match = _CRON.fullmatch(cron.strip())
    if match is None:
        raise HeaderError(
            "invalid Upstash-Cron: expected five fields such as */5 * * * *, with or without "
            f"CRON_TZ=<zone> before them, got {cron[:80]!r}"
        )
    zone_name, fields = match.groups()
    try:
        zone = zoneinfo.ZoneInfo(zone_name) if zone_name else UTC
        after = datetime.fromtimestamp(after_ms / 1000, tz=zone)
        return round(next(CronSim(fields, after)).timestamp() * 1000)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise HeaderError(f"invalid Upstash-Cron: unknown time zone {zone_name!r}") from exc
    except CronSimError as exc:
        raise HeaderError(f"invalid Upstash-Cron {cron[:80]!r}: {exc}") from exc
    except StopIteration as exc:
        raise HeaderError(f"invalid Upstash-Cron {cron[:80]!r}: that time never comes") from exc


def delay_of(message: Message) -> int | None:
    """Return the seconds a message was to be delayed, None for none."""
    delay = timedelta(milliseconds=message.not_before_ms - message.created_at_ms)
    return round(delay.total_seconds()) or None


_NOT_KEPT = (
    "authorization",
    "upstash-cron",
    "upstash-deduplication-id",
    "upstash-content-based-deduplication",
    "upstash-not-before",
    "upstash-queue-name",
    "upstash-schedule-id",
)
