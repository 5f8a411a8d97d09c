"""Everything the kit raises: one tree, grouped by what the caller can do.

```
LongTaskError
├── ConfigError            set or correct a setting
├── SubmitError            nothing was queued: correct the input or submit again
│   └── QuotaError         wait, or raise the plan's limit
├── SignatureError         not from the queue: refuse it
├── TaskFailedError        the task ended without a result
├── TaskCancelledError     somebody cancelled the task
├── TaskTimeoutError       it still runs: wait longer, or attach later
├── StreamError            the task may be fine, reading it is not
│   ├── StreamSilentError  no service answered for too long: attach again
│   └── StreamExpiredError unknown task, or its log is gone
├── StoreError             Redis did not answer as it should: try again
│   └── StoreRefusedError  it answered, and refused a command: see what it says
├── RetryableError         raised by a handler: run the task again later
├── NonRetryableError      raised by a handler: running it again can't help
└── LocalStackError        the embedded stack could not start or died
```

Foreign exceptions (httpx, httpx2, openai, qstash, upstash_redis, redis, jwt) stop at the module
that called them and are the `__cause__` of one of these.
"""

from __future__ import annotations

from typing import Any


class LongTaskError(Exception):
    """Base of every error of the kit; `str()` says what was expected, found, and what to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and facts, since most constructors want keywords."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class ConfigError(LongTaskError):
    """A setting is missing or wrong; the message names it and where to get it."""


class SubmitError(LongTaskError):
    """The task was not queued; nothing will run.

    Attributes:
        task_id: The id the task would have had, or None when the input was refused before.
    """

    def __init__(self, message: str, *, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class QuotaError(SubmitError):
    """The queue refused the message because a plan's limit is reached."""


class SignatureError(LongTaskError):
    """A delivery is not provably from the queue; nothing was read or written for it."""


class _TaskEndedError(LongTaskError):
    """What the two unhappy ends of a task share."""

    def __init__(self, message: str, *, task_id: str, partial_text: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.partial_text = partial_text


class TaskFailedError(_TaskEndedError):
    """The task ended as failed.

    Attributes:
        task_id: The task.
        code: Short reason, e.g. `invalid_api_key` or `retries_exhausted`.
        attempt: The attempt that failed last.
        partial_text: What the last attempt had streamed.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str,
        code: str = "",
        attempt: int = 0,
        partial_text: str = "",
    ) -> None:
        super().__init__(message, task_id=task_id, partial_text=partial_text)
        self.code = code
        self.attempt = attempt


class TaskCancelledError(_TaskEndedError):
    """The task was cancelled; `partial_text` holds what it had streamed."""


class TaskTimeoutError(LongTaskError, TimeoutError):
    """The task did not end within the time given; it goes on running.

    Attributes:
        task_id: The task.
        partial_text: What it had streamed so far.
    """

    def __init__(self, message: str, *, task_id: str, partial_text: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.partial_text = partial_text


class StreamError(LongTaskError):
    """The events can't be read; the task itself may be fine.

    Attributes:
        task_id: The task.
        cursor: The last cursor that was read, as `<attempt>-<seq>`; continue after it.
    """

    def __init__(self, message: str, *, task_id: str, cursor: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.cursor = cursor


class StreamSilentError(StreamError):
    """Nothing could be read for longer than the limit; attach again once the service is back."""


class StreamExpiredError(StreamError):
    """No such task: the id is wrong, or its log outlived `LONGTASK_TTL_S`."""


class StoreError(LongTaskError):
    """Redis could not be reached, or answered something unexpected."""


class StoreRefusedError(StoreError):
    """Redis answered, and refused a command; the message holds its text."""


class RetryableError(LongTaskError):
    """A handler's way to say: this attempt failed, a later one may succeed.

    Attributes:
        code: Short reason.
        retry_after_s: Seconds to wait before the next attempt, or None for the queue's backoff.
    """

    def __init__(
        self, message: str, *, code: str = "error", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class NonRetryableError(LongTaskError):
    """A handler's way to say: no later attempt can succeed either.

    Attributes:
        code: Short reason.
    """

    def __init__(self, message: str, *, code: str = "error") -> None:
        super().__init__(message)
        self.code = code


class LocalStackError(LongTaskError):
    """The embedded stack could not start, or died; the message says the cure."""


def describe_foreign(exc: BaseException) -> str:
    """Return a foreign exception's type and text, where the text is safe to show.

    httpx quotes the whole header value, token and all, when a header is not valid. Its transport
    through aiohttp calls a refused connection a timeout; aiohttp's own error says what it was.
    """
    if exc.__cause__ is not None and type(exc.__cause__).__module__.startswith("aiohttp"):
        exc = exc.__cause__
    name = type(exc).__name__
    if name == "LocalProtocolError":
        return f"{name}: a token or URL holds a character that HTTP does not allow"
    return f"{name}: {str(exc)[:200]}" if str(exc) else name


def _rebuild(kind: type[LongTaskError], message: str, facts: dict[str, Any]) -> LongTaskError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(facts)
    return error


_CURES = {
    "invalid_api_key": "Check OPENAI_API_KEY where the webhook app runs, then retry.",
    "insufficient_quota": "The model service's account is empty: top it up, then retry.",
    "model_not_found": "Choose a model that the service offers.",
    "rate_limit_exceeded": "The model service is busy: retry later, or use another model.",
    "model_timeout": "The model was silent for too long: retry, or raise LONGTASK_MODEL_TIMEOUT_S.",
    "model_connection": "The connection to the model broke: retry; check OPENAI_BASE_URL.",
    "retries_exhausted": "Every delivery failed: mend the cause above, then retry.",
    "unknown_handler": "Name a handler that the webhook app was created with.",
    "not_queued": "Check QSTASH_TOKEN and QSTASH_URL, or run `longtask doctor`; then submit again.",
    "lost": "See that the queue can reach LONGTASK_BASE_URL (`longtask doctor`), then retry.",
    "config": "Set what is missing where the webhook app runs; `longtask doctor` names it.",
    "handler_error": "Mend the handler; its traceback is in the webhook app's log.",
}


_DEFAULT = "`longtask doctor` checks every setting and service; then retry."


def find_cure(code: str | None) -> str:
    """Return one sentence that says what to do about a failure."""
    return _CURES.get(code or "", _DEFAULT)
