"""Which model, at whose service: what is named, what the environment says, what can't be meant."""

from collections.abc import Iterator

import pytest

import longtask_kit as lt
from longtask_kit.client.own_model import (
    Aim,
    choose_model,
    explain_unknown,
    find_endpoint,
    refuse_stack,
)
from longtask_kit.submit.endpoint import OPENAI_URL, Endpoint, make_endpoint
from longtask_kit.submit.spec import TaskSpec
from tests.fake_model import FakeModel
from tests.serving import free_port, serve

OLLAMA = "http://127.0.0.1:11434/v1"
REMOTE = "https://models.example/v1"


def settings_of(**values: str) -> lt.Settings:
    return lt.Settings(_env_file=None, **values)


@pytest.mark.parametrize(
    ("environment", "key", "url", "found"),
    [
        ({}, None, None, None),
        ({"openai_api_key": "sk-e"}, None, None, (OPENAI_URL, "sk-e")),
        ({"openai_api_key": "sk-e", "openai_base_url": REMOTE}, None, None, (REMOTE, "sk-e")),
        ({"openai_base_url": OLLAMA}, None, None, (OLLAMA, "")),
        ({"openai_api_key": "sk-e"}, "sk-given ", None, (OPENAI_URL, "sk-given")),
        ({"openai_base_url": REMOTE}, "sk-given", None, (REMOTE, "sk-given")),
        ({}, "sk-given", f"{REMOTE}/", (REMOTE, "sk-given")),
        # The environment's key is not for whatever URL is tried.
        ({"openai_api_key": "sk-e"}, None, OLLAMA, (OLLAMA, "")),
    ],
)
def test_the_service_is_what_is_given_else_what_the_environment_says(
    environment: dict[str, str], key: str | None, url: str | None, found: tuple[str, str] | None
) -> None:
    endpoint = find_endpoint(settings_of(**environment), key, url)
    assert (endpoint and (endpoint.url, endpoint.key)) == found


@pytest.mark.parametrize(
    ("environment", "key", "url", "told"),
    [
        ({"openai_base_url": REMOTE}, None, None, "give OPENAI_API_KEY"),
        ({"openai_api_key": "sk-e"}, None, REMOTE, "give model_key"),
        ({}, "", None, "model_key=….*blank"),
        ({}, "sk-\n1", None, "model_key=…"),
        ({}, "sk-1", "ftp://models.example", "model_url=…"),
        ({}, "sk-1", "https://user:w0rd@models.example", "model_url=…"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_cure(
    environment: dict[str, str], key: str | None, url: str | None, told: str
) -> None:
    with pytest.raises(lt.ConfigError, match=told) as refused:
        find_endpoint(settings_of(**environment), key, url)
    assert not any(hidden in str(refused.value) for hidden in ("sk-", "w0rd"))


@pytest.fixture
def server() -> Iterator[tuple[FakeModel, Endpoint]]:
    model = FakeModel()
    with serve(model) as origin:
        yield model, Endpoint(url=f"{origin}/v1")


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        (None, "gpt-4o-mini"),
        ([], "gpt-4o-mini"),
        (["only-this"], "only-this"),
        (["this", "gpt-4o-mini"], "gpt-4o-mini"),
    ],
)
def test_a_server_on_this_machine_chooses_by_what_it_has(
    server: tuple[FakeModel, Endpoint], models: list[str] | None, chosen: str
) -> None:
    server[0].models = models
    assert choose_model(server[1]) == chosen


def test_of_several_models_all_are_named(server: tuple[FakeModel, Endpoint]) -> None:
    server[0].models = [f"model-{n}" for n in range(30)]
    with pytest.raises(lt.ConfigError, match=r"model-0, model-1.*, …\. Choose one"):
        choose_model(server[1])


def test_nobody_who_listens_is_told_before_a_task_is_submitted() -> None:
    with pytest.raises(lt.ConfigError, match="Nobody listens at 127"):
        choose_model(Endpoint(url=f"http://127.0.0.1:{free_port()}/v1"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8081/v1", "http://localhost:8000"])
def test_the_stack_itself_is_no_endpoint(url: str) -> None:
    ours = {"OPENAI_BASE_URL": "http://127.0.0.1:8081/v1", "X_URL": "http://127.0.0.1:8000"}
    with pytest.raises(lt.ConfigError, match="local stack itself"):
        refuse_stack(Endpoint(url=url), ours)
    refuse_stack(Endpoint(url=OLLAMA), ours)


def test_a_task_that_says_nothing_gets_the_kits_model_and_endpoint() -> None:
    aim = Aim("mine", "", {"mine": "a", "other": "a"}.get)
    asked = TaskSpec(prompt="x")
    assert aim.complete(asked) == TaskSpec(prompt="x", model="mine", endpoint="a")
    assert aim.complete(TaskSpec(prompt="x", model="demo", endpoint="b")).endpoint is None
    assert aim.complete(TaskSpec(prompt="x", handler="shout")).model is None
    assert Aim().complete(asked) is asked


@pytest.mark.parametrize("given", [{"model_key": "k"}, {"model_url": REMOTE}])
def test_a_hosted_app_asks_with_its_own_key(given: dict[str, str], settings: lt.Settings) -> None:
    for place in ({"settings": settings}, {"url": str(settings.base_url)}):
        with pytest.raises(lt.ConfigError, match=r"with its own key.*leave out model_key"):
            lt.connect(**place, **given, quiet=True)  # type: ignore[arg-type]


def test_a_model_without_a_key_is_no_silent_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lt.ConfigError, match=r"gpt-9.*OPENAI_API_KEY.*model='demo'"):
        lt.connect(model="gpt-9", quiet=True)
    monkeypatch.setenv("LONGTASK_MODEL", "gpt-9")
    with pytest.raises(lt.ConfigError, match=r"gpt-9.*OPENAI_API_KEY.*model='demo'"):
        lt.connect(quiet=True)
    with pytest.raises(lt.ConfigError, match=r"connect\(model=…\)"):
        lt.connect(model=" ", quiet=True)


def test_a_model_named_at_connect_is_asked_by_a_hosted_app_too(settings: lt.Settings) -> None:
    with lt.connect(model="demo-fast", settings=settings, quiet=True) as kit:
        task = kit.submit("tides")
        assert task.model == "demo-fast"
        assert task.result(30)


def test_an_endpoint_has_no_secret_in_its_repr_nor_in_its_id() -> None:
    endpoint = Endpoint(url=REMOTE, key="sk-secret", proxy="http://me:secret@proxy")
    assert "secret" not in repr(endpoint)
    assert Endpoint.from_json(endpoint.to_json()) == endpoint
    ids = {
        endpoint.make_id("a"),
        endpoint.make_id("b"),
        Endpoint(url=REMOTE, key="sk-secret").make_id("a"),
        Endpoint(url=REMOTE, key="sk-other").make_id("a"),
    }
    assert len(ids) == 4


@pytest.mark.parametrize("text", ["", "[]", "{", '{"url": 5}', '{"url": "x"}', '{"key": "\\n"}'])
def test_a_damaged_file_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Endpoint.from_json(text)


def test_proxy_and_certificates_are_of_the_process_that_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ALL_PROXY", "proxy.example:3128")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj")
    made = make_endpoint(REMOTE, "k")
    assert made.proxy == "http://proxy.example:3128"
    assert make_endpoint(OLLAMA, "").proxy is None
    assert (made.ca_file, made.ca_folder, made.project) == ("/ca.pem", None, "proj")


def test_tasks_are_asked_by_the_api_that_was_connected_for_unless_they_say_it() -> None:
    aim = Aim("mine", api="responses")
    assert aim.complete(TaskSpec(prompt="x")).api == "responses"
    assert aim.complete(TaskSpec(prompt="x", api="chat")).api == "chat"
    with pytest.raises(lt.ConfigError, match="expected 'chat' or 'responses'"):
        lt.connect(api="completions")  # type: ignore[arg-type]


def test_a_misspelt_demo_model_is_told_the_name_that_was_meant() -> None:
    with pytest.raises(lt.ConfigError, match=r"\(did you mean 'demo'\?\).*: demo, demo-fast, "):
        lt.connect(model="dmeo", quiet=True)
    assert "did you mean" not in explain_unknown("gpt-4o", ["demo", "demo-fast"])
