"""What an OpenAI SDK is told of a task that failed."""

import pytest

from longtask_kit.server.front_ends.failures import find_failure


@pytest.mark.parametrize(
    ("message", "code", "status_code", "told"),
    [
        ("The model service answered 404: no such", "model_not_found", 404, "model_not_found"),
        ("The model service answered 404: no such", "http_404", 404, "model_not_found"),
        ("The model service answered 401: no", "invalid_api_key", 401, "invalid_api_key"),
        ("The model service answered 401: no", "http_401", 401, "invalid_api_key"),
        ("The model service answered 403: no", "http_403", 403, "http_403"),
        ("The model service answered 400: no", "unsupported_value", 400, "unsupported_value"),
        ("The model service answered 429: slow", "rate_limit_exceeded", 429, "rate_limit_exceeded"),
        ("The model service answered 429: pay", "insufficient_quota", 429, "insufficient_quota"),
        ("The model service answered 408: late", "http_408", 502, "server_error"),
        ("The model service answered 500: oh", "http_500", 502, "server_error"),
        ("The model was silent for too long.", "model_timeout", 502, "server_error"),
        ("A handler: The model service answered 400", "handler_error", 502, "server_error"),
        ("?", None, 502, "server_error"),
    ],
)
def test_only_what_is_worth_another_try_is_told_as_the_servers_fault(
    message: str, code: str | None, status_code: int, told: str
) -> None:
    assert find_failure(message, code) == (status_code, told)
