"""Whatever is sent to the app, and whatever a server sends to a reader: an answer, or our error."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from html.parser import HTMLParser
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import longtask_kit as lt
from longtask_kit.client.http_api import HttpSource
from longtask_kit.client.terminal import print_json_events, print_stream
from longtask_kit.errors import LongTaskError
from longtask_kit.log.events import START, TaskEvent, decode_entry, decode_frame
from longtask_kit.log.store import Store
from longtask_kit.log.subscribe import EventSource, RedisSource, follow
from longtask_kit.log.transcript import Transcript
from longtask_kit.server.handlers import TaskContext
from longtask_kit.widgets.saved import make_bundle
from tests.chaos._deliveries import deliver, record_task
from tests.chaos._fake_server import FakeServer, fake_server
from tests.chaos._scripted import served_app
from tests.command import longtask

Scale = Callable[..., int]
Figures = Callable[[str, str], None]
pytestmark = pytest.mark.gate
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


def examples(count: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def put_in_a_real_task(case: schemathesis.Case[Any], task_id: str) -> None:
    """Name a task that is there; one that was guessed never is."""
    if "task_id" in case.path_parameters:
        case.path_parameters["task_id"] = task_id
    if "chat_id" in case.path_parameters:
        case.path_parameters["chat_id"] = task_id
    if "response_id" in case.path_parameters:
        case.path_parameters["response_id"] = task_id.replace("task_", "resp_")
        case.query.pop("starting_after", None)
    if isinstance(case.body, dict) and "taskId" in case.body:
        case.body["taskId"] = task_id
    if case.path.endswith(("/stream", "/start")) and case.method == "GET":
        case.query["taskId"] = task_id  # without a place to begin after: it has ended
        case.query.pop("lastEventId", None)
        case.headers.clear()


def check_answer(case: schemathesis.Case[Any], answer: schemathesis.Response) -> None:
    """Check an answer's status, type and shape against the page, and that no refusal is bare."""
    assert answer.status_code < 500 or answer.status_code in (502, 503), answer.text
    case.validate_response(answer, checks=CHECKS)
    is_stream = answer.headers["content-type"][0].startswith("text/event-stream")
    if case.path.endswith("/stream") and answer.status_code == 200:
        assert is_stream
    if is_stream:
        assert answer.status_code == 200
        return
    body = answer.json()
    assert isinstance(body, dict)
    if answer.status_code != 200:
        is_openais = case.path.startswith("/v1/")
        said = body["error"]["message"] if is_openais else body["error"]
        assert isinstance(said, str)
        assert said
        assert set(body) <= {"error", "taskId"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", [*schemathesis.GenerationMode], ids=lambda mode: mode.value)
def test_every_call_is_answered_as_the_openapi_page_says(
    stack: lt.LocalStack,
    kit: lt.Kit,
    scale: Scale,
    figures: Figures,
    mode: schemathesis.GenerationMode,
) -> None:
    count, sent = scale(short=15, full=400), dict[int, int]()
    ids = [kit.submit("Explain tides", model="demo-fast", max_tokens=5) for _ in range(3)]
    tasks = [task.id for task in ids if task.result(30)]
    page = schemathesis.openapi.from_url(f"{stack.environment['LONGTASK_BASE_URL']}/openapi.json")
    key = {"Authorization": f"Bearer {stack.environment['LONGTASK_API_KEY']}"}
    operations = [found.ok() for found in page.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 37
    for operation in operations:

        @examples(count)
        @given(case=operation.as_strategy(generation_mode=mode), task_id=st.sampled_from(tasks))
        def call(case: schemathesis.Case[Any], task_id: str) -> None:
            put_in_a_real_task(case, task_id)
            answer = case.call(timeout=20, headers=key)
            sent[answer.status_code] = sent.get(answer.status_code, 0) + 1
            check_answer(case, answer)

        # A query or path with no constraint can't be wrong.
        with contextlib.suppress(Unsatisfiable):
            call()
    shown = ", ".join(f"{number} x {status}" for status, number in sorted(sent.items()))
    figures(f"F OpenAPI, {mode.value}", f"{sum(sent.values())} calls: {shown}")


ROUTES = ["api/tasks", "api/tasks/start", "api/tasks/stream", "api/tasks/cancel"]
ROUTES += ["api/tasks/retry", "api/tasks/try-now", "api/tasks/task_12345678/next-try"]
ROUTES += ["api/tasks/task_12345678", "api/health", "api/nothing", ""]
ROUTES += ["api/qstash/webhook", "api/qstash/failure"]
ROUTES += ["v1/responses", "v1/responses/resp_12345678", "v1/chat/completions", "v1/models"]
ROUTES += ["api/chat", "api/chat/x/stream", "api/chat/task_12345678/stream", "api/chat/x/stop"]
ROUTES += ["api/agui", "api/agui/stop"]
PATHS = st.tuples(
    st.sampled_from(ROUTES), st.sampled_from(["", "/", "//", "%00", "/.."]) | st.text(max_size=4)
).map(lambda parts: parts[0] + quote(parts[1], safe="%./"))
JSON_BODIES = st.dictionaries(
    st.sampled_from(["prompt", "taskId", "model", "maxTokens", "temperature", "metadata"])
    | st.sampled_from(["input", "messages", "stream", "background", "tools", "text"]),
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers()),
).map(lambda body: json.dumps(body).encode())


@pytest.mark.timeout(3600)
def test_any_method_path_and_body_is_answered_in_our_shape(
    settings: lt.Settings, scale: Scale, figures: Figures
) -> None:
    count, seen = scale(short=150, full=5000), set[int]()
    methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    types = st.sampled_from(["application/json", "text/plain", "", "application/json;charset=x"])
    with httpx.Client(timeout=20, follow_redirects=False) as client:

        @examples(count)
        @given(methods, PATHS, types, st.binary(max_size=200) | JSON_BODIES)
        def call(method: str, path: str, type_: str, body: bytes) -> None:
            url = f"{settings.base_url}/{path}"
            answer = client.request(method, url, content=body, headers={"Content-Type": type_})
            seen.add(answer.status_code)
            if answer.status_code != 200:
                assert answer.status_code in (307, 400, 401, 404, 405), (url, answer.text)
                assert answer.status_code == 307 or set(answer.json()) <= {"error", "taskId"}

        call()
    figures("F any method, path, body", f"{count} calls: statuses {sorted(seen)}")


DEEP_ROUTES = ["api/tasks/start", "api/tasks/cancel", "api/tasks/retry"]
DEEP_ROUTES += ["v1/responses", "v1/chat/completions", "api/chat"]
DEEP_ROUTES += ["api/agui", "api/agui/stop"]
DEEP_FIELDS = '{"prompt": "x", "taskId": "x", "input": "x", "messages": [], "metadata": {"a": %s}}'


@pytest.mark.parametrize("path", DEEP_ROUTES)
@pytest.mark.parametrize("shape", ["[%s]", DEEP_FIELDS])
def test_a_body_nested_too_deep_is_a_400(stack: lt.LocalStack, path: str, shape: str) -> None:
    body = shape.replace("%s", "[" * 100_000 + "]" * 100_000)
    key = f"Bearer {stack.environment['LONGTASK_API_KEY']}"
    headers = {"Content-Type": "application/json", "Authorization": key}
    url = f"{stack.environment['LONGTASK_BASE_URL']}/{path}"
    answer = httpx.post(url, content=body, headers=headers)
    assert (answer.status_code, set(answer.json())) == (400, {"error"}), answer.text


def test_a_signed_delivery_nested_too_deep_goes_to_the_dead_letters(settings: lt.Settings) -> None:
    assert deliver(settings, b"[" * 100_000 + b"]" * 100_000).status_code == 489


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\n\r\n",
    b"HTTP/1.1 401 No\r\n\r\n",
    b"HTTP/1.1 500 No\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
]
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
WIRE_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["connected", "status", "start", "content", "end", "error"])
        | JSONS,
        "data": JSONS,
        "timestamp": st.integers(0, 2**41) | JSONS,
        "tokens": st.integers(1, 9) | JSONS,
        "usage": JSONS,
        "finishReason": JSONS,
        "error": JSONS,
    },
)
LINES = st.one_of(
    st.sampled_from([b"", b":", b"data", b"data:", b"id: 1-1", b"id: x", b"id: \x00", b"retry: 1"]),
    st.sampled_from([b"event: x", b"data: [DONE]", b"\xef\xbb\xbfdata: 1", b"data: \xe2\x80\xa8"]),
    st.tuples(st.integers(), st.integers()).map(lambda at: b"id: %d-%d" % at),
    WIRE_EVENTS.map(lambda wire: b"data: " + json.dumps(wire).encode()),
    st.binary(max_size=40),
)
BODIES = st.tuples(
    st.lists(LINES, max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n"])
).map(lambda parts: parts[1].join([*parts[0], b"", b""]))
ANSWERS = st.binary(max_size=60) | st.tuples(st.sampled_from(HEADS), BODIES).map(b"".join)
DEEP = b"[" * 100_000
HTTP_DEEP = HEADS[0] + b"id: 1-1\ndata: " + DEEP + b"\n\n"
UTF_16 = HEADS[0].replace(b"stream", b"stream; charset=utf-16") + b"data: 1\n\n"
HEX_CHARSET = HEADS[0].replace(b"stream", b"stream; charset=hex") + b"data: 1\n\n"


async def consume(source: EventSource, task_id: str) -> str:
    """Read a source to its end, which only our errors may be; returns the error's name."""
    events = cast("AsyncGenerator[TaskEvent]", source.open(task_id, after=START))
    try:
        async with asyncio.timeout(5), contextlib.aclosing(events):
            async for event in events:
                assert isinstance(event, TaskEvent)
    except LongTaskError as error:
        return type(error).__name__
    return "end"


@contextlib.contextmanager
def running_loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


@contextlib.contextmanager
def http_reader(server: FakeServer) -> Iterator[Callable[[], str]]:
    """Yield what reads the server as a webhook app's stream."""
    with running_loop() as run:
        client = httpx.AsyncClient()
        source = HttpSource(server.url, client)
        try:
            yield lambda: run(consume(source, "task_12345678"))
        finally:
            run(client.aclose())


@contextlib.contextmanager
def redis_reader(server: FakeServer, settings: lt.Settings) -> Iterator[Callable[[], str]]:
    """Yield what subscribes at the server, and reads the log of a waiting task in real Redis."""
    task_id = record_task(settings, "x")
    with running_loop() as run:
        store = Store.open(settings)
        source = RedisSource(
            store, settings.model_copy(update={"upstash_redis_rest_url": server.url})
        )
        try:
            yield lambda: run(consume(source, task_id))
        finally:
            run(source.aclose())
            run(store.aclose())


def fuzz_reader(
    server: FakeServer, read: Callable[[], str], count: int, answers: st.SearchStrategy[bytes]
) -> str:
    """Read many answers; returns what came of them."""
    ends = dict[str, int]()

    @examples(count)
    @given(answers)
    def answer_it(answer: bytes) -> None:
        server.answer = answer
        end = read()
        ends[end] = ends.get(end, 0) + 1

    answer_it()
    return ", ".join(f"{number} x {end}" for end, number in sorted(ends.items()))


@pytest.mark.timeout(3600)
def test_an_http_reader_gets_our_errors_only(scale: Scale, figures: Figures) -> None:
    with fake_server() as server, http_reader(server) as read:
        shown = fuzz_reader(server, read, scale(short=300, full=10_000), ANSWERS)
    figures("F any bytes to HttpSource", shown)


NEWS = st.lists(
    st.one_of(
        JSONS.map(lambda value: b"data: message,x," + json.dumps(value).encode()),
        st.lists(st.text(max_size=3) | st.just("1-1"), max_size=7).map(
            lambda entry: b"data: message,x," + json.dumps(entry).encode()
        ),
        st.sampled_from([b'data: message,x,["0-1","k","end","t","1"]', b"data: message"]),
        LINES,
    ),
    max_size=6,
).map(lambda lines: HEADS[0] + b"data: subscribe,x,1\n\n" + b"\n\n".join([*lines, b""]))


@pytest.mark.timeout(3600)
def test_a_redis_reader_gets_our_errors_only(
    settings: lt.Settings, scale: Scale, figures: Figures
) -> None:
    with fake_server() as server, redis_reader(server, settings) as read:
        shown = fuzz_reader(server, read, scale(short=200, full=10_000), ANSWERS | NEWS)
    figures("F any bytes to RedisSource", shown)


HOSTILE = [
    pytest.param(HTTP_DEEP, id="nested deep"),
    pytest.param(HEX_CHARSET, id="charset=hex"),
    pytest.param(UTF_16, id="charset=utf-16"),
    pytest.param(HEADS[0] + b"data: " + b"9" * 10_000 + b"\n\n", id="a long number"),
    pytest.param(HEADS[0] + b"data: " + b"x" * 5_000_000, id="a long line"),
    pytest.param(HEADS[0] + b"\n" * 1_000_000, id="a million empty lines"),
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_a_hostile_app_can_not_make_a_reader_fall(answer: bytes) -> None:
    with fake_server() as server, http_reader(server) as read:
        server.answer = answer
        assert read() == "StreamError"


ACKNOWLEDGED = HEADS[0] + b"data: subscribe,x,1\n\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(UTF_16, id="charset=utf-16"),
        pytest.param(HEX_CHARSET, id="charset=hex"),
        pytest.param(ACKNOWLEDGED + b"data: message,x," + DEEP + b"\n\n", id="nested deep"),
        pytest.param(
            ACKNOWLEDGED + b'data: message,x,["1-1","u",%d]\n\n' % 10**4299, id="a long number"
        ),
    ],
)
def test_a_hostile_redis_can_not_make_a_reader_fall_or_deaf(
    settings: lt.Settings, answer: bytes
) -> None:
    with fake_server() as server, redis_reader(server, settings) as read:
        server.answer = answer
        assert read() == "StreamError", "and not silence"


def test_a_server_that_only_says_nonsense_is_told_within_the_limit() -> None:
    async def follow_it(url: str) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(10):
            async for _ in follow(HttpSource(url, client), "task_12345678", silence_limit_s=0.5):
                pass

    with fake_server() as server:
        server.answer = HEADS[0] + b"data: nonsense\n\n"
        with pytest.raises(lt.StreamSilentError, match="attach again later"):
            asyncio.run(follow_it(server.url))


def test_a_kit_whose_app_sends_odd_events_ends_with_our_error() -> None:
    odd: list[dict[str, Any]] = [
        {"type": "start", "data": "x"},
        {"type": "content", "data": ["x"], "tokens": -5},
    ]
    record: dict[str, Any] = {
        "taskId": "task_12345678",
        "status": "running",
        "attempt": 1,
        "prompt": "x",
    }
    rest = {"model": None, "messageId": None, "error": None, "code": None, "usage": None}
    body = json.dumps(record | rest | {"createdAt": 1, "updatedAt": 1}).encode()
    with fake_server() as server:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body
        for wire in odd:
            with lt.connect(server.url, quiet=True) as kit:
                server.answer = b"HTTP/1.1 200 OK\r\nContent-Type: a/json\r\n\r\n" + body
                task = kit.attach("task_12345678")
                frames = (
                    f"id: 1-{n}\ndata: {json.dumps(one | {'timestamp': 1})}\n\n".encode()
                    for n, one in enumerate([wire, {"type": "error", "data": "over"}], 1)
                )
                server.answer = HEADS[0] + b"".join(frames)
                with pytest.raises(LongTaskError):
                    task.result(10)


@examples(500)
@given(JSONS | st.lists(st.text(max_size=4) | st.just("1-1"), max_size=9))
def test_any_json_is_an_entry_or_a_value_error(value: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(ValueError):
        event = decode_entry(value)
        assert isinstance(event, TaskEvent)


@examples(500)
@given(WIRE_EVENTS.map(json.dumps) | JSONS.map(json.dumps), st.just("1-1") | st.text(max_size=5))
@example('{"type": "content", "timestamp": 1, "data": {"a": 1}}', "1-1")
def test_any_json_is_a_frame_or_a_value_error(data: str, cursor: str) -> None:
    with contextlib.suppress(ValueError):
        event = decode_frame(data, cursor)
        assert isinstance(event, TaskEvent)
        assert isinstance(event.data, str)
        if event.type != "start":
            Transcript().apply(event)


@pytest.mark.parametrize("name", ["finishReason", "code", "error"])
def test_the_texts_of_a_frame_are_texts(name: str) -> None:
    data = json.dumps({"type": "end", "timestamp": 1, name: {"a": [1]}})
    with contextlib.suppress(ValueError):
        event = decode_frame(data, "1-1")
        for text in (event.finish_reason, event.code, event.error):
            assert text is None or isinstance(text, str)


EVIL = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> [x](javascript:alert(1))\n"
    "\x1b[2J\x1b[H\x1b[38;5;197mred\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x1b\\ "
    "\x9b2J \x90q\x9c \x08\x08\x7f \r\x1b[Kover \u202enimda\u2066 \x00 end\n"
)
SHOWN = "owned"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


async def speak_evil(context: TaskContext) -> AsyncIterator[str]:
    """Say it in pieces, so that no sequence stands in one event; then fail, if asked to."""
    for at in range(0, len(EVIL), 7):
        yield EVIL[at : at + 7]
        await asyncio.sleep(0.001)
    if context.spec.prompt == "fail":
        raise lt.NonRetryableError(EVIL, code="evil\x1b[2J")
    if context.attempt == 1:
        raise lt.RetryableError(EVIL, code="evil\x1b[2J", retry_after_s=0)


@pytest.fixture(scope="module")
def evil(settings: lt.Settings) -> Iterator[lt.Settings]:
    with served_app(settings, handlers={"evil": speak_evil}) as own:
        yield own


@pytest.mark.parametrize("prompt", ["end well", "fail"])
@pytest.mark.parametrize("terminal", ["pipe", "terminal"])
def test_no_text_of_a_model_steers_a_terminal(
    evil: lt.Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    terminal: str,
) -> None:
    if terminal == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    with lt.connect(settings=evil, quiet=True) as kit:
        task = kit.submit(prompt, handler="evil")
        print_stream(task)
        printed = capsys.readouterr()
        assert task.text == EVIL, "the text itself is kept as it is"
    everything = printed.out + printed.err
    assert SHOWN in everything
    if terminal == "terminal":  # rich's own sequences: colours, the cursor, erasing its lines
        assert "\x1b[" in everything
        assert "38;5;197m" not in re.sub(r"\[38;5;197m", "", everything)
        everything = re.sub(r"\x1b\[(\?25[hl]|[0-9;]*m|2K|1A)|\r", "", everything)
    assert CONTROLS.findall(everything) == []


@pytest.mark.parametrize("prompt", ["end well", "fail"])
def test_json_lines_are_whole_and_hold_no_raw_control_character(
    evil: lt.Settings, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    with lt.connect(settings=evil, quiet=True) as kit:
        print_json_events(kit.submit(prompt, handler="evil"))
    printed = capsys.readouterr().out
    assert CONTROLS.findall(printed) == []
    wires = [json.loads(line) for line in printed.splitlines()]
    last_start = max(n for n, wire in enumerate(wires) if wire["type"] == "start")
    pieces = [wire["data"] for wire in wires[last_start:] if wire["type"] == "content"]
    assert "".join(pieces) == EVIL
    assert wires[-1]["data"] == EVIL


def test_lists_and_records_of_tasks_hold_no_raw_control_character(
    evil: lt.Settings, stack: lt.LocalStack
) -> None:
    own = {"LONGTASK_BASE_URL": evil.base_url or "", "COLUMNS": "200"}
    environment = stack.environment | own
    with lt.connect(settings=evil, quiet=True) as kit:
        task = kit.submit(EVIL, handler="evil", model="evil\x1b[2J", metadata={EVIL: EVIL})
        task.result(20)
        failed = kit.submit("fail", handler="evil")
        with pytest.raises(lt.TaskFailedError):
            failed.result(20)
    for arguments in (
        ["ls"],
        ["status", task.id],
        ["status", failed.id],
        ["tail", task.id],
        ["tail", "--json", failed.id],
        ["status", "--json", failed.id],
    ):
        done = longtask(*arguments, **environment)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        assert CONTROLS.findall(done.stdout + done.stderr) == [], arguments


class Tags(HTMLParser):
    """Collects tags, and attributes that could do something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "href":
                assert not re.match(r"\s*(javascript|data|vbscript|file):", value or "", re.I)
            self.attributes.add(name)


OURS = {"div", "p", "b", "br", "em", "strong", "code", "pre", "a", "ul", "ol", "li", "hr"}
OURS |= {"blockquote", "h1", "h2", "h3", "h4", "h5", "h6"}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}
OURS |= {"style", "section", "span", "i", "s", "details", "summary"}
OUR_ATTRIBUTES = {"style", "href", "title", "class", "start", "target", "rel"}
OUR_ATTRIBUTES |= {"tabindex", "role", "aria-label", "aria-hidden"}
PIECES = (
    st.sampled_from(["<", ">", '"', "'", "`", "[", "](", ")", "javascript:", "data:text/html,"])
    | st.sampled_from(["<script>", "<img src=x onerror=", "<svg/onload=", "</div>", "<!--", "-->"])
    | st.sampled_from(["\n", "\n\n", "    ", "|-|", "|", "```", "# ", "- ", "> ", "![", "<a href="])
    | st.sampled_from(["&#x6a;", "&lt;", "style=", "\x1b[2J", "\x00"])
    | st.sampled_from(["$", "$$", "\\(", "\\)", "\\[", "\\]", "\\href{", "- [x] ", "https://a.b/"])
    | st.sampled_from(["```python\n", "```html\n", "~~", "x |\n|--:|\n|"])
    | st.text(max_size=5)
)


@pytest.mark.timeout(3600)
def test_no_text_makes_markup_of_its_own_in_a_saved_notebook(
    scale: Scale, figures: Figures
) -> None:
    count = scale(short=500, full=50_000)

    @examples(count)
    @given(st.lists(PIECES, max_size=15).map("".join), st.booleans())
    def bundle(text: str, is_failed: bool) -> None:
        state = Transcript(status="failed" if is_failed else "completed", error=text, code=text)
        state._chunks.append(text)
        made = make_bundle(state)
        found = Tags()
        found.feed(made["text/html"])
        assert found.tags <= OURS
        assert found.attributes <= OUR_ATTRIBUTES
        assert CONTROLS.findall(made["text/html"] + made["text/plain"]) == []

    bundle()
    figures("F HTML of a saved notebook", f"{count} texts: no tag or attribute but ours")
