"""A kit finds a running stack that another version of the kit started."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import longtask_kit as lt
from longtask_kit.local.files import StackFiles
from longtask_kit.local.state import PROTOCOL
from longtask_kit.local.versions import count_pending, explain_objection
from tests.local.processes import is_alive, run_python
from tests.thorough import first_of
from tests.wait import wait_until

OLD: dict[str, object] = {}  # before there were versions, a state named none


def rewrite_state(data: Path, version: dict[str, object]) -> None:
    """Make the stack that runs there one whose state file has this version."""
    path = StackFiles.of(data).state
    state = json.loads(path.read_text())
    del state["protocol"]
    path.write_text(json.dumps(state | version))


def ask_queue(stack: lt.LocalStack, method: str, path: str, **headers: str) -> httpx.Response:
    return httpx.request(
        method,
        stack.environment["QSTASH_URL"] + path,
        headers=headers | {"Authorization": f"Bearer {stack.environment['QSTASH_TOKEN']}"},
        trust_env=False,
    ).raise_for_status()


@pytest.mark.parametrize("version", first_of([OLD, {"protocol": "damaged"}]))
def test_an_idle_stack_of_another_version_is_restarted_with_its_data(
    home: Path, version: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    old = lt.LocalStack.join_or_start()
    with lt.connect(quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo-fast")
        text = task.result(30)
    wait_until(lambda: count_pending(old.environment) == 0)
    rewrite_state(home / "data", version)
    assert not caplog.messages
    with lt.connect(quiet=True) as kit:
        assert kit.attach(task.id).text == text
    [news] = caplog.messages
    assert news.startswith("longtask_kit: restarted the local stack, its data kept")
    found = version.get("protocol", 1)
    assert f"version {found!r} of the protocol, this longtask_kit speaks {PROTOCOL}." in news
    assert not is_alive(old.pid)
    assert lt.LocalStack.join_or_start().environment == old.environment
    assert caplog.messages == [news]


def test_a_stack_of_another_version_with_messages_under_way_is_left_alone(home: Path) -> None:
    old = lt.LocalStack.join_or_start()
    later = {"Upstash-Delay": "1h"}
    sent = ask_queue(old, "POST", "/v2/publish/http://127.0.0.1:9/", **later).json()
    rewrite_state(home / "data", OLD)
    with pytest.raises(
        lt.LocalStackError, match=r"version 1 .*version 3\. .*: 1\. .*`longtask down`"
    ):
        lt.connect(quiet=True)
    with pytest.raises(lt.LocalStackError, match="runs already"):
        lt.LocalStack.start(home / "data")
    found = lt.LocalStack.find()
    assert found is not None
    assert found.pid == old.pid
    found.stop()  # as `longtask down` does
    again = lt.LocalStack.join_or_start()
    assert again.pid != old.pid
    assert ask_queue(again, "GET", f"/v2/messages/{sent['messageId']}").json()["url"]


@pytest.mark.thorough
def test_two_kernels_at_once_restart_it_once(home: Path) -> None:
    old = lt.LocalStack.join_or_start()
    rewrite_state(home / "data", OLD)
    code = """
        import longtask_kit as lt
        stack = lt.LocalStack.join_or_start()
        print(stack.pid)
    """
    kernels = [run_python(code) for _ in range(2)]
    said = [kernel.communicate(timeout=60)[0].splitlines() for kernel in kernels]
    (pid,) = {lines[-1] for lines in said}
    assert pid != str(old.pid)
    (news,) = [line for lines in said for line in lines[:-1]]
    assert news.startswith("longtask_kit: restarted the local stack")


@pytest.mark.thorough
def test_a_stack_in_a_terminal_ends_as_by_longtask_down(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-m", "longtask_kit.cli", "up", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as terminal:
        try:
            assert terminal.stdout is not None
            environment = json.loads(terminal.stdout.readline())
            rewrite_state(home / "data", OLD)
            stack = lt.LocalStack.join_or_start()
            assert terminal.wait(15) == 0
        finally:
            terminal.terminate()
    assert stack.environment == environment
    assert "`longtask up`" in caplog.text


@pytest.mark.thorough
def test_a_stack_on_a_redis_of_its_own_is_left_alone(home: Path, tmp_path: Path) -> None:
    with lt.LocalStack.start(tmp_path):
        url = f"unix://{StackFiles.of(tmp_path).socket}"
        with lt.LocalStack.start(home / "data", redis_url=url) as stack:
            rewrite_state(home / "data", OLD)
            with pytest.raises(lt.LocalStackError, match="same --redis-url"):
                lt.LocalStack.join_or_start()
            assert is_alive(stack.pid)


def test_a_redis_that_cannot_be_asked_tells_no_number(stack: lt.LocalStack) -> None:
    assert count_pending(stack.environment) is not None
    assert count_pending(stack.environment | {"UPSTASH_REDIS_REST_TOKEN": "wrong"}) is None
    assert count_pending(stack.environment | {"UPSTASH_REDIS_REST_URL": "nowhere"}) is None
    assert count_pending({}) is None


@pytest.mark.parametrize(
    ("pending", "is_embedded", "says"),
    [
        (0, True, None),
        (0, False, "--redis-url"),
        (3, True, "queue: 3. Run `longtask down` when they are done"),
        (3, False, "--redis-url"),  # not "and then this again", which would start it without
        (None, True, "does not tell whether tasks are under way: run `longtask down`"),
    ],
)
def test_only_an_idle_stack_with_embedded_data_is_restarted_unasked(
    pending: int | None, is_embedded: bool, says: str | None
) -> None:
    objection = explain_objection(pending=pending, is_embedded=is_embedded)
    assert (objection is None) == (says is None)
    assert says is None or says in str(objection)
