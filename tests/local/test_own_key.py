"""A model key of one's own with the local stack: whose it is, who may spend it, where it lies."""

import contextlib
import json
import os
import re
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trustme

import longtask_kit as lt
from longtask_kit.local.endpoints import EndpointFiles
from longtask_kit.submit.endpoint import make_endpoint
from tests.command import longtask, spawn
from tests.conftest import open_home
from tests.fake_model import FakeModel, say
from tests.local.processes import is_alive, run_python
from tests.serving import serve
from tests.tls import terminate_tls
from tests.wait import wait_until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CANARY = "sk-canary-of-my-own-key-0123456789"


@pytest.fixture(scope="module")
def home(stack: lt.LocalStack) -> Iterator[Path]:
    """One stack for all tests of this file; each finds no key in it.

    The stack that all files share is there before: its files must not be in this home.
    """
    with open_home() as folder:
        yield folder


@pytest.fixture(autouse=True)
def _no_key_is_left(home: Path) -> Iterator[None]:
    yield
    EndpointFiles(home / "data").forget()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def url(model: FakeModel) -> Iterator[str]:
    with serve(model) as origin:
        yield f"{origin}/v1"
        model.gate.set()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, url: str, home: Path) -> str:
    """A key and nothing else in the environment."""
    monkeypatch.delenv("LONGTASK_MODEL")
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    return CANARY


def find_host(url: str) -> str:
    return httpx.URL(url).netloc.decode()


def test_the_first_command_of_readme_streams_from_ones_own_service(
    model: FakeModel, url: str, key: str
) -> None:
    command = re.search(r"\.venv/bin/longtask (run) \"(.+?)\"", README)
    assert command
    done = spawn(*command.groups())
    assert (done.returncode, done.stdout.strip()) == (0, say(command[2])), done.stderr
    assert done.stderr == f"longtask_kit: local stack, model gpt-4o-mini at {find_host(url)}\n"
    (asked,) = model.asked
    assert (asked.authorization, asked.body["model"]) == (f"Bearer {key}", "gpt-4o-mini")


def test_a_task_goes_on_when_its_kernel_is_killed(model: FakeModel, key: str) -> None:
    model.gate.clear()
    kernel = run_python("""
        import longtask_kit as lt
        kit = lt.connect(quiet=True)
        task = kit.submit("the kernel will die")
        next(iter(task))
        print(task.id, flush=True)
        input()
    """)
    assert kernel.stdout is not None
    with kernel:
        task_id = kernel.stdout.readline().strip()
        kernel.send_signal(signal.SIGKILL)
    model.gate.set()
    with lt.connect(model="demo", quiet=True) as kit:
        assert kit.attach(task_id).result(30) == say("the kernel will die")
    assert len(model.asked) == 1


def test_a_task_goes_on_when_the_stack_is_killed(
    model: FakeModel, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTASK_LEASE_S", "1")
    lt.LocalStack.join_or_start().stop()  # the next has that lease
    model.gate.clear()
    with lt.connect(quiet=True) as kit:
        task = kit.submit("the stack will die")
        next(iter(task))
        killed = lt.LocalStack.find()
        assert killed
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed.pid))
        model.gate.set()
        monkeypatch.delenv("OPENAI_API_KEY")  # whoever starts it again need not have the key
        lt.LocalStack.join_or_start()
        assert task.result(60) == say("the stack will die")
    assert {asked.authorization for asked in model.asked} == {f"Bearer {key}"}


def test_two_kernels_with_two_keys_never_mix(model: FakeModel, url: str, home: Path) -> None:
    code = """
        import os, longtask_kit as lt
        name = os.environ["NAME"]
        with lt.connect(quiet=True) as kit:
            tasks = [kit.submit(f"{name} {n}") for n in range(100)]
            print(sum(task.result(60).startswith(f"To '{name} ") for task in tasks))
    """
    lt.LocalStack.join_or_start()
    kernels = [
        run_python(
            code,
            NAME=name,
            LONGTASK_MODEL=f"model-of-{name}",
            OPENAI_BASE_URL=url,
            OPENAI_API_KEY=f"sk-{name}",
            OPENAI_ORG_ID=f"org-{name}",
        )
        for name in ("ada", "bob")
    ]
    assert [kernel.communicate(timeout=100)[0] for kernel in kernels] == ["100\n", "100\n"]
    assert len(model.asked) == 200
    for asked in model.asked:
        name = asked.prompt.split()[0]
        assert asked.authorization == f"Bearer sk-{name}"
        assert (asked.organization, asked.body["model"]) == (f"org-{name}", f"model-of-{name}")


def test_a_stacks_own_models_run_there_and_every_other_name_at_ones_service(
    model: FakeModel, key: str
) -> None:
    with lt.connect(quiet=True) as kit:
        assert "scripted demo" in kit.submit("tides", model="demo-fast").result(30)
        assert model.asked == []
        assert kit.submit("tides", model="my/own-model").result(30) == say("tides")
        assert kit.submit("tides").model == "gpt-4o-mini"


def test_whoever_names_the_demo_spends_nothing_and_gives_no_key(
    model: FakeModel, key: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lt.connect(model="demo") as kit:
        assert "scripted demo" in kit.submit("tides").result(30)
        assert "Scripted demo" in capsys.readouterr().out
        assert model.asked == []
        assert longtask("keys").stdout.startswith("no key is kept")
        # Who names another model of his own service nevertheless means it.
        assert kit.submit("tides", model="gpt-4o-mini").result(30) == say("tides")


def test_a_demo_of_the_environment_gives_way_to_a_service_that_is_given(
    model: FakeModel, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.models = ["parrot"]
    monkeypatch.setenv("LONGTASK_MODEL", "demo")  # as `longtask lab` sets it
    with lt.connect(model_url=url, quiet=True) as kit:
        assert kit.description == f"local stack, model parrot at {find_host(url)}"
        assert kit.submit("rivers").result(30) == say("rivers")
    monkeypatch.setenv("LONGTASK_MODEL", "mine")
    with lt.connect(model_key="k", model_url=url, quiet=True) as kit:
        assert kit.submit("rivers").model == "mine", "any other name may be that service's"
    with lt.connect(model="demo", model_url=url, quiet=True) as kit:
        assert "scripted demo" in kit.submit("rivers").result(30), "an argument is meant"


def test_every_command_that_asks_a_model_asks_ones_own(
    model: FakeModel, url: str, key: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").write_text("tides\n")
    own = f"model gpt-4o-mini at {find_host(url)}"
    for words in (["run", "x"], ["bench", "--tasks", "1"], ["map", str(tmp_path / "rows.txt")]):
        done = longtask(*words)
        assert (done.returncode, own in done.stderr) == (0, True), done.stderr
    assert [asked.body["model"] for asked in model.asked] == ["gpt-4o-mini"] * 3
    assert {asked.authorization for asked in model.asked} == {f"Bearer {key}"}


def test_a_chat_and_a_reply_use_the_key_of_the_kernel_that_speaks(
    model: FakeModel, url: str, home: Path
) -> None:
    with (
        lt.connect(model="m", model_key="sk-ada", model_url=url, quiet=True) as ada,
        lt.connect(model="n", model_key="sk-bob", model_url=url, quiet=True) as bob,
    ):
        task = ada.submit("a question")
        task.result(30)
        bob.attach(task.id).reply("and another").result(30)
        bob.chat(system="terse").send("hello").result(30)
    who = [asked.authorization.removeprefix("Bearer sk-") for asked in model.asked]
    assert who == ["ada", "bob", "bob"]


def test_rows_ask_ones_own_service_and_a_better_key_runs_what_the_last_one_failed(
    model: FakeModel, url: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.refused = ["sk-mistyped"]
    for key, ended in (("sk-mistyped", "failed"), ("sk-right", "completed")):
        with lt.connect(model="m", model_key=key, model_url=url, quiet=True) as kit:
            group = kit.map(["one", "two"])
            tasks = [*filter(None, group.tasks), kit.submit("three", reuse=True)]
            for task in tasks:
                with contextlib.suppress(lt.TaskFailedError):
                    task.result(30)
            assert [task.status for task in tasks] == [ended] * 3
    assert {asked.body["model"] for asked in model.asked} == {"m"}
    assert [asked.authorization for asked in model.asked].count("Bearer sk-right") == 3


def test_a_served_app_asks_ones_own_service_too(model: FakeModel, key: str) -> None:
    with lt.connect(quiet=True) as kit:
        kit.serve()
        assert kit.submit("tides").result(30) == say("tides")
        assert "scripted demo" in kit.submit("tides", model="demo-fast").result(30)
    assert model.asked[0].authorization == f"Bearer {key}"


def test_a_server_on_this_machine_needs_neither_key_nor_name(
    model: FakeModel, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGTASK_MODEL")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    model.models = ["llama3.2:1b"]
    with lt.connect(quiet=True) as kit:
        assert kit.description == f"local stack, model llama3.2:1b at {find_host(url)}"
        assert kit.submit("tides").result(30) == say("tides")
    assert model.asked[0].body["model"] == "llama3.2:1b"
    model.models = ["llama3.2:1b", "qwen3:4b"]
    with pytest.raises(lt.ConfigError, match=r"llama3\.2:1b, qwen3:4b.*connect\(model=…\)"):
        lt.connect(quiet=True)


def test_a_forgotten_key_fails_its_tasks_with_the_cure_which_works(
    model: FakeModel, url: str, key: str
) -> None:
    with lt.connect(quiet=True) as kit:
        kit.submit("one").result(30)
        assert json.loads(longtask("keys", "--json").stdout)["host"] == find_host(url)
        refused = longtask("keys", "forget", "api.openai.com")
        assert refused.returncode == 1
        assert find_host(url) in refused.stderr
        assert longtask("keys", "forget", find_host(url)).stdout == "forgotten: 1 key\n"
        task = kit.submit("two")
        with pytest.raises(lt.TaskFailedError, match=r"key .* is gone.*connect\(\)") as failed:
            task.result(30)
        assert failed.value.code == "key_gone"
        lt.connect(quiet=True).close()
        task.retry()
        assert task.result(30) == say("two")
    assert longtask("keys", "forget").returncode == 1, "which one must be said"
    assert longtask("keys", "forget", "--all").stdout == "forgotten: 1 key\n"


def test_a_key_that_is_unused_for_thirty_days_goes(tmp_path: Path) -> None:
    files = EndpointFiles(tmp_path, secret="of the stack")
    ids = [files.keep(make_endpoint(f"https://{name}.example/v1", "k")) for name in "ab"]
    (tmp_path / "endpoints" / "something-else.json").write_text("{")
    assert all(files.has(endpoint_id) for endpoint_id in ids)
    for path, days in ((files._path(ids[0]), 31), (files._path(ids[1]), 29)):
        os.utime(path, (0, path.stat().st_mtime - days * 86_400))
    assert files.find(ids[0]) is None
    assert files.find(ids[1]) is not None, "and counts as used now"
    files.remove_unused()
    assert not files._path(ids[0]).exists()
    assert [kept.host for kept in files.list()] == ["b.example"]
    assert files.find("../identity") is None, "an id leads to no other file"


def test_a_stranger_can_neither_run_nor_list_nor_read(model: FakeModel, key: str) -> None:
    with lt.connect(quiet=True) as kit, httpx.Client(timeout=30) as stranger:
        task = kit.submit("a secret question")
        task.result(30)
        demo = kit.submit("tides", model="demo-fast")
        demo.result(30)
        environment = lt.LocalStack.join_or_start().environment
        served = kit.serve(handlers={"mine": whisper})
        for app in (environment["LONGTASK_BASE_URL"], served.url):
            api = f"{app}/api/tasks"
            bodies = ({"prompt": "x", "model": "gpt-4o-mini"}, {"prompt": "x", "handler": "mine"})
            kept = {"prompt": "tides", "model": "demo-fast", "reuse": True}
            refused = [stranger.post(f"{api}/start", json=body) for body in (*bodies, kept)]
            refused += [stranger.get(api), stranger.get(api, headers={"Authorization": "Bearer x"})]
            for path in (
                task.id,
                f"{task.id}/input",
                f"{task.id}/next-try",
                f"stream?taskId={task.id}",
            ):
                refused.append(stranger.get(f"{api}/{path}"))
            for call in ("cancel", "retry", "try-now"):
                for query in ("", f"?taskId={demo.id}"):  # one's own beside it opens nothing
                    body = {"taskId": task.id}
                    refused.append(stranger.post(f"{api}/{call}{query}", json=body))
            refused += [stranger.get(f"{api}/start?taskId={task.id}")]
            refused += [stranger.delete(f"{api}/{task.id}")]
            assert {answer.status_code for answer in refused} == {401}
            assert "LONGTASK_API_KEY" in refused[0].json()["error"]
            # What costs nothing is anybody's to try.
            answer = stranger.post(f"{api}/start", json={"prompt": "x", "model": "demo-fast"})
            assert answer.status_code == 200
            assert stranger.get(f"{api}/{demo.id}").status_code == 200
            assert stranger.get(f"{api}/{demo.id}/next-try").json()["at"] is None
            tried = stranger.post(f"{api}/try-now", json={"taskId": demo.id})
            assert tried.json() == {"taskId": demo.id, "isTried": False}, "it has ended"
            assert stranger.get(f"{api}/task_unknown0").status_code == 404
            assert stranger.post(f"{api}/start", content=b"[").status_code == 400
            has_key = {"Authorization": f"Bearer {environment['LONGTASK_API_KEY']}"}
            listed = stranger.get(api, headers=has_key).json()["tasks"]
            assert task.id in {row["taskId"] for row in listed}
    assert len(model.asked) == 1


async def whisper(_: lt.TaskContext) -> AsyncIterator[str]:
    yield "mine"


def test_a_key_is_in_its_file_and_nowhere_else(
    model: FakeModel, key: str, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with lt.connect() as kit:
        stack = lt.LocalStack.join_or_start()
        task = kit.submit("tides", metadata={"a": 1})
        task.result(30)
        model.refused = [key]
        failed = kit.submit("refused")
        with pytest.raises(lt.TaskFailedError) as error:
            failed.result(30)
        endpoint = make_endpoint("https://a.example", key)
        shown = [repr(kit), repr(task.spec), repr(stack), repr(error.value), repr(endpoint)]
        shown += [str(event) for which in (task, failed) for event in which.events()]
        shown += [json.dumps(kit._door.ask(lambda b: b.read_input(task.id)))]
    shown += [longtask(*words).stdout for words in (["keys"], ["status", task.id], ["doctor"])]
    shown += [stack.log_path.read_text(), *capfd.readouterr()]
    shown += [Path(f"/proc/{stack.pid}/{name}").read_text() for name in ("cmdline", "environ")]
    assert not any(key in text or key[10:] in text for text in shown)
    # Valkey's files are among them, which hold every command that it was sent.
    assert any(holds(path, task.id) for path in (home / "data" / "valkey").rglob("*"))
    holding = [path for path in home.rglob("*") if holds(path, key)]
    (kept,) = (home / "data" / "endpoints").iterdir()
    assert holding == [kept]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def holds(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:  # a socket, a folder
        return False


def test_an_endpoint_has_the_proxy_of_its_kernel(
    model: FakeModel, url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGTASK_MODEL")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    lt.LocalStack.join_or_start()  # its process has none
    host = find_host(url)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:canary-of-the-proxy@{host}")
    elsewhere = "http://model.example/v1"
    with lt.connect(model="m", model_key="k", model_url=elsewhere, quiet=True) as kit:
        assert kit.description == "local stack, model m at model.example"
        assert kit.submit("tides").result(30) == say("tides"), "the proxy answered"
        assert "canary" not in repr(make_endpoint(elsewhere, "k"))
    holding = [path for path in home.rglob("*") if holds(path, "canary-of-the-proxy")]
    assert [path.parent.name for path in holding] == ["endpoints"]


def test_an_endpoint_has_the_certificates_of_its_kernel(
    model: FakeModel, url: str, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    lt.LocalStack.join_or_start()  # its process knows nothing of it
    with terminate_tls(httpx.URL(url).port or 0, ca) as port:
        own = {"model": "m", "model_key": "k", "model_url": f"https://127.0.0.1:{port}/v1"}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with lt.connect(quiet=True, **own) as kit:  # type: ignore[arg-type]
            assert kit.submit("tides").result(30) == say("tides")
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "foreign.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "foreign.pem"))
        is_told = pytest.raises(lt.TaskFailedError, match="does not trust its certificate")
        with lt.connect(quiet=True, **own) as kit, is_told:  # type: ignore[arg-type]
            kit.submit("tides", retries=0).result(30)
        ca.cert_pem.write_to_path(str(tmp_path / "other.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
        with lt.connect(quiet=True, **own) as kit:  # type: ignore[arg-type]
            (tmp_path / "other.pem").unlink()
            with pytest.raises(lt.TaskFailedError, match="SSL_CERT_FILE") as failed:
                kit.submit("tides").result(30)
            assert failed.value.code == "config"


def test_an_endpoint_that_leads_back_to_us_is_refused(home: Path, settings: lt.Settings) -> None:
    environment = lt.LocalStack.join_or_start().environment
    for name in ("OPENAI_BASE_URL", "LONGTASK_BASE_URL"):
        with pytest.raises(lt.ConfigError, match="is the local stack itself"):
            lt.connect(model="m", model_key="k", model_url=environment[name], quiet=True)
    for path in ("", "/v1"):
        with pytest.raises(lt.ConfigError, match="webhook app, not a model service"):
            lt.connect(model="m", model_url=f"{settings.base_url}{path}", quiet=True)
    assert longtask("keys").stdout.startswith("no key is kept")
