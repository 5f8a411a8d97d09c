"""The tree of errors, and the HTTP status of each."""

import inspect
import re
from typing import TypeVar

import pytest

from longtask_kit import errors
from longtask_kit.errors import ConfigError, LongTaskError, _cut_ours, add_cure
from longtask_kit.server.http_edge import BadRequestError, status_for

AnError = TypeVar("AnError", bound=Exception)
PUBLIC: dict[str, type[Exception]] = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type)
    and issubclass(cls, Exception)
    and cls.__module__ == errors.__name__
    and not name.startswith("_")
}


def printed_parents() -> dict[str, str]:
    """Read the tree of the docstring: each class and the one it hangs below."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if match is None or (path and not match[1]):
            continue
        depth = len(match[1]) // 4
        parents[match[2]] = path[depth - 1] if depth else ""
        path[depth:] = [match[2]]
    return parents


def public_parent(cls: type[BaseException]) -> str:
    ancestors = [base.__name__ for base in cls.__mro__[1:] if base in PUBLIC.values()]
    return ancestors[0] if ancestors else ""


def tree_of(cls: type[LongTaskError]) -> set[type[LongTaskError]]:
    return {cls}.union(*(tree_of(child) for child in cls.__subclasses__()))


def make_error(cls: type[AnError]) -> AnError:
    """Return an error with the facts its class demands."""
    demanded = {
        name: "task_12345678"
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    }
    return cls("message", **demanded)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert printed_parents() == {name: public_parent(cls) for name, cls in PUBLIC.items()}


def test_every_line_of_the_tree_says_what_to_make_of_it() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    assert len(lines) == len(PUBLIC) - 1
    assert [line for line in lines if not re.search(r"Error +\w.{10,}", line)] == []


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_error_is_one_of_ours_and_is_called_an_error(name: str) -> None:
    assert issubclass(PUBLIC[name], LongTaskError)
    assert name.endswith("Error")


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_error_has_a_docstring_and_shows_its_message(name: str) -> None:
    assert PUBLIC[name].__doc__
    assert str(make_error(PUBLIC[name])) == "message"


def test_a_timeout_of_a_task_is_a_timeout_for_everybody() -> None:
    assert issubclass(errors.TaskTimeoutError, TimeoutError)


def test_errors_keep_their_facts() -> None:
    failed = errors.TaskFailedError(
        "m", task_id="task_1", code="bad_key", attempt=2, partial_text="Hel"
    )
    assert (failed.task_id, failed.code, failed.attempt) == ("task_1", "bad_key", 2)
    assert failed.partial_text == "Hel"
    assert errors.StreamSilentError("m", task_id="t", cursor="1-2").cursor == "1-2"
    assert errors.QuotaError("m", task_id="t").task_id == "t"
    assert errors.RetryableError("m", retry_after_s=5.0).retry_after_s == 5.0


# The HTTP status

STATUS = {
    "BadRequestError": 400,
    "ConfigError": 500,
    "LocalStackError": 500,
    "LongTaskError": 500,
    "NonRetryableError": 500,
    "QuotaError": 429,
    "RetryableError": 500,
    "SignatureError": 401,
    "StoreError": 503,
    "StoreRefusedError": 503,
    "StreamError": 500,
    "StreamExpiredError": 404,
    "StreamSilentError": 500,
    "SubmitError": 400,
    "TaskCancelledError": 500,
    "TaskFailedError": 500,
    "TaskIncompleteError": 500,
    "TaskTimeoutError": 500,
    "_TaskEndedError": 500,
}


def test_every_error_of_the_tree_has_its_http_status() -> None:
    tree = [cls for cls in tree_of(LongTaskError) if cls.__module__.startswith("longtask_kit.")]
    assert {cls.__name__: status_for(make_error(cls)) for cls in tree} == STATUS


@pytest.mark.parametrize("status_code", [400, 404, 405, 413])
def test_a_bad_request_says_its_own_status(status_code: int) -> None:
    assert status_for(BadRequestError("m", status_code=status_code)) == status_code


def test_a_valid_task_that_the_queue_did_not_take_is_the_gateways_fault() -> None:
    assert status_for(errors.SubmitError("m", task_id="task_1")) == 502
    assert status_for(errors.SubmitError("m")) == 400
    assert status_for(errors.QuotaError("m", task_id="task_1")) == 429


def test_what_is_ours_is_cut_off_a_traceback_also_behind_a_wait_for_another_thread() -> None:
    from concurrent.futures import Future

    future: Future[None] = Future()
    future.set_exception(ConfigError("no"))
    frames: dict[str, object] = {"__name__": "longtask_kit.client.door"}
    exec("def ask(future): future.result()", frames)  # noqa: S102 - a frame of that module
    with pytest.raises(ConfigError) as caught:
        frames["ask"](future)  # type: ignore[operator]
    cut = _cut_ours(caught.value.__traceback__)
    assert cut is not None
    assert (cut.tb_frame.f_globals["__name__"], cut.tb_next) == (__name__, None)


def test_a_failure_is_told_as_sentences_with_what_to_do() -> None:
    assert add_cure("answered 404: no", "model_not_found") == (
        "answered 404: no. Choose a model that the service offers."
    )
    assert add_cure("Why?", "model_not_found").startswith("Why? Choose")
    assert add_cure(None, None) == "It does not say why."
    assert add_cure("none like it", "not_recorded") == "none like it.", "no cure is better than any"
