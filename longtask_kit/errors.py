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
├── TaskIncompleteError    it completed, its answer did not: see `.finish_reason`
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

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class LongTaskError(Exception):
    """Base of every error of the kit; `str()` says what was expected, found, and what to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and facts, since most constructors want keywords."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))

    def _render_traceback_(self) -> list[str]:
        """Return the traceback as IPython shows it, up to the last line that is not ours.

        IPython asks an error for it (InteractiveShell.showtraceback). The message says what went
        wrong; which of our lines found it, and what a library below them said, helps nobody there.
        """
        renderer = sys.modules["IPython"].get_ipython().InteractiveTB  # who asks is there
        cause, self.__cause__ = self.__cause__, None
        is_quiet, self.__suppress_context__ = self.__suppress_context__, True
        try:
            lines: list[str] = renderer.structured_traceback(
                type(self), self, _cut_ours(self.__traceback__), tb_offset=renderer.tb_offset
            )
        finally:
            self.__cause__, self.__suppress_context__ = cause, is_quiet
        return lines


class ConfigError(LongTaskError):
    """A setting is missing or wrong; the message names it and where to get it.

    Attributes:
        wrong: What is wrong with each of the settings, by its environment name.
    """

    def __init__(self, message: str, *, wrong: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.wrong = dict(wrong or {})


class SubmitError(LongTaskError):
    """The task was not queued; nothing will run.

    Attributes:
        task_id: The id the task would have had, or None when the input was refused before.
        field: The value that was refused, as the message names it, or None.
        meant: The one to give instead, as the message names it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        task_id: str | None = None,
        field: str | None = None,
        meant: str | None = None,
    ) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.field = field
        self.meant = meant


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


class TaskIncompleteError(LongTaskError):
    """The task completed, its answer did not: it was cut off, filtered, refused, or calls tools.

    Attributes:
        task_id: The task.
        finish_reason: The model's own word: `length`, `content_filter`, `tool_calls`, `refusal`, …
        partial_text: What it said.
    """

    def __init__(
        self, message: str, *, task_id: str, finish_reason: str, partial_text: str = ""
    ) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.finish_reason = finish_reason
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
    if is_untrusted(exc):
        return _UNTRUSTED
    exc = _find_first(exc)
    name = type(exc).__name__
    if name == "LocalProtocolError":
        return f"{name}: a token or URL holds a character that HTTP does not allow"
    return f"{name}: {str(exc)[:200]}" if str(exc) else name


def name_foreign(exc: BaseException) -> str:
    """Return the same of one whose text may not be shown: its type alone."""
    return _UNTRUSTED if is_untrusted(exc) else type(_find_first(exc)).__name__


def is_untrusted(exc: BaseException | None) -> bool:
    """Tell whether it is about a certificate that this machine does not trust."""
    while exc is not None:
        if "CERTIFICATE_VERIFY" in str(exc):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


_UNTRUSTED = (
    "this machine does not trust its certificate, as behind a company's proxy: write the CA of "
    "that proxy, in PEM form, into a file and set SSL_CERT_FILE to it"
)


def _find_first(exc: BaseException) -> BaseException:
    """Return aiohttp's error, where the others are made of one."""
    cause: BaseException | None = exc
    while cause is not None and not type(cause).__module__.startswith("aiohttp"):
        cause = cause.__cause__
    return exc if cause is None else cause


# The last two stand between ours, where a call waits for another thread.
_OURS = ("longtask_kit.", "concurrent.futures.", "asyncio.")


def _cut_ours(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this package that it ends with."""
    frames: list[TracebackType] = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    while frames and frames[-1].tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        frames.pop()
    cut: TracebackType | None = None
    for frame in reversed(frames):
        cut = TracebackType(cut, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return cut


def _rebuild(kind: type[LongTaskError], message: str, facts: dict[str, Any]) -> LongTaskError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(facts)
    return error


def ask_whether(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'demo'?)` for a name that is nearly one of those, else nothing."""
    near = find_nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return which of the names somebody may have meant, or None."""
    from difflib import get_close_matches  # rarely needed

    return next(iter(get_close_matches(name, [*known], 1)), None)


_CURES = {
    "invalid_api_key": (
        "Check OPENAI_API_KEY where the webhook app runs, then retry; with the local stack, "
        "correct it where you connect(), and submit again."
    ),
    "key_gone": "Give the key again by connect() in a kernel that has it, then retry.",
    "insufficient_quota": "The model service's account is empty: top it up, then retry.",
    "model_not_found": "Choose a model that the service offers.",
    "rate_limit_exceeded": "The model service is busy: retry later, or use another model.",
    "model_timeout": "The model was silent for too long: retry, or raise LONGTASK_MODEL_TIMEOUT_S.",
    "model_connection": "The connection to the model broke: retry once the service answers.",
    "model_protocol": "What answers at OPENAI_BASE_URL gave no chat completion: check it, retry.",
    "model_error": "The model service failed while it answered: retry, or use another model.",
    "retries_exhausted": "Every delivery failed: mend the cause above, then retry.",
    "unknown_handler": "Or name a handler that the webhook app was created with.",
    "not_queued": "Check QSTASH_TOKEN and QSTASH_URL, or run `longtask doctor`; then submit again.",
    "timeout": "Raise or leave out timeout_s and submit again; a retry has as long as it had.",
    "lost": "See that the queue can reach LONGTASK_BASE_URL (`longtask doctor`), then retry.",
    "config": "Set what is missing where the webhook app runs; `longtask doctor` names it.",
    "handler_error": "Mend the handler; its traceback is in the webhook app's log.",
}


_DEFAULT = "`longtask doctor` checks every setting and service; then retry."


def add_cure(text: str | None, code: str | None) -> str:
    """Return what went wrong with a task that failed, as a sentence, and what to do about that."""
    text = (text or "It does not say why").rstrip()
    text += "" if text[-1:] in tuple(".!?…:") else "."
    return f"{text} {_CURES[code]}" if code in _CURES else text


def find_cure(code: str | None) -> str:
    """Return one sentence that says what to do about a failure."""
    return _CURES.get(code or "", _DEFAULT)
