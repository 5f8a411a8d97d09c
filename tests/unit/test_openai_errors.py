"""What the errors of a model service mean for the queue."""

import importlib
import re
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from longtask_kit.errors import NonRetryableError, RetryableError
from longtask_kit.server.openai_errors import map_model_error, parse_retry_after


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("0.5", 0.5),
        (" 5 ", 5.0),
        ("86400", 86_400.0),
        ("86401", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_nothing(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value) == expected


STATUS_ERRORS = {
    "APIStatusError": 418,
    "AuthenticationError": 401,
    "BadRequestError": 400,
    "ConflictError": 409,
    "InternalServerError": 500,
    "NotFoundError": 404,
    "OAuthError": 401,
    "PermissionDeniedError": 403,
    "RateLimitError": 429,
    "UnprocessableEntityError": 422,
}
TIMEOUTS = {"APITimeoutError"}
UNREACHABLE = {"APIConnectionError"}
# Chat completions read as raw bytes raise none of these; retrying them is the cautious answer.
NEVER_SEEN = {
    "APIError",
    "APIRemovedInV1",
    "APIResponseValidationError",
    "AgentFilePreparationError",
    "AgentFileStagingError",
    "AgentOutputParseError",
    "AgentTurnResultError",
    "ContentFilterFinishReasonError",
    "LengthFinishReasonError",
    "MissingDependencyError",
    "MutuallyExclusiveAuthError",
    "OpenAIError",
    "StreamAlreadyConsumed",
    "SubjectTokenProviderError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "_AmbiguousModuleClientUsageError",
}


def import_what_defines_errors() -> None:
    """Import every module of openai whose source derives a class from one of its errors."""
    root = Path(openai.__file__).parent
    classes = [
        (match[1], re.findall(r"\w+", match[2]), path)
        for path in root.rglob("*.py")
        if {"types", "resources"}.isdisjoint(path.relative_to(root).parts)
        for match in re.finditer(r"^class (\w+)\(([^)]*)\)", path.read_text("utf-8"), re.MULTILINE)
    ]
    known: set[str] = {"OpenAIError"}
    while found := {c for c in classes_of(classes, known) if c[0] not in known}:
        known |= {name for name, _ in found}
        for _, path in found:
            parts = path.relative_to(root.parent).with_suffix("").parts
            importlib.import_module(".".join(parts).removesuffix(".__init__"))


def classes_of(
    classes: list[tuple[str, list[str], Path]], bases: set[str]
) -> set[tuple[str, Path]]:
    return {(name, path) for name, names, path in classes if not bases.isdisjoint(names)}


def subclasses_of(cls: type[openai.OpenAIError]) -> set[type[openai.OpenAIError]]:
    return {cls}.union(*(subclasses_of(child) for child in cls.__subclasses__()))


def make_status_error(
    cls: type[Any], status_code: int, body: object, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return an error as the client raises it; the body as the client unwraps it."""
    request = httpx2.Request("POST", "https://llm.example.com/v1/chat/completions")
    response = httpx2.Response(status_code, request=request, headers=headers)
    error: openai.APIStatusError
    if cls is openai.OAuthError:
        error = cls(response=response, body=body)
    else:
        error = cls("text", response=response, body=body)
    return error


def test_every_error_class_of_the_openai_client_is_known() -> None:
    import_what_defines_errors()
    found = {cls.__name__ for cls in subclasses_of(openai.OpenAIError)}
    assert found == set(STATUS_ERRORS) | TIMEOUTS | UNREACHABLE | NEVER_SEEN


def test_every_error_of_the_openai_client_maps_to_one_of_ours() -> None:
    import_what_defines_errors()
    for cls in subclasses_of(openai.OpenAIError):
        name = cls.__name__
        if issubclass(cls, openai.APIStatusError):
            mapped = map_model_error(make_status_error(cls, STATUS_ERRORS[name], None))
            is_retryable = STATUS_ERRORS[name] in (409, 429, 500)
            assert type(mapped) is (RetryableError if is_retryable else NonRetryableError), name
            assert mapped.code == f"http_{STATUS_ERRORS[name]}"
        else:
            mapped = map_model_error(cls.__new__(cls))
            assert type(mapped) is RetryableError, name
            assert mapped.code == ("model_timeout" if name in TIMEOUTS else "model_connection")


@pytest.mark.parametrize(
    ("status_code", "expected"),
    [
        (400, NonRetryableError),
        (401, NonRetryableError),
        (403, NonRetryableError),
        (404, NonRetryableError),
        (408, RetryableError),
        (409, RetryableError),
        (413, NonRetryableError),
        (422, NonRetryableError),
        (429, RetryableError),
        (500, RetryableError),
        (502, RetryableError),
        (503, RetryableError),
        (529, RetryableError),
    ],
)
def test_the_status_says_whether_another_attempt_may_help(
    status_code: int, expected: type[Exception]
) -> None:
    error = make_status_error(openai.APIStatusError, status_code, {"message": "why"})
    mapped = map_model_error(error)
    assert type(mapped) is expected
    assert str(mapped) == f"The model service answered {status_code}: why"


def test_an_empty_account_is_not_a_busy_service() -> None:
    body = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    mapped = map_model_error(make_status_error(openai.RateLimitError, 429, body))
    assert isinstance(mapped, NonRetryableError)
    assert mapped.code == "insufficient_quota"


def test_the_services_retry_after_is_kept() -> None:
    error = make_status_error(openai.RateLimitError, 429, None, {"Retry-After": "7"})
    mapped = map_model_error(error)
    assert isinstance(mapped, RetryableError)
    assert mapped.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (None, "http_400"),
        ("<html>Bad Gateway</html>", "http_400"),
        ([], "http_400"),
        ({}, "http_400"),
        ({"message": None, "code": None}, "http_400"),
        ({"message": "m", "code": "context_length_exceeded"}, "context_length_exceeded"),
        ({"message": "m", "code": 400}, "400"),  # OpenRouter's are numbers
        ({"error": {"message": "m"}}, "http_400"),
        ({"error": "m"}, "http_400"),
    ],
)
def test_any_body_gives_a_text_and_a_text_code(body: object, code: str) -> None:
    mapped = map_model_error(make_status_error(openai.BadRequestError, 400, body))
    assert mapped.code == code
    assert str(mapped).startswith("The model service answered 400")


KEY = "sk-canary-0123456789abcdef"


@pytest.mark.parametrize("padding", [0, 10, 474, 480, 490, 499, 500, 600])
@pytest.mark.parametrize("shape", ["message", "error", "text", "odd"])
def test_the_key_does_not_show_even_where_the_text_is_cut(padding: int, shape: str) -> None:
    text = "x" * padding + KEY + " is not a valid key " + KEY
    bodies = {"message": {"message": text}, "error": {"error": {"message": text}}, "text": text}
    error = make_status_error(openai.AuthenticationError, 401, bodies.get(shape, [text]))
    shown = str(map_model_error(error, KEY))
    assert "sk-c" not in shown
    assert len(shown) < 600


def test_no_key_leaves_the_text_as_it_is() -> None:
    error = make_status_error(openai.BadRequestError, 400, {"message": "why"})
    assert str(map_model_error(error, "")) == "The model service answered 400: why"


def test_half_a_surrogate_pair_in_an_error_can_still_be_stored() -> None:
    error = make_status_error(openai.BadRequestError, 400, {"message": "bad \ud83d"})
    assert str(map_model_error(error)).encode()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"message": {"detail": [{"loc": ["body", "n"], "msg": "no"}]}}, '"msg": "no"'),
        (
            {"message": "Provider error", "metadata": {"raw": "too long"}},
            "Provider error: too long",
        ),
        ({"detail": "no such model"}, "no such model"),
        ({"message": None, "code": 7}, '"code": 7'),
    ],
)
def test_the_services_own_words_are_told(body: object, told: str) -> None:
    assert told in str(map_model_error(make_status_error(openai.BadRequestError, 400, body)))


@pytest.mark.parametrize("status_code", [400, 402, 429, 500])
def test_an_account_that_is_empty_by_its_words_is_not_asked_again(status_code: int) -> None:
    body = {"message": "Insufficient Balance", "code": "invalid_request_error"}
    mapped = map_model_error(make_status_error(openai.APIStatusError, status_code, body))
    assert isinstance(mapped, NonRetryableError)
    assert mapped.code == "insufficient_quota"


def test_a_service_that_is_not_reached_is_named_by_its_host_alone() -> None:
    request = httpx2.Request("POST", "https://user:canary@models.example:8443/canary/v1?k=canary")
    told = str(map_model_error(openai.APIConnectionError(request=request)))
    assert told.startswith("The model service at models.example:8443 is not reachable (API")
    assert "canary" not in told
