"""Stage 8: what was answered, recorded into a file and replayed by a stack that asks nobody."""

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import longtask_kit as lt
from longtask_kit.cli.notebooks import LESSONS
from longtask_kit.client.cassette import load_cassette
from longtask_kit.log.events import START, Usage
from longtask_kit.log.keys import new_task_id
from longtask_kit.log.store import Store
from longtask_kit.server.replay import ReplayHandler
from longtask_kit.submit.endpoint import Endpoint
from longtask_kit.widgets import Dashboard, GroupOutput, TaskOutput
from longtask_kit.widgets.dashboard import DashboardOutput
from longtask_kit.widgets.saved import make_bundle
from tests.conftest import open_home
from tests.cut_model import CutModel
from tests.delivery import deliver
from tests.fake_model import FakeModel, say
from tests.serving import serve
from tests.wait import wait_until

SAME = (
    *("status", "attempt", "text", "reasoning", "refusal", "tool_calls", "usage", "error", "code"),
    *("finish_reason", "tokens"),
)


@pytest.fixture(scope="module", autouse=True)
def _shared_home() -> Iterator[Path]:
    """`connect()` starts the shared stack here, once for all of these tests."""
    with open_home() as home:
        yield home


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cassette in the notebook's folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "answers.jsonl"


@pytest.fixture
def real() -> Iterator[lt.Kit]:
    """A kit whose demo models are asked: what they say stands for a real model's."""
    with lt.connect(model="demo@2000", quiet=True) as kit:
        yield kit


@pytest.fixture
def model() -> Iterator[tuple[FakeModel, str]]:
    """Somebody's model service, and its URL."""
    app = FakeModel(models=["theirs"])
    with serve(app) as url:
        yield app, f"{url}/v1"


def replay(path: Any = "answers.jsonl", **options: Any) -> lt.Kit:  # noqa: ANN401
    given: dict[str, Any] = {"replay_speed": 0, "model": "demo@2000"} | options
    return lt.connect(replay=path, quiet=True, **given)


def end(task: lt.Task) -> lt.Task:
    """Wait for a task's end, whichever it is."""
    with contextlib.suppress(lt.TaskFailedError, lt.TaskCancelledError):
        task.result(timeout_s=30)
    return task


def look(task: lt.Task) -> dict[str, Any]:
    state = end(task).snapshot()
    return {name: getattr(state, name) for name in SAME}


ASKED: list[dict[str, Any]] = [
    {"prompt": "plain"},
    {"prompt": "with a system", "system": "Be brief.", "temperature": 0, "max_tokens": None},
    {"prompt": "limited", "model": "demo-429-then-ok@2000"},
    {"prompt": "thought", "model": "demo-reason@2000"},
    {"prompt": "called", "model": "demo-tools@2000"},
    {"prompt": "refused", "model": "demo-refuse@2000"},
    {"prompt": "cut short", "model": "demo-length@2000", "max_tokens": 40},
    {"prompt": "value", "model": "demo-json@2000", "schema": {"type": "object"}},
    {"prompt": "no key", "model": "demo-bad-key"},
    {"prompt": "broken", "model": "demo-500", "retries": 0},
    {"prompt": "by the other API", "api": "responses", "params": {"top_p": 0.5}},
    {"prompt": "in the background", "api": "responses", "params": {"background": True}},
]


def test_all_that_a_task_went_through_is_replayed_as_it_was(real: lt.Kit, file: Path) -> None:
    tasks = [real.submit(**asked) for asked in ASKED]
    before = [look(task) for task in tasks]
    real.save_cassette("answers.jsonl", tasks)
    assert before[2]["attempt"] == 2, "the refusal and then the answer"
    with replay() as kit:
        again = [kit.submit(**asked) for asked in ASKED]
        assert [look(task) for task in again] == before
        events = [e for e in again[2].events() if e.error]
        assert "Rate limit reached" in (events[0].error or "")
        assert {str(task.data["replayed"]["file"]) for task in again} == {"answers.jsonl"}


def test_what_is_submitted_in_a_block_is_recorded_when_it_ends(real: lt.Kit, file: Path) -> None:
    with real.record("answers.jsonl"):
        texts = [end(real.submit(prompt)).text for prompt in ("one", "two")]
        chat = real.chat(system="Be brief.")
        said = [str(chat.send(text).result(30)) for text in ("Hello", "And then?")]
        rows = [str(text) for text in real.map(["x", "y"], n=2).results(30)]
    end(real.submit("outside"))
    with replay() as kit:
        assert [end(kit.submit(prompt)).text for prompt in ("one", "two")] == texts
        chat = kit.chat(system="Be brief.")
        assert [str(chat.send(text).result(30)) for text in ("Hello", "And then?")] == said
        group = kit.map(["x", "y"], n=2)
        assert [str(text) for text in group.results(30)] == rows
        assert end(kit.submit("outside")).snapshot().code == "not_recorded"


def read_attempts(file: Path, prompt: str) -> list[Any]:
    """Return what a file has of a question, nothing where it has none."""
    lines = map(json.loads, file.read_text().splitlines())
    return next((line["attempts"] for line in lines if line.get("prompt") == prompt), [])


def test_each_task_is_recorded_at_its_end_in_the_block_and_after_it(
    real: lt.Kit, file: Path
) -> None:
    with real.record("answers.jsonl"):
        slow = real.submit("slow", model="demo@2")
        end(real.submit("fast"))
        wait_until(lambda: read_attempts(file, "fast"))
        assert slow.status == "running"
        assert read_attempts(file, "slow") == []
    slow.cancel()
    end(slow)
    late = real.submit("late")
    with real.record("answers.jsonl") as recorder:
        recorder.note([late.id, slow.id])
        held = real.submit("held", model="demo@40", max_tokens=30)
    end(held)
    wait_until(lambda: read_attempts(file, "held"))
    wait_until(lambda: "0 tasks not ended" in repr(recorder))
    assert read_attempts(file, "slow") == [], "nobody's answer"


def press_retry(output: Any, **message: str) -> None:  # noqa: ANN401 - a card, a table
    output._receive(output, {"t": "retry", "v": "page", **message}, [])


def press_on_card(kit: lt.Kit, group: lt.TaskGroup) -> None:
    [task] = group.tasks
    output = TaskOutput(task)
    wait_until(lambda: output.status == "failed")
    press_retry(output)


def press_on_dashboard(kit: lt.Kit, group: lt.TaskGroup) -> None:
    output = DashboardOutput(Dashboard(kit))
    output._receive(output, {"t": "view", "v": "page"}, [])
    [task] = group.tasks
    task_id = task.id if task else ""
    wait_until(lambda: output._find_tasks(task_id, {"failed"}))
    press_retry(output, id=task_id)


@pytest.mark.parametrize(
    "retry",
    [
        pytest.param(lambda _, group: group.tasks[0].retry(), id="task"),
        pytest.param(press_on_card, id="card"),
        pytest.param(lambda _, group: group.retry_failed(), id="group"),
        pytest.param(lambda _, group: press_retry(GroupOutput(group)), id="table"),
        pytest.param(press_on_dashboard, id="dashboard"),
    ],
)
def test_what_is_retried_is_recorded_to_its_end_whoever_retries(
    real: lt.Kit, file: Path, request: pytest.FixtureRequest, retry: Callable[[lt.Kit, Any], None]
) -> None:
    prompt = request.node.callspec.id
    with real.record("answers.jsonl"):
        group = real.map([prompt], model="demo-429-then-ok@2000", retries=0)
        group.results(30, errors="return")
        wait_until(lambda: len(read_attempts(file, prompt)) == 1)
        retry(real, group)
        wait_until(lambda: len(read_attempts(file, prompt)) == 2)
    assert "text" in read_attempts(file, prompt)[1]


def test_what_is_asked_anew_in_a_comparison_is_recorded(real: lt.Kit, file: Path) -> None:
    with real.record("answers.jsonl"):
        group = real.compare("Old words", ["demo@2000", "demo-reason@2000"])
        group.results(30)
        group.ask_anew(0, "New words")
        group.results(30)
    assert file.read_text().count('"prompt":"New words"') == 2


def test_a_model_of_the_environment_that_a_file_lacks_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {"prompt": "What is a river?", "max_tokens": 60, "temperature": 0}
    monkeypatch.setenv("LONGTASK_MODEL", "demo")  # as `longtask lab` sets it
    with replay(LESSONS / "answers.jsonl", model=None) as kit:
        assert kit.submit(**asked).result(30).startswith("A river is")
    with replay(LESSONS / "answers.jsonl", model="demo") as kit:
        assert end(kit.submit(**asked)).snapshot().code == "not_recorded", "an argument is meant"


def test_recording_again_changes_no_byte(real: lt.Kit, file: Path) -> None:
    def record() -> bytes:
        with real.record(file):
            for task in [real.submit(prompt) for prompt in ("b", "a", "c")]:
                end(task)
        return file.read_bytes()

    assert record() == record()


def test_an_image_is_found_by_its_hash(real: lt.Kit, file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(3000))
    content = [{"type": "text", "text": "What is it?"}, lt.image(picture)]
    messages = [{"role": "user", "content": content}]
    text = end(task := real.submit(messages=messages)).text
    real.save_cassette(file, task)
    assert file.stat().st_size < 3000
    with replay() as kit:
        assert end(kit.submit(messages=messages)).text == text
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(3001))
        other = [{"role": "user", "content": [content[0], lt.image(picture)]}]
        error = end(kit.submit(messages=other)).snapshot().error or ""
        assert "messages[0].content[1].image_url.url is" in error


def test_a_prompt_that_is_not_in_it_fails_at_once_and_names_the_nearest(
    real: lt.Kit, file: Path
) -> None:
    real.save_cassette(file, [end(real.submit("Name three rivers of Norway"))])
    with replay() as kit:
        state = end(kit.submit("Name four rivers of Norway", retries=5)).snapshot()
        assert (state.status, state.code, state.attempt) == ("failed", "not_recorded", 1)
        assert "answers.jsonl" in (state.error or "")
        assert "“Name [three → four] rivers of Norway”" in (state.error or "")
        state = end(kit.submit("Name three rivers of Norway", temperature=0.1)).snapshot()
        assert "temperature is 0.1, recorded 0.7" in (state.error or "")


CANARIES = {
    "OPENAI_API_KEY": "sk-canary-key-0123456789",
    "OPENAI_ORG_ID": "org-canary01",
    "host": "127.0.0.1",
    "header": "Bearer",
    "id": "task_",
}


def test_no_key_header_host_path_or_id_is_in_it(
    file: Path, model: tuple[FakeModel, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = CANARIES["OPENAI_API_KEY"]
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID"):
        monkeypatch.setenv(name, CANARIES[name])
    app, url = model
    with lt.connect(model="theirs", model_key=key, model_url=url, quiet=True) as kit:
        good = end(kit.submit("Say it.", metadata={"mark": "canary-metadata"}))
        app.refused = [key]
        bad = end(kit.submit("Refuse it."))
        assert bad.snapshot().code == "invalid_api_key"
        kit.save_cassette(file, [good, bad])
    nowhere = "http://gpu-canary:8000/v1"
    with lt.connect(model="theirs", model_key=key, model_url=nowhere, quiet=True) as kit:
        lost = end(kit.submit("Find it.", retries=0))
        assert "gpu-canary:8000 is not reachable" in (lost.snapshot().error or "")
        kit.save_cassette(file, lost)
    text = file.read_text()
    assert len(text.splitlines()) == 3
    for canary in (*CANARIES.values(), "canary", str(file.parent)):
        assert canary not in text


def test_what_is_missing_is_asked_of_the_model_and_recorded(
    real: lt.Kit, file: Path, model: tuple[FakeModel, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGTASK_MODEL")
    app, url = model
    options = {"model": "theirs", "model_url": url}
    with replay(mode="extend", **options) as kit:
        assert end(kit.submit("one")).text == say("one")
    with replay(mode="extend", **options) as kit:
        assert "what is missing is asked and recorded" in kit.description
        one, two = end(kit.submit("one")), end(kit.submit("two"))
        assert [asked.prompt for asked in app.asked] == ["one", "two"]
        assert ("replayed" in one.data, "replayed" in two.data) == (True, False)
    with lt.connect(replay=file, replay_speed=0, quiet=True) as kit:  # the model is the file's
        assert [end(kit.submit(p)).text for p in ("one", "two")] == [say("one"), say("two")]
        assert len(app.asked) == 2, "nobody is asked, whatever key is there"
    with replay(mode="renew", **options) as kit:
        end(kit.submit("one"))
        assert len(app.asked) == 3
    assert len(file.read_text().splitlines()) == 2


@contextlib.contextmanager
def serve_turns(*turns: str | int) -> Iterator[dict[str, Any]]:
    """Yield the options of `connect()` for a model of these answers; a number is a refusal."""
    left = iter(turns)

    async def answer(request: Request) -> Response:
        turn = next(left)
        if isinstance(turn, int):
            return JSONResponse({"error": {"message": "No.", "code": "refused"}}, turn)
        choice = {"index": 0, "delta": {"content": turn}, "finish_reason": "stop"}
        chunk = f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
        return Response(chunk, media_type="text/event-stream")

    with serve(Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])) as url:
        yield {"model": "theirs", "model_url": f"{url}/v1"}


def test_what_failed_is_missing_still_and_asked_again(file: Path) -> None:
    seen = []
    with serve_turns(401, "Well.") as options:
        for _ in range(3):
            with replay(mode="extend", **options) as kit:
                task = end(kit.submit("one"))
                seen.append((task.status, task.text, "replayed" in task.data))
    assert seen == [("failed", "", False), ("completed", "Well.", False), (*seen[1][:2], True)]
    assert len(read_attempts(file, "one")) == 1


def test_of_two_answers_to_a_question_the_later_is_kept(file: Path) -> None:
    turns = serve_turns("word " * 3000, "Short.")
    with turns as options, lt.connect(quiet=True, **options) as kit:
        both = [end(kit.submit("same")) for _ in range(2)]
        for _ in range(4):
            kit.save_cassette(file, both[::-1])  # as `kit.tasks()` lists them
            assert read_attempts(file, "same")[0]["text"] == "Short."


def test_a_notebook_is_recorded_and_replayed_by_the_environment_alone(
    file: Path, model: tuple[FakeModel, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = model
    for name, value in {"MODEL": "theirs", "RECORD": file.name, "REPLAY_SPEED": "0"}.items():
        monkeypatch.setenv(f"LONGTASK_{name}", value)
    monkeypatch.setenv("OPENAI_BASE_URL", url)

    def run(*prompts: str) -> list[str]:
        with lt.connect(quiet=True) as kit:
            tasks = [end(kit.submit(prompt)) for prompt in prompts]
            return [kit.description, *(task.text for task in tasks)]

    assert run("one")[0].endswith("; recorded into answers.jsonl")
    assert read_attempts(file, "one")[0]["text"] == say("one")
    monkeypatch.delenv("LONGTASK_RECORD")
    monkeypatch.setenv("LONGTASK_REPLAY", file.name)
    monkeypatch.setenv("LONGTASK_REPLAY_MODE", "extend")
    assert run("one", "two")[1:] == [say("one"), say("two")]
    assert [asked.prompt for asked in app.asked] == ["one", "two"]
    monkeypatch.setenv("LONGTASK_REPLAY_MODE", "renew")
    assert "recorded anew into answers.jsonl" in run("one", "two")[0]
    assert len(app.asked) == 4
    monkeypatch.delenv("LONGTASK_REPLAY_MODE")
    assert run("one", "two", "three")[1:] == [say("one"), say("two"), ""]
    assert len(app.asked) == 4


def test_a_service_that_is_asked_is_told_neither_sample_nor_attempt(
    file: Path, model: tuple[FakeModel, str]
) -> None:
    seen: list[dict[str, str]] = []
    app, _ = model

    async def listen(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] == "http":
            seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await app(scope, receive, send)

    with serve(listen) as url, replay(mode="extend", model="theirs", model_url=f"{url}/v1") as kit:
        kit.map(["a"], n=2).results(30)
    assert seen
    assert not [name for headers in seen for name in headers if name.startswith("x-longtask")]


def test_with_upstash_set_a_replay_is_still_the_local_stacks(
    real: lt.Kit, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.save_cassette(file, end(real.submit("hosted?")))
    for name in ("QSTASH_TOKEN", "UPSTASH_REDIS_REST_TOKEN"):
        monkeypatch.setenv(name, "x" * 20)
    monkeypatch.setenv("UPSTASH_REDIS_REST_URL", "https://redis.example.com")
    monkeypatch.setenv("LONGTASK_BASE_URL", "https://app.example.com")
    monkeypatch.setenv("LONGTASK_REPLAY", "answers.jsonl")
    monkeypatch.setenv("LONGTASK_REPLAY_SPEED", "0")
    with lt.connect(model="demo@2000", quiet=True) as kit:
        assert kit.description.startswith("local stack, replayed from answers.jsonl (recorded ")
        assert end(kit.submit("hosted?")).snapshot().status == "completed"


def test_it_is_said_wherever_the_answer_is_seen(
    real: lt.Kit, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real.save_cassette(file, end(real.submit("Say it.")))
    capsys.readouterr()
    with lt.connect(replay=file, replay_speed=0, model="demo@2000") as kit:
        line = capsys.readouterr().out
        shown = r"replayed from answers\.jsonl \(recorded \d+ \w{3}, demo@2000\)"
        assert re.search(shown, line)
        task = end(kit.submit("Say it."))
        saved = make_bundle(task.snapshot(), task_id=task.id, spec=task.spec)
        assert re.search(shown, saved["text/plain"])
        assert re.search(shown, re.sub(r"<.*?>", "", saved["text/html"]))
        from longtask_kit.client.terminal import print_stream

        print_stream(task)
        assert re.search(shown, capsys.readouterr().err)
        panel = kit.panel()
        wait_until(lambda: panel.model.options)
        assert panel.model.options == ("demo@2000",), "nobody else can be asked"
        group = kit.map(["Say it."], prices=(1, 1))
        group.results(30)
        assert group.cost == 0, "nobody paid again"
        group._ipython_display_()
        shown = capsys.readouterr().out
        assert "replayed from answers.jsonl" in shown
        assert "$" not in shown


def test_a_replay_spends_no_budget(real: lt.Kit, file: Path) -> None:
    rows = ["Once.", "Twice.", "Thrice."]
    for row in rows:
        real.save_cassette(file, end(real.submit(row)))
    with replay() as kit:
        group = kit.map(rows, model="demo@2000", budget_tokens=1, parallelism=1)
        assert [bool(text) for text in group.results(30)] == [True] * 3


def test_a_replayed_answer_is_never_kept_as_the_models(real: lt.Kit, file: Path) -> None:
    real.save_cassette(file, end(first := real.submit("Keep me.", reuse=True)))
    with replay() as kit:
        replayed = kit.submit("Keep me.", reuse=True)
        assert end(replayed).id != first.id
        kit.map(["Keep me, too."], reuse=True)
    task = real.submit("Keep me, too.", reuse=True)
    assert "replayed" not in end(task).data
    # Another recording of the same question is another answer, too.
    file.write_text(file.read_text().replace("scripted", "prewritten"))
    with replay() as kit:
        again = kit.submit("Keep me.", reuse=True)
        assert end(again).id != replayed.id


def hide(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m | {"content": m["content"].replace("Mara", "X")} for m in messages]


def test_what_is_redacted_is_neither_stored_nor_asked(real: lt.Kit, file: Path) -> None:
    text = end(task := real.submit("Who is Mara?")).text
    real.save_cassette(file, task, redact=hide)
    line = json.loads(file.read_text())
    assert line["prompt"] == "Who is X?"
    with replay(redact=hide) as kit:
        assert end(kit.submit("Who is Mara?")).text == text
    with pytest.raises(lt.ConfigError, match="redact=… must return messages"):
        real.save_cassette(file, task, redact=lambda _: [])


@pytest.mark.parametrize("mode", ["extend", "renew"])
def test_what_a_model_is_asked_is_redacted_in_the_file_alone(
    file: Path, model: tuple[FakeModel, str], mode: str
) -> None:
    app, url = model

    def ask_all(kit: lt.Kit) -> list[str]:
        chat = kit.chat(system="Mara asks.")
        said = [end(kit.submit("Who is Mara?")), end(chat.send("Hello")), end(chat.send("Mara?"))]
        rows = kit.map(["Mara's age?", "Mara's town?"]).results(30)
        return [*(task.text for task in said), *map(str, rows)]

    with replay(mode=mode, redact=hide, model="theirs", model_url=url) as kit:
        answers = ask_all(kit)
    assert [asked for asked in app.asked if "Mara" not in str(asked.body)] == []
    kept = [answer.question for answer in load_cassette(file).answers.values()]
    assert (len(kept), "Mara" in str(kept)) == (5, False)
    with replay(redact=hide, model="theirs") as kit:
        assert ask_all(kit) == answers
    assert len(app.asked) == 5


def test_an_error_that_quotes_the_prompt_is_kept_without_what_was_redacted(file: Path) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "http":
            return
        error = {"message": "“Who is Mara?” is not allowed", "code": "blocked"}
        await JSONResponse({"error": error}, 400)(scope, receive, send)

    with (
        serve(refuse) as url,
        lt.connect(model="m", model_key="key", model_url=f"{url}/v1", quiet=True) as kit,
    ):
        kit.save_cassette(file, end(kit.submit("Who is Mara?")), redact=hide)
    [attempt] = json.loads(file.read_text())["attempts"]
    assert attempt["error"].endswith("“Who is ***?” is not allowed")


async def own(context: lt.TaskContext) -> AsyncIterator[Any]:
    """Say which sample it is."""
    yield f"sample {context.sample}"


def test_a_handler_of_ones_own_is_not_recorded_and_that_is_said(
    real: lt.Kit, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = real.serve({"own": own})
    group = real.map(["x"], n=2, handler="own")
    assert group.results(30) == ["sample 0", "sample 1"]
    served.stop()
    real.save_cassette(file, [group, end(real.submit("told"))])
    said = capsys.readouterr().out
    assert "answers.jsonl: 1 of 3 saved, 1 in it; 2 of a handler of one's own" in said


def test_a_block_says_what_it_leaves_out(
    real: lt.Kit, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = real.serve({"own": own})
    with real.record(file):
        end(real.submit("mine", handler="own"))
    served.stop()
    assert "answers.jsonl: 1 left out, of a handler of one's own, which is not" in caplog.text
    assert file.read_text() == ""


def test_a_task_that_redact_fails_of_costs_no_other_its_recording(
    real: lt.Kit, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def redact(messages: list[dict[str, Any]]) -> Any:  # noqa: ANN401
        content = messages[-1]["content"]
        return {"none": None}[content] if content in ("none", "odd") else messages

    with real.record(file, redact=redact) as recorder:
        for prompt in ("one", "odd", "none", "two"):
            end(real.submit(prompt))
        wait_until(lambda: "0 tasks not ended" in repr(recorder))
    assert read_attempts(file, "one")
    assert read_attempts(file, "two")
    assert "KeyError('odd')" in caplog.text
    assert "left out, for which redact=… returned no messages" in caplog.text
    with pytest.raises(lt.ConfigError, match="must return messages"):
        real.save_cassette(file, end(real.submit("none")), redact=redact)


def test_a_file_that_can_not_be_written_is_told_once_and_tried_again(
    real: lt.Kit, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = file.parent / "answers"
    folder.mkdir()
    recorder = real.record(folder / file.name)
    tries: list[object] = []
    with recorder:
        shutil.rmtree(folder)
        end(real.submit("one"))
        wait_until(lambda: "is not recorded for now" in caplog.text)
        looked, before = real._door.backend.groups.look, len(caplog.records)

        async def look(ids: Any) -> Any:  # noqa: ANN401
            tries.append(ids)
            return await looked(ids)

        monkeypatch.setattr(real._door.backend.groups, "look", look)
        wait_until(lambda: len(tries) > 2)
        assert len(caplog.records) == before
        folder.mkdir()
        wait_until(lambda: "0 tasks not ended" in repr(recorder))
    assert read_attempts(folder / file.name, "one")


def test_an_app_of_the_notebooks_own_replays_beside_its_handlers(real: lt.Kit, file: Path) -> None:
    real.save_cassette(file, end(told := real.submit("told")))
    with replay() as kit:
        served = kit.serve({"own": own})
        assert end(kit.submit("mine", handler="own")).text == "sample 0"
        again = end(kit.submit("told"))
        assert (again.text, again.data["replayed"]["file"]) == (told.text, "answers.jsonl")
        assert end(kit.submit("not told")).snapshot().code == "not_recorded"
        served.stop()


def test_the_http_api_of_the_stack_replays_and_records(real: lt.Kit, file: Path) -> None:
    stack = lt.LocalStack.find()
    assert stack is not None
    address = stack.environment["LONGTASK_BASE_URL"]
    options: dict[str, Any] = {"api_key": stack.environment["LONGTASK_API_KEY"], "quiet": True}
    with lt.connect(address, model="demo@2000", **options) as kit, kit.record(file):
        text = end(kit.submit("over HTTP")).text
    with lt.connect(address, replay=file, replay_speed=0, **options) as kit:
        task = end(kit.submit("over HTTP"))
        assert (task.text, task.data["replayed"]["model"]) == (text, "demo@2000")
        [replayed] = kit.map(["over HTTP"]).tasks
    with lt.connect(address, model="demo@2000", **options) as kit:
        [asked] = kit.map(["over HTTP"]).tasks
        assert replayed is not None
        assert asked is not None
        assert end(asked).id != replayed.id
    with pytest.raises(lt.ConfigError, match="is another app"):
        lt.connect("http://127.0.0.1:9/x", replay=file, quiet=True)


def test_the_models_of_a_file_are_listed_for_whom_has_the_services_key(
    real: lt.Kit, file: Path
) -> None:
    real.save_cassette(file, end(real.submit("Say it.")))
    stack = lt.LocalStack.find()
    assert stack is not None
    named = {"X-Longtask-Cassette": str(file)}
    key = {"Authorization": f"Bearer {stack.environment['OPENAI_API_KEY']}"}
    with httpx.Client(base_url=stack.environment["OPENAI_BASE_URL"], trust_env=False) as client:
        listed = client.get("/models", headers=named | key).json()["data"]
        assert [(m["id"], m["owned_by"]) for m in listed] == [("demo@2000", "longtask-cassette")]
        assert client.get("/models", headers=named).status_code == 401
        other = {"X-Longtask-Cassette": f"{file}x"} | key
        assert client.get("/models", headers=other).status_code == 404
        odd = named | key | {"X-Longtask-Speed": "-1"}
        assert client.get("/models", headers=odd).status_code == 400


def test_what_can_not_be_meant_is_said_at_once(file: Path) -> None:
    with pytest.raises(lt.ConfigError, match=r"'answers\.jsonl' can't be read as a cassette"):
        lt.connect(replay="answers.jsonl")
    with pytest.raises(lt.ConfigError, match="expected replay, extend or renew"):
        lt.connect(replay=file, mode="again")  # type: ignore[arg-type]
    with pytest.raises(lt.ConfigError, match="expected 1 for the recorded pace"):
        lt.connect(replay=file, replay_speed=-1)
    with pytest.raises(lt.ConfigError, match="mode and redact go with replay"):
        lt.connect(mode="renew", redact=list)
    with pytest.raises(lt.ConfigError, match="function from messages to messages, got str"):
        lt.connect(replay=file, redact="Mara")  # type: ignore[arg-type]


def test_a_damaged_line_is_told_where_the_kit_says_whom_it_asks(real: lt.Kit, file: Path) -> None:
    real.save_cassette(file, end(real.submit("fine")))
    file.write_text(file.read_text() + "<<<<<<< HEAD\n")
    with replay() as kit:
        assert "; line 2 is damaged, " in kit.description
        assert end(kit.submit("fine")).snapshot().status == "completed"


def test_what_went_on_behind_a_cut_is_replayed_to_its_text(file: Path) -> None:
    cut = CutModel(change=lambda body: body | {"model": "demo-continue"})
    asked: dict[str, Any] = {"prompt": "Explain tides", "max_tokens": 30}
    with (
        serve(cut) as url,
        replay(mode="extend", model="theirs", model_key="key", model_url=f"{url}/v1") as kit,
    ):
        cut.cuts = iter([8])
        task = kit.submit(**asked)
        wait_until(lambda: task.snapshot().status == "retrying")
        wait_until(lambda: kit._door.ask(lambda backend: backend.try_now(task.id)))
        before = end(task)
        assert [a.continued is None for a in before.attempts] == [True, False]
    calls = len(cut.asked)
    first, whole = (a["text"] for a in json.loads(file.read_text())["attempts"])
    assert (whole.startswith(first), whole) == (True, before.text)
    with replay(model="theirs") as kit:
        again = end(kit.submit(**asked))
        assert look(again) == look(before)
        assert [a.continued for a in again.attempts] == [None, None], "it is said once more"
    assert len(cut.asked) == calls


@pytest.mark.anyio
async def test_a_replay_that_is_cut_starts_over_and_asks_no_model(
    real: lt.Kit, file: Path, settings: lt.Settings
) -> None:
    """Not even where its model is one that goes on behind a text."""
    asked: dict[str, Any] = {"prompt": "Explain tides", "model": "demo-continue@2000"}
    task = real.submit(**asked)
    real.save_cassette(file, end(task))
    store, task_id = Store.open(settings), new_task_id()
    with serve(cut := CutModel(cuts=iter([9]))) as url:
        endpoint = Endpoint(url=f"{url}/v1", cassette=str(file), cassette_speed="0")
        own = settings.model_copy(
            update={"openai_base_url": endpoint.url, "openai_api_key": SecretStr("key")}
        )
        handler = ReplayHandler(own, endpoint, heed=lambda *_: None)
        await store.create(task_id, task.spec.to_wire() | asked)
        for status_code in (500, 200):
            answer = await deliver(store, task_id, {"openai": handler})
            assert answer.status_code == status_code
        await handler.aclose()
    events = await store.read_log(task_id, after=START)
    assert [e.type for e in events if e.type in ("start", "continue")] == ["start", "start"]
    assert "".join(e.data for e in events if e.type == "content" and e.cursor.attempt == 2) == (
        task.text
    )
    assert not [body for body in cut.asked if "continue_final_message" in body]
    await store.aclose()


def test_usage_is_counted_of_a_replay_as_of_the_answer(real: lt.Kit, file: Path) -> None:
    usage = end(task := real.submit("count")).usage
    assert isinstance(usage, Usage)
    real.save_cassette(file, task)
    with replay() as kit:
        group = kit.map(["count"])
        group.results(30)
        assert group.usage.total_tokens == usage.total_tokens
