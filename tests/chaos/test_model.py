"""Whatever the model does, the attempt ends as the table in the README says, with its text."""

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

import longtask_kit as lt
from tests.chaos._deliveries import deliver, make_body, read_record, record_task
from tests.chaos._reading import check_tokens, model_text, model_tokens
from tests.chaos._scripted import (
    Refusal,
    Reply,
    ScriptedModel,
    answer,
    ending,
    frame,
    scripted_model,
    served_app,
)
from tests.thorough import first_of
from tests.wait import wait_until

Figures = Callable[[str, str], None]
DONE = b"data: [DONE]\n\n"
TOKENS = model_tokens("Explain tides")
HALF = TOKENS[: len(TOKENS) // 2]


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with scripted_model() as running:
        yield running


@pytest.fixture(scope="module")
def patient(settings: lt.Settings, model: ScriptedModel) -> Iterator[lt.Settings]:
    with served_app(settings, model) as led:
        yield led


@pytest.fixture(scope="module")
def hasty(settings: lt.Settings, model: ScriptedModel) -> Iterator[lt.Settings]:
    with served_app(settings, model, model_timeout_s=0.6) as led:
        yield led


@pytest.fixture
def own(patient: lt.Settings, hasty: lt.Settings, request: pytest.FixtureRequest) -> lt.Settings:
    """An app that waits for a model as long as any, unless it is the model that stalls."""
    return hasty if "stall" in request.node.name else patient


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the model does first, and what must come of it.

    Attributes:
        reply: The first reply; after it the model is well.
        status_code: What the webhook answers the first delivery.
        status: The task's status then.
        code: And the code of its record.
        retry_after: The header of the answer.
        tokens: What the first attempt's log holds.
        finish_reason: As the model gave it.
    """

    reply: Reply | Refusal
    status_code: int = 200
    status: str = "completed"
    code: str | None = None
    retry_after: str | None = None
    tokens: list[str] = field(default_factory=list)
    finish_reason: str | None = None


def retried(reply: Reply | Refusal, code: str, **expected: object) -> Case:
    """An attempt that fails, and is worth another."""
    return Case(reply=reply, status_code=500, status="retrying", code=code, **expected)  # type: ignore[arg-type]


def refused(status: int, code: str, expected_code: str | None = None) -> Case:
    """A request that no retry can help."""
    code_told = expected_code or code
    return hopeless(Refusal(status, "no", code=code), code_told)


def hopeless(reply: Reply | Refusal, code: str) -> Case:
    """A reply that says so of itself."""
    return Case(reply=reply, status_code=489, status="failed", code=code)


def ended(reply: Reply, finish_reason: str, tokens: list[str]) -> Case:
    """A reply that is whole."""
    return Case(reply=reply, finish_reason=finish_reason, tokens=tokens)


def broken(*parts: bytes, then: str = "end") -> Reply:
    """A reply of half the tokens, and then these parts."""
    return Reply([*map(frame, HALF), *parts], then=then)


CASES = {
    "429 with Retry-After": retried(
        Refusal(429, "slow down", code="rate_limit_exceeded", Retry_After="1"),
        "rate_limit_exceeded",
        retry_after="1",
    ),
    "429 with Retry-After of parts of a second": retried(
        Refusal(429, "slow down", Retry_After="0.2"), "http_429", retry_after="1"
    ),
    "429 with a date as Retry-After": retried(
        Refusal(429, "slow down", Retry_After="Wed, 21 Oct 2037 07:28:00 GMT"), "http_429"
    ),
    "429 that no waiting fills": refused(429, "insufficient_quota"),
    "408": retried(Refusal(408, "late"), "http_408"),
    "500": retried(Refusal(500, "sorry"), "http_500"),
    "503 with Retry-After": retried(
        Refusal(503, "overloaded", Retry_After="0"), "http_503", retry_after="0"
    ),
    "401": refused(401, "invalid_api_key"),
    "400": refused(400, "context_length_exceeded"),
    "400 by a content filter": refused(400, "content_filter"),
    "404": refused(404, "model_not_found"),
    "cut before a byte": retried(Reply([], then="cut"), "model_connection"),
    "cut mid-stream": retried(broken(then="cut"), "model_connection", tokens=HALF),
    "cut in a chunk": retried(
        broken(frame("lost")[:20], then="cut"), "model_connection", tokens=HALF
    ),
    "ended mid-stream": retried(broken(), "model_connection", tokens=HALF),
    "stall before an answer": retried(Reply([], then="hang"), "model_timeout"),
    "stall before a byte": retried(Reply([b""], then="stall"), "model_timeout"),
    "stall mid-stream": retried(broken(then="stall"), "model_timeout", tokens=HALF),
    "chunk that is not JSON": retried(
        broken(b"data: {oops\n\n", ending()), "model_protocol", tokens=HALF
    ),
    "chunk of another shape": retried(
        broken(b'data: {"choices": 7}\n\n', ending()), "model_protocol", tokens=HALF
    ),
    "chunk whose text is no text": retried(
        broken(b'data: {"choices": [{"delta": {"content": {"a": 1}}}]}\n\n', ending()),
        "model_protocol",
        tokens=HALF,
    ),
    "chunk that is not UTF-8": retried(
        broken(b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', ending()),
        "model_protocol",
        tokens=HALF,
    ),
    "chunk nested too deep": retried(
        broken(b"data: " + b"[" * 200_000 + b"\n\n", ending()), "model_protocol", tokens=HALF
    ),
    "error as a chunk": retried(
        broken(b'data: {"error": {"message": "overloaded"}}\n\n'), "model_error", tokens=HALF
    ),
    "error as a line of its own": retried(
        broken(b'error: {"message": "overloaded"}\n\n', ending()), "model_error", tokens=HALF
    ),
    "error by the event's name": retried(
        broken(b'event: error\ndata: {"message": "overloaded"}\n\n', ending()),
        "model_error",
        tokens=HALF,
    ),
    "error without that name": retried(
        broken(b'data: {"object": "error", "message": "overloaded"}\n\n', ending()),
        "model_error",
        tokens=HALF,
    ),
    "finish_reason error": retried(broken(ending("error")), "model_error", tokens=HALF),
    "error that no retry mends, in a 200": hopeless(
        Reply([b'{"error": {"message": "Insufficient balance"}}']), "insufficient_quota"
    ),
    "a web page": retried(Reply([b"<!doctype html><p>hello"]), "model_protocol"),
    "no body": retried(Reply([]), "model_connection"),
    "empty stream": retried(Reply([DONE]), "model_connection"),
    "empty answer": ended(answer([]), "stop", []),
    "finish_reason length": ended(answer(HALF, finish_reason="length"), "length", HALF),
    "finish_reason content_filter": ended(
        answer(HALF, finish_reason="content_filter"), "content_filter", HALF
    ),
    "no finish_reason": ended(Reply([*map(frame, TOKENS), DONE]), "", TOKENS),
    "cut after [DONE]": ended(Reply([*map(frame, TOKENS), ending()], then="cut"), "stop", TOKENS),
    "stall after [DONE]": ended(
        Reply([*map(frame, TOKENS), ending()], then="stall"), "stop", TOKENS
    ),
    "error after [DONE]": ended(
        Reply([*map(frame, TOKENS), ending(), b'data: {"error": "late"}\n\n']), "stop", TOKENS
    ),
    "cut after finish_reason": ended(
        Reply([*map(frame, TOKENS), frame(None, "stop")], then="cut"), "stop", TOKENS
    ),
    "stall after finish_reason": ended(
        Reply([*map(frame, TOKENS), frame(None, "stop")], then="stall"), "stop", TOKENS
    ),
    "byte-order mark": ended(
        Reply([b"\xef\xbb\xbf", *map(frame, TOKENS), ending()]), "stop", TOKENS
    ),
    "no [DONE]": ended(Reply([*map(frame, TOKENS), frame(None, "stop")]), "stop", TOKENS),
}


@pytest.mark.parametrize("name", [*CASES])
def test_the_queue_is_told_as_the_table_says(
    own: lt.Settings, model: ScriptedModel, figures: Figures, name: str
) -> None:
    case, prompt = CASES[name], f"Explain tides ({name})"
    model.script(prompt, case.reply, answer(TOKENS))
    task_id = record_task(own, prompt)
    told = deliver(own, make_body(task_id))
    record = read_record(own, task_id)
    assert (told.status_code, record.status, record.code) == (
        case.status_code,
        case.status,
        case.code,
    ), told.text
    assert told.headers.get("Retry-After") == case.retry_after
    assert (told.headers.get("Upstash-NonRetryable-Error") == "true") == (told.status_code == 489)
    assert (told.status_code == 200) == ("error" not in told.json())
    with lt.connect(settings=own, quiet=True) as kit:
        task = kit.attach(task_id)
        if case.status == "retrying":
            assert task.text == "".join(case.tokens), "what came before the fault is not lost"
            again = deliver(own, make_body(task_id), retried=1)
            assert again.status_code == 200, again.text
            check_tokens(list(task.events()), TOKENS)
        elif case.status == "failed":
            with pytest.raises(lt.TaskFailedError) as caught:
                task.result(10)
            assert caught.value.code == case.code
        else:
            events = list(task.events())
            check_tokens(events, case.tokens)
            assert (events[-1].finish_reason or "") == case.finish_reason
    calls = 2 if case.status == "retrying" else 1
    assert (model.calls[prompt], read_record(own, task_id).attempt) == (calls, calls)
    wait = f", Retry-After {case.retry_after}" if case.retry_after else ""
    figures(f"6 {name}", f"{told.status_code}{wait}, {case.status}, {record.code}, {calls} calls")


def run(own: lt.Settings, prompt: str) -> tuple[lt.Task, str]:
    """Run a task by the queue; returns it with its text, or its error's code."""
    with lt.connect(settings=own, quiet=True) as kit:
        task = kit.submit(prompt)
        try:
            return task, task.result(60)
        except lt.TaskFailedError as error:
            return task, error.code


@pytest.mark.parametrize(
    "name", first_of(name for name, case in CASES.items() if case.status == "retrying")
)
def test_a_fault_that_passes_is_healed_by_the_queue(
    own: lt.Settings, model: ScriptedModel, name: str
) -> None:
    if "date" in name:
        pytest.skip("the same retry as any other, and nothing of the date is passed on")
    prompt = f"Explain tides by queue ({name})"
    model.script(prompt, CASES[name].reply, answer(TOKENS))
    started = time.monotonic()
    task, text = run(own, prompt)
    assert text == "".join(TOKENS)
    assert model.calls[prompt] == task.attempt == 2
    check_tokens(list(task.events()), TOKENS)
    assert time.monotonic() - started >= float(CASES[name].retry_after or 0)


@pytest.mark.parametrize("name", first_of(["500", "cut mid-stream", "stall mid-stream"]))
def test_a_fault_that_stays_ends_as_failed_after_the_last_retry(
    own: lt.Settings, model: ScriptedModel, figures: Figures, name: str
) -> None:
    prompt = f"Explain tides for ever ({name})"
    model.script(prompt, CASES[name].reply)
    task, code = run(own, prompt)
    assert code == "retries_exhausted"
    assert model.calls[prompt] == 4, "one delivery and three retries"
    attempts = [event.data for event in task.events() if event.type == "start"]
    assert attempts == ["1", "2", "3", "4"]
    figures(f"6 {name}, for ever", "failed, retries_exhausted, 4 calls")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (422, "body.stream_options.include_usage: Extra inputs are not permitted"),
        (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        (400, "'temperature' does not support 0.7 with this model."),
    ],
)
def test_a_parameter_refused_in_words_alone_is_left_out_in_the_same_attempt(
    own: lt.Settings, model: ScriptedModel, status: int, words: str
) -> None:
    prompt = f"Explain tides ({words})"
    model.script(prompt, Refusal(status, words), answer(TOKENS))
    task, text = run(own, prompt)
    assert text == "".join(TOKENS)
    assert (model.calls[prompt], task.attempt) == (2, 1)


def shows(task: lt.Task, text: str) -> bool:
    return task.text == text


def test_a_character_that_two_deltas_share_is_whole_whatever_the_flush(
    own: lt.Settings, model: ScriptedModel
) -> None:
    halves = [
        rb'data: {"choices":[{"delta":{"content":"%s"}}]}' % h for h in (rb"a\ud83d", rb"\ude00")
    ]
    reply = [half + b"\n\n" for half in halves]
    for prompt, gate in (("together", None), ("apart", threading.Event())):
        model.script(prompt, Reply([*reply, ending()], gate=gate))
        with lt.connect(settings=own, quiet=True) as kit:
            task = kit.submit(prompt)
            if gate is not None:
                wait_until(functools.partial(shows, task, "a"))
                gate.set()
            assert task.result(30) == "a😀"


def big_deltas(count: int, size: int) -> list[str]:
    """Return deltas that differ, so that none can be taken for another."""
    return [f"{n:08d} ".ljust(size - 1, "x") + "\n" for n in range(count)]


BIG = {
    "10 MB in 20,000 deltas": big_deltas(20_000, 500),
    "10 MB in 200 deltas": big_deltas(200, 50_000),
    "10 MB in 8 deltas": big_deltas(8, 1_250_000),
    "5 MB as one delta": big_deltas(1, 5_000_000),
    "10 MB as one delta": big_deltas(1, 10_000_000),
    "12 MB as one delta": big_deltas(1, 12_000_000),
    "10 MB of Chinese in 8 deltas": ["写一个关于人工智能的短故事。" * 30_000] * 8,
    "4 MB of line feeds in one delta": ["\n" * 4_000_000],
}
ONCE = "10 MB in 8 deltas"
SHORT = {"10 MB in 20,000 deltas", "10 MB in 8 deltas", "10 MB as one delta", "12 MB as one delta"}


@pytest.mark.parametrize(
    "name",
    first_of([ONCE, *(name for name in BIG if name != ONCE)]),
)
def test_a_huge_answer_is_told_whole(
    settings: lt.Settings,
    model: ScriptedModel,
    request: pytest.FixtureRequest,
    figures: Figures,
    name: str,
) -> None:
    if name not in SHORT and request.config.getoption("--chaos") != "full":
        pytest.skip("only with --chaos=full")
    deltas, prompt = BIG[name], f"Write much ({name})"
    model.script(prompt, answer(deltas))
    started = time.monotonic()
    with served_app(settings, model) as own:  # its own: a flush that is refused holds up others
        with lt.connect(settings=own, quiet=True) as kit:
            task = kit.submit(prompt)
            text = task.result(60)
            assert len(text) == sum(map(len, deltas))
            assert text == "".join(deltas)
            assert model.calls[prompt] == 1
            count = len(list(task.events()))
        with lt.connect(own.base_url, quiet=True) as kit:
            assert kit.attach(task.id).result(60) == text, "and over HTTP"
    seconds = time.monotonic() - started
    size = len(text.encode()) / 1e6
    figures(f"6 {name}", f"{size:.1f} MB exact in {count} events, {seconds:.1f} s")


def test_what_the_model_says_in_an_error_is_kept_and_is_json(
    own: lt.Settings, model: ScriptedModel
) -> None:
    prompt, evil = "Explain tides evilly", '<script>"\x1b[2J\u202e\\ud800'
    model.script(prompt, Refusal(500, evil), answer(TOKENS))
    task, text = run(own, prompt)
    assert text == "".join(TOKENS)
    [error] = [event.error for event in task.events() if event.error]
    assert evil in error
    assert json.loads(json.dumps(error)) == error
    assert model_text("Explain tides") == text
