"""All stages: a secret goes to the service it is for, and nowhere else."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import longtask_kit as lt
from longtask_kit.cli.doctor import examine
from longtask_kit.log.store import Store
from longtask_kit.server.front_ends.routes import FRONT_ENDS
from longtask_kit.settings import secret
from longtask_kit.submit.queue import Queue
from tests.serving import free_port, serve

HTTP = httpx.Client(timeout=30)
ASKED = {"role": "user", "content": "x"}
SECRETS = [
    name for name, field in lt.Settings.model_fields.items() if "SecretStr" in str(field.annotation)
]


def plant(settings: lt.Settings, *names: str) -> tuple[lt.Settings, list[str]]:
    """Return settings with a canary in the place of each secret, and the canaries."""
    canaries = {name: f"canary-{name}-{'x' * 32}" for name in names}
    planted = {name: SecretStr(canary) for name, canary in canaries.items()}
    return settings.model_copy(update=planted), [*canaries.values()]


def all_secrets(settings: lt.Settings) -> list[str]:
    return [secret(getattr(settings, name)) for name in SECRETS]


def assert_hidden(shown: object, secrets: list[str]) -> None:
    text = str(shown)
    for hidden in secrets:
        assert hidden
        # Half of one would be half a leak.
        assert hidden not in text
        assert hidden[: len(hidden) // 2] not in text


def show(value: object) -> str:
    return f"{value!r} {value!s} {value:}"


def show_error(error: BaseException) -> str:
    return show(error) + "".join(traceback.format_exception(error)) + show_causes(error)


def show_causes(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    return show(cause) + show_causes(cause) if cause else ""


@pytest.fixture
def own(settings: lt.Settings) -> Iterator[lt.Settings]:
    """An app of our own in this process, so that its log lines are seen, with an API key."""
    port = free_port()
    key = SecretStr("canary-of-the-api-key")
    own = settings.model_copy(update={"base_url": f"http://127.0.0.1:{port}", "api_key": key})
    with serve(lt.create_app(own, front_ends=FRONT_ENDS), port=port):
        yield own


def test_there_are_secrets_to_hide() -> None:
    assert sorted(SECRETS) == [
        "api_key",
        "openai_api_key",
        "qstash_current_signing_key",
        "qstash_next_signing_key",
        "qstash_token",
        "upstash_redis_rest_token",
    ]


def test_nothing_that_can_be_printed_shows_a_secret(settings: lt.Settings) -> None:
    planted, canaries = plant(settings, *SECRETS)
    with lt.connect(settings=planted, quiet=True) as kit:
        task = lt.Task("task_12345678", door=kit._door)
        things: list[object] = [planted, kit, task, Queue.open(planted), Store.open(planted)]
        things += [kit._door.backend, kit._door.backend.source, kit.description]
        assert_hidden([show(thing) for thing in things], canaries)
        assert_hidden([planted.model_dump(), planted.model_dump_json()], canaries)
    with lt.connect(str(settings.base_url), api_key=canaries[0], quiet=True) as remote:
        assert_hidden([show(remote), show(remote._door.backend)], canaries)


def test_no_log_line_at_any_level_shows_a_secret(
    own: lt.Settings, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG), lt.connect(settings=own) as kit:
        assert kit.submit("Name a river", model="demo-fast").result(30)
        with pytest.raises(lt.TaskFailedError):
            kit.submit("Name a river", model="demo-bad-key").result(30)
        HTTP.get(f"{own.base_url}/api/tasks", headers={"Authorization": "Bearer wrong"})
        key = secret(own.api_key)
        with lt.connect(str(own.base_url), api_key=key) as remote:
            assert remote.submit("Name a river", model="demo-fast").result(30)
    spoke = {record.name.partition(".")[0] for record in caplog.records}
    assert spoke >= {"httpx", "httpcore", "openai"}, "every library spoke"
    lines = [show(record.__dict__) + record.getMessage() for record in caplog.records]
    assert_hidden([lines, *capsys.readouterr()], all_secrets(own))


def test_what_the_app_tells_everybody_shows_no_secret(own: lt.Settings) -> None:
    paths = ["/api/health", "/openapi.json", "/docs", "/api/tasks", "/api/nothing"]
    paths += ["/api/qstash/webhook", "/api/tasks/stream?taskId=x", "/v1/responses/resp_x"]
    answers = [HTTP.get(f"{own.base_url}{path}") for path in paths]
    answers += [HTTP.post(own.webhook_url, content=b"{}"), HTTP.post(own.failure_url)]
    bearer = {"Authorization": f"Bearer {secret(own.api_key)}"}
    for path, body in (
        ("/v1/responses", {"model": "demo-bad-key", "input": "x"}),
        ("/v1/responses", {"model": "demo-fast", "input": "x", "stream": True}),
        ("/v1/chat/completions", {"model": "demo-bad-key", "messages": [ASKED]}),
    ):
        answers.append(HTTP.post(f"{own.base_url}{path}", json=body, headers=bearer))
    assert [answer.status_code for answer in answers[-3:]] == [200, 200, 401]
    assert_hidden([(answer.text, answer.headers) for answer in answers], all_secrets(own))


ATTEMPTS: dict[str, Callable[[lt.Kit], Any]] = {
    "submit": lambda kit: kit.submit("x"),
    "attach": lambda kit: kit.attach("task_12345678"),
    "tasks": lambda kit: kit.tasks(),
    "follow": lambda kit: lt.Task("task_12345678", door=kit._door).result(),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("name", ["qstash_token", "upstash_redis_rest_token"])
def test_no_error_of_a_wrong_token_quotes_it(
    settings: lt.Settings, name: str, attempt: str
) -> None:
    planted, canaries = plant(settings, name)
    with lt.connect(settings=planted, quiet=True) as kit:
        try:
            ATTEMPTS[attempt](kit)
        except lt.LongTaskError as error:
            assert_hidden(show_error(error), canaries)
        else:
            assert (name, attempt) == ("qstash_token", "tasks"), "reading needs no queue"


def test_no_error_of_a_wrong_api_key_quotes_it(own: lt.Settings) -> None:
    wrong = "canary-wrong-key"
    for attempt in ATTEMPTS.values():
        with lt.connect(str(own.base_url), api_key=wrong, quiet=True) as kit:
            with pytest.raises(lt.ConfigError) as caught:
                attempt(kit)
            assert_hidden(show_error(caught.value), [wrong, *all_secrets(own)])


@pytest.mark.parametrize("names", [[name] for name in SECRETS] + [SECRETS])
def test_the_doctor_names_a_wrong_secret_and_never_shows_it(
    settings: lt.Settings, names: list[str]
) -> None:
    planted, canaries = plant(settings, *names)
    findings = asyncio.run(examine(planted))
    assert_hidden(findings, canaries)
    right = [secret(getattr(settings, name)) for name in SECRETS if name != "api_key"]
    assert_hidden(findings, right)


URL_NAMES = ["QSTASH_URL", "UPSTASH_REDIS_REST_URL", "OPENAI_BASE_URL", "LONGTASK_BASE_URL"]


@pytest.mark.parametrize("name", URL_NAMES)
@pytest.mark.parametrize(
    "url",
    [
        "https://user:canary-password@eu1.upstash.io",
        "https://canary-password@eu1.upstash.io",
        "https://eu1.upstash.io/?token=canary-password",
        "https://eu1.upstash.io/#canary-password",
    ],
)
def test_a_url_that_would_carry_a_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)  # URLs are printed, logged, and sent to the queue
    with pytest.raises(lt.ConfigError, match=name) as caught:
        lt.Settings()
    assert_hidden(show_error(caught.value), ["canary-password"])
    with pytest.raises(lt.ConfigError) as refused:
        lt.connect(url, quiet=True)
    assert_hidden(show_error(refused.value), ["canary-password"])


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("letter", ["\n", "\x00", "ä", "…"])
def test_a_secret_that_no_header_can_carry_is_refused_without_quoting_it(
    name: str, letter: str
) -> None:
    canary = f"canary-of-some-length{letter}and-more"
    with pytest.raises(lt.ConfigError) as caught:
        lt.Settings(**{name: canary})
    assert_hidden(show_error(caught.value), ["canary-of-some-length", "and-more"])
    with pytest.raises(lt.ConfigError, match="api_key") as refused:
        lt.connect("https://app.example.com", api_key=canary, quiet=True)
    assert_hidden(show_error(refused.value), ["canary-of-some-length", "and-more"])
