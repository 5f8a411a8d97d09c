"""What a model service's error says, and whether another attempt may help.

Errors come as the status of an answer, or in the stream of a 200, in many shapes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from longtask_kit.errors import NonRetryableError, RetryableError, name_foreign
from longtask_kit.log.text import make_valid_text

if TYPE_CHECKING:
    from openai import OpenAIError

_MAX_TEXT = 500
# Finish reasons of answers that broke off; the longer ones are Zhipu's and DeepSeek's.
_FAILURES = ("error", "network_error", "insufficient_system_resource")
# Waiting does not fill an account, whatever the status or code beside these words.
_EMPTY_ACCOUNT = re.compile(
    r"insufficient[ _-](?:account[ _-])?(?:balance|quota|credits?|funds)|余额不足", re.IGNORECASE
)
_BUSY = re.compile(
    r"rate_?limit|too_?many|overload|unavailable|time_?out|server_?error|internal", re.IGNORECASE
)
_HOPELESS = re.compile(
    r"invalid|bad_?request|auth|permission|forbidden|not_?found|unsupported|unprocessable"
    r"|context_length|content_?(?:filter|policy)|billing|payment",
    re.IGNORECASE,
)


def map_model_error(exc: OpenAIError, key: str = "") -> RetryableError | NonRetryableError:
    """Tell whether the queue should deliver again after this error of the model service.

    Args:
        exc: What the client raised.
        key: The API key; some services quote it in their error, and it must not be stored.
    """
    import httpx2
    from openai import APIStatusError, APITimeoutError

    if isinstance(exc, APIStatusError):
        return _make_error(
            exc.body,
            intro=f"The model service answered {exc.status_code}",
            status=exc.status_code,
            code=exc.code or f"http_{exc.status_code}",
            key=key,
            retry_after_s=parse_retry_after(exc.response.headers.get("retry-after")),
        )
    # aiohttp's transport calls a connection that was closed without an answer a connect timeout.
    if isinstance(exc, APITimeoutError) and not isinstance(exc.__cause__, httpx2.ConnectTimeout):
        return silent()
    return RetryableError(
        f"The model service{_name_host(exc)} is not reachable ({name_foreign(exc)}): check "
        "OPENAI_BASE_URL, and whether it is up.",
        code="model_connection",
    )


def _name_host(exc: OpenAIError) -> str:
    """Return ` at host:port` of a call that failed; a URL's user and path may be secrets."""
    url = getattr(getattr(exc, "request", None), "url", None)
    if url is None or not url.host:
        return ""
    return f" at {url.host}" + (f":{url.port}" if url.port else "")


def map_stream_error(
    error: object, key: str = "", *, is_midway: bool = True
) -> RetryableError | NonRetryableError:
    """Tell the same of an error that came in the stream of a 200.

    Args:
        error: As `find_error` returned it.
        key: The API key, as in `map_model_error`.
        is_midway: Whether something of the answer had come before.
    """
    code = _read_code(error)
    status = _read_status(error)
    return _make_error(
        error,
        intro="The model failed mid-stream" if is_midway else "The model service told of an error",
        status=status,
        code=code if code and not code.isdigit() else f"http_{status}" if status else "model_error",
        key=key,
    )


def find_error(event: dict[str, Any]) -> object:
    """Return what a stream's object says went wrong, or None.

    Services put an error below `error`, below a choice, or at the top without that name.
    """
    if error := event.get("error"):
        return error if isinstance(error, dict | str) else event
    if event.get("object") == "error" or event.get("type") == "error":
        return event
    if choices := event.get("choices"):
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            return None  # not a chunk either
        is_error = choice.get("finish_reason") in _FAILURES
        return choice.get("error") or (choice if is_error else None)
    if event.get("errors") or event.get("detail") or (_read_status(event) and event.get("message")):
        return event
    return None


def no_answer(beginning: str, content_type: str, key: str) -> RetryableError | NonRetryableError:
    """Return the error of a 200 that held no answer.

    Args:
        beginning: What it began with, that was neither an answer nor an error.
        content_type: The header.
        key: The API key, as in `map_model_error`.
    """
    kind = content_type.partition(";")[0].strip()
    is_stream = kind in ("", "text/event-stream")
    intro = (
        "The model's stream held no answer"
        if is_stream
        else f"The model service answered with {kind} instead of a stream"
    )
    if not beginning:
        return RetryableError(f"{intro}, and ended.", code="model_connection")
    return _make_error(beginning, intro=intro, status=None, code="model_protocol", key=key)


def silent() -> RetryableError:
    """Return the error of a model that said nothing for too long."""
    return RetryableError("The model was silent for too long.", code="model_timeout")


def parse_retry_after(value: str | None) -> float | None:
    """Return seconds of a `Retry-After` header, or None for a date or nothing usable."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86_400 else None


def _make_error(
    body: object,
    *,
    intro: str,
    status: int | None,
    code: str,
    key: str,
    retry_after_s: float | None = None,
) -> RetryableError | NonRetryableError:
    text = _error_text(body, key)
    if code == "insufficient_quota" or _EMPTY_ACCOUNT.search(text):
        return NonRetryableError(f"{intro}: {text}", code="insufficient_quota")
    if _is_hopeless(status, code, body):
        return NonRetryableError(f"{intro}: {text}", code=code)
    return RetryableError(f"{intro}: {text}", code=code, retry_after_s=retry_after_s)


def _is_hopeless(status: int | None, code: str, body: object) -> bool:
    """Whether no other attempt can help: by the status, and without one by the error's words."""
    if status is not None:
        return status not in (408, 409, 429) and status < 500
    kind = body.get("type") if isinstance(body, dict) else None
    words = f"{code} {kind}"
    return not _BUSY.search(words) and bool(_HOPELESS.search(words))


def _read_code(error: object) -> str | None:
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if code is None or isinstance(code, dict | list | bool):
        return None
    return make_valid_text(str(code))[:100] or None


def _read_status(error: object) -> int | None:
    """Return the HTTP status that an error object names, if it does."""
    if not isinstance(error, dict):
        return None
    for name in ("status_code", "code", "status"):
        value = error.get(name)
        if type(value) is int or (isinstance(value, str) and re.fullmatch(r"[45]\d\d", value)):
            number = int(value)
            if 400 <= number <= 599:
                return number
    return None


def _error_text(body: object, key: str = "") -> str:
    """Return the readable part of an error body."""
    text = make_valid_text(_find_text(body))
    # Redact first: a cut key still leaks.
    return (text.replace(key, "***") if key else text)[:_MAX_TEXT]


def _find_text(body: object) -> str:
    if body is None:
        return "no explanation"
    if not isinstance(body, dict):
        return body if isinstance(body, str) else _to_json(body)
    for name in ("error", "message", "detail", "errors"):
        inner = body.get(name)
        if isinstance(inner, str | dict | list) and inner:
            text = _find_text(inner)
            break
    else:
        return _to_json(body)
    # A router's own words say nothing; the provider's stand below them.
    metadata = body.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{text}: {raw}" if isinstance(raw, str) and raw else text


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
