"""A line for each stage of a task's way, to `logging`: as text, or with its fields as JSON.

The stages are `submit`, `delivery`, `attempt`, `first_token`, `end`. No line holds anything of what
was asked or answered, nor an error's words: a log is read by more people than a task is.
"""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

Stage = Literal["submit", "delivery", "attempt", "first_token", "end"]

LogForm = Literal["off", "text", "json"]
"""What `LONGTASK_LOG` says: whether the kit writes its log to stderr by itself, and how."""

_package = logging.getLogger("longtask_kit")
_logger = logging.getLogger(__name__)
_delivered: ContextVar[str] = ContextVar("delivered", default="")


def tell_delivery(task_id: str, message_id: str) -> None:
    """Log a delivery, whose message all that follows from it in this context names, too."""
    _delivered.set(message_id)
    tell("delivery", task_id)


def tell(
    stage: Stage,
    task_id: str,
    *,
    attempt: int | None = None,
    message_id: str = "",
    **more: str | float | None,
) -> None:
    """Log a stage at INFO; a record's `longtask` holds its fields.

    Args:
        stage: Which.
        task_id: The task.
        attempt: Its number, 1, 2, …; None before there is one.
        message_id: The queue's; "" is the delivery's that is under way, if one is.
        more: Other fields, in camelCase; what is None or "" is left out.
    """
    if not _logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "taskId": task_id,
        "attempt": attempt,
        "messageId": message_id or _delivered.get(),
        **more,
    }
    known = {name: value for name, value in fields.items() if value not in (None, "")}
    fields = {"stage": stage, **known}
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    _logger.info("%s", words, extra={"longtask": fields})


class JsonFormatter(logging.Formatter):
    """One line of JSON a record: `time` (UTC), `level`, `logger`, `message`, the stage's own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback stands in `exception`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "longtask", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _OwnHandler(logging.StreamHandler):  # type: ignore[type-arg]  # its stream's
    """The handler that is ours, so that it is added once."""


def write_log(form: LogForm) -> None:
    """Write the kit's log to stderr from now on; with `off` that is left to the host's logging."""
    if form == "off" or any(isinstance(handler, _OwnHandler) for handler in _package.handlers):
        return
    handler = _OwnHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    _package.addHandler(handler)
    _package.propagate = False  # a host's own handler would write each line again
    for logger in (_package, _logger):
        logger.setLevel(logging.INFO)
