"""The `longtask` command, as a person types it.

In this process where its text is the subject; as a process where pipes, signals, a terminal or
what a shell sees of it are.
"""

import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import httpx
import pyte
import pytest

import longtask_kit as lt
from longtask_kit.log.keys import new_task_id
from tests.command import LONGTASK, call, longtask, spawn
from tests.wait import wait_until


@pytest.fixture
def environment(stack: lt.LocalStack) -> dict[str, str]:
    """Nothing but the variables that `longtask up` prints."""
    return stack.environment


@pytest.fixture
def plain(kit: lt.Kit) -> str:
    return kit.submit("Explain tides", model="demo-fast").result(30)


def read_id(process: subprocess.Popen[str]) -> str:
    """Return the task id from a running `longtask run --json`."""
    assert process.stdout is not None
    task_id: str = json.loads(process.stdout.readline())["taskId"]
    return task_id


def test_run_streams_the_text_and_nothing_else_to_standard_output(
    environment: dict[str, str], plain: str
) -> None:
    done = longtask("run", "Explain tides", "--model", "demo-fast", **environment)
    assert done.returncode == 0
    assert done.stdout.rstrip("\n") == plain.rstrip("\n")
    assert "QStash 127.0.0.1" in done.stderr
    piped = spawn("run", "-", "--model", "demo-fast", stdin="Explain tides", **environment)
    assert (piped.returncode, piped.stdout) == (0, done.stdout)


def test_run_json_prints_one_wire_event_a_line(environment: dict[str, str], plain: str) -> None:
    done = longtask("run", "Explain tides", "--model", "demo-fast", "--json", **environment)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"type", "data", "taskId", "timestamp", "id"} <= set(events[0])
    assert [event["type"] for event in events][-1] == "end"
    assert events[-1]["data"] == plain


@pytest.mark.thorough
def test_a_retry_is_told_on_standard_error(environment: dict[str, str], plain: str) -> None:
    done = longtask("run", "Explain tides", "--model", "demo-cut-then-ok", **environment)
    assert done.returncode == 0
    assert done.stdout.rstrip("\n").endswith(plain.rstrip("\n"))
    assert "attempt 1 failed" in done.stderr
    assert "starts over" in done.stderr


def test_a_failed_task_is_exit_code_1_with_its_cause(environment: dict[str, str]) -> None:
    done = spawn("run", "Explain tides", "--model", "demo-bad-key", **environment)
    assert done.returncode == 1
    assert "failed: The model service answered 401" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", " "], "empty"),
        (["run", "x", "--max-tokens", "0"], "maxTokens"),
        (["run", "x", "--temperature", "9"], "temperature"),
        (["tail", "task_" + "0" * 22], "submit it again"),
        (["cancel", "nonsense"], "submit it again"),
        (["status", "nonsense"], "submit it again"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    environment: dict[str, str], arguments: list[str], says: str
) -> None:
    done = longtask(*arguments, **environment)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_half_an_environment_is_told(environment: dict[str, str]) -> None:
    half = {"QSTASH_TOKEN": environment["QSTASH_TOKEN"]}
    done = longtask("run", "x", **half)
    assert done.returncode == 1
    assert "UPSTASH_REDIS_REST_URL" in done.stderr
    assert environment["QSTASH_TOKEN"] not in done.stderr + done.stdout


def test_killing_run_loses_nothing(environment: dict[str, str], plain: str) -> None:
    command = [*LONGTASK, "run", "Explain tides", "--model", "demo@100", "--json"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert running.stdout is not None
    task_id = read_id(running)
    for line in running.stdout:
        if json.loads(line)["type"] == "content":
            break
    running.kill()
    running.communicate()
    tailed = longtask("tail", task_id, "--json", **environment)
    events = [json.loads(line) for line in tailed.stdout.splitlines()]
    deltas = [event for event in events if event["type"] == "content"]
    assert "".join(event["data"] for event in deltas) == plain
    assert len({event["id"] for event in events}) == len(events), "each event once"
    assert longtask("tail", task_id, **environment).stdout.rstrip("\n") == plain.rstrip("\n")


def test_ctrl_c_leaves_at_once_and_says_how_to_come_back(environment: dict[str, str]) -> None:
    command = [*LONGTASK, "run", "Explain tides", "--model", "demo-slow-start", "--json"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    task_id = read_id(running)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert longtask("status", task_id, **environment).stdout.count("running"), "it did not wait"
    assert running.returncode == 130
    assert f"longtask tail {task_id}" in errors
    assert "Traceback" not in errors
    assert longtask("cancel", task_id, **environment).stdout in ("cancelled\n", "asked to stop\n")
    ended = longtask("tail", task_id, **environment)
    assert ended.returncode == 1
    assert "cancelled" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "Explain tides", "--model", "demo-fast"],
        ["run", "Explain tides", "--model", "demo-fast", "--json"],
        ["run", "Explain tides", "--model", "demo-bad-key"],
        ["tail", "ID"],
        ["tail", "ID", "--json"],
        ["ls"],
        ["ls", "--json"],
        ["status"],
        ["status", "--json"],
        ["status", "ID"],
        ["status", "ID", "--json"],
        ["cancel", "ID"],
        ["doctor"],
        ["down"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(
    environment: dict[str, str], kit: lt.Kit, home: Path, arguments: list[str]
) -> None:
    ended = kit.submit("x", model="demo-fast")
    ended.result(30)
    words = [ended.id if word == "ID" else word for word in arguments]
    errors = io.StringIO()
    # What is still in its buffer is flushed when it is closed, as at a process' end.
    with open_closed_pipe() as stdout:
        returncode = call(*words, stdout=stdout, stderr=errors, **environment)
    check_quiet_end(arguments, returncode, errors.getvalue())


@pytest.mark.parametrize("arguments", [["run", "x", "--model", "demo-fast"], ["ls"]], ids=" ".join)
def test_a_process_ends_as_quietly(environment: dict[str, str], arguments: list[str]) -> None:
    with open_closed_pipe() as stdout:
        done = subprocess.run(
            [*LONGTASK, *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=os.environ | environment,
            check=False,
        )
    check_quiet_end(arguments, done.returncode, done.stderr)


def open_closed_pipe() -> TextIO:
    """Return the writing end of a pipe whose reader has left, as `| head` does."""
    closed, writing = os.pipe()
    os.close(closed)
    return os.fdopen(writing, "w")


def check_quiet_end(arguments: list[str], returncode: int, errors: str) -> None:
    # A failed task has said so on standard error; no text of it was lost.
    assert returncode == (1 if "demo-bad-key" in arguments else 141), errors
    assert "Traceback" not in errors
    assert "Broken pipe" not in errors
    assert "BrokenPipe" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(words, marks=[] if words[0] in ("run", "ls") else pytest.mark.thorough)
        for words in (
            *(["run", "x"], ["tail", "ID"], ["ls"], ["status", "ID"], ["cancel", "ID"]),
            ["doctor"],
        )
    ],
    ids=" ".join,
)
def test_ctrl_c_while_a_service_is_silent_ends_a_command_quietly(
    environment: dict[str, str], arguments: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        running = subprocess.Popen(
            [*LONGTASK, *(new_task_id() if word == "ID" else word for word in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment | {"UPSTASH_REDIS_REST_URL": url},
        )
        silent.settimeout(30)
        asked, _ = silent.accept()
        with asked:
            running.send_signal(signal.SIGINT)
            shown, errors = running.communicate(timeout=20)
    assert running.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in shown + errors


def test_ls_and_status_show_what_there_is(environment: dict[str, str], kit: lt.Kit) -> None:
    task = kit.submit("A prompt with [red]markup[/red] and \x1b[31mescapes", model="demo-fast")
    task.result(30)
    listed = longtask("ls", "--limit", "3", **environment)
    assert task.id in listed.stdout
    assert "[red]markup[/red]" in listed.stdout
    assert "\x1b[31m" not in listed.stdout
    record = json.loads(longtask("status", task.id, "--json", **environment).stdout)
    assert (record["taskId"], record["status"]) == (task.id, "completed")
    assert "completed" in longtask("status", task.id, **environment).stdout
    first = json.loads(longtask("ls", "--json", "--limit", "1", **environment).stdout)
    assert first["taskId"].startswith("task_")


def test_doctor_finds_everything_well(environment: dict[str, str]) -> None:
    done = longtask("doctor", **environment)
    assert done.returncode == 0, done.stdout
    for row in ("Redis answers", "QStash answers", "signing keys match", "model answers"):
        assert f"✓  {row}" in done.stdout
    for name in ("QSTASH_TOKEN", "OPENAI_API_KEY"):
        assert environment[name] not in done.stdout


@pytest.mark.parametrize(
    ("change", "row", "cure"),
    [
        ({"QSTASH_TOKEN": "wrong"}, "QStash answers", "Check QSTASH_TOKEN"),
        ({"UPSTASH_REDIS_REST_TOKEN": "wrong"}, "Redis answers", "WRONGPASS"),
        ({"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:9"}, "Redis answers", "URL"),
        ({"OPENAI_API_KEY": "wrong"}, "model answers", "check OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9"}, "model answers", "check OPENAI_BASE_URL"),
        ({"LONGTASK_MODEL": "gpt-9"}, "model answers", "LONGTASK_MODEL"),
        ({"LONGTASK_BASE_URL": "http://127.0.0.1:9"}, "webhook answers", "LONGTASK_BASE_URL"),
        ({"QSTASH_CURRENT_SIGNING_KEY": "sig_" + "0" * 40}, "signing keys match", "Copy both"),
        ({"OPENAI_API_KEY": ""}, "OPENAI_API_KEY", "platform.openai.com"),
    ],
)
def test_doctor_names_what_is_wrong_and_the_cure(
    environment: dict[str, str], change: dict[str, str], row: str, cure: str
) -> None:
    done = longtask("doctor", **(environment | change))
    assert done.returncode == 1
    assert f"✗  {row}" in done.stdout
    assert cure in " ".join(done.stdout.split())


@pytest.fixture
def up(home: Path) -> Iterator[subprocess.Popen[str]]:
    """`longtask up --json` on free ports."""
    ports = [f"--{name}-port=0" for name in ("redis", "qstash", "app", "model")]
    running = subprocess.Popen(
        [*LONGTASK, "up", "--json", *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield running
    running.kill()
    running.communicate()


def test_up_prints_an_environment_that_is_all_another_shell_needs(
    up: subprocess.Popen[str], plain: str
) -> None:
    assert up.stdout is not None
    environment = json.loads(up.stdout.readline())
    assert set(environment) == {
        "QSTASH_URL",
        "QSTASH_TOKEN",
        "QSTASH_CURRENT_SIGNING_KEY",
        "QSTASH_NEXT_SIGNING_KEY",
        "UPSTASH_REDIS_REST_URL",
        "UPSTASH_REDIS_REST_TOKEN",
        "UPSTASH_REDIS_REST_READ_ONLY_TOKEN",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "LONGTASK_BASE_URL",
        "NEXT_PUBLIC_BASE_URL",
        "LONGTASK_MODEL",
    }
    done = longtask("run", "Explain tides", "--model=demo-fast", LONGTASK_HOME="/x", **environment)
    assert done.stdout.rstrip("\n") == plain.rstrip("\n")
    joined = longtask("status")
    assert f"process {up.pid}" in joined.stdout, "notebooks on this machine join it"
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=20)
    assert up.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.thorough
def test_ctrl_c_on_up_is_quiet_while_a_task_runs(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    environment = json.loads(up.stdout.readline())
    command = [*LONGTASK, "run", "Explain tides", "--model", "demo@20", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as running:
        assert running.stdout is not None
        assert any('"content"' in line for line in running.stdout)
        up.send_signal(signal.SIGINT)
        _, errors = up.communicate(timeout=20)
        running.kill()
    assert up.returncode == 130
    assert errors == "interrupted\n"


def test_down_ends_the_stack_once(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    up.stdout.readline()
    again = longtask("up", "--redis-port=0", "--qstash-port=0", "--app-port=0", "--model-port=0")
    assert again.returncode == 1
    assert "longtask down" in again.stderr
    assert "has ended" in longtask("down").stdout
    up.communicate(timeout=20)
    assert up.returncode == 0
    assert "no local stack" in longtask("down").stdout


def test_serve_serves_the_app_from_the_environment(
    environment: dict[str, str], kit: lt.Kit
) -> None:
    keyless = {name: value for name, value in environment.items() if "SIGNING" not in name}
    bare = longtask("serve", "--port", "0", **keyless)
    assert bare.returncode == 1
    assert "QSTASH_CURRENT_SIGNING_KEY" in bare.stderr
    port = environment["LONGTASK_BASE_URL"].rpartition(":")[2]
    taken = longtask("serve", "--port", port, **environment)
    assert taken.returncode == 1
    assert f"127.0.0.1:{port}" in taken.stderr
    serving = subprocess.Popen(
        [*LONGTASK, "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert serving.stderr is not None
    try:
        said = serving.stderr.readline()
        assert "webhook app on http://127.0.0.1:" in said
        wait_until(lambda: "startup complete" in serving.stderr.readline())  # type: ignore[union-attr]
        url = said.split()[3].rstrip(",")
        rebound = httpx.get(f"{url}/api/tasks", headers={"Host": "rebound.example"})
        assert rebound.status_code == 421
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=20)
    finally:
        serving.kill()
    assert serving.returncode == 130
    assert "Traceback" not in errors


def keep_letters(text: str) -> str:
    """Leave out blanks, which wrapping moves, and emoji, whose width terminals disagree on."""
    return "".join(re.findall(r"[!-~]", text))


def test_on_a_terminal_a_status_line_lives_below_the_text(
    environment: dict[str, str], kit: lt.Kit
) -> None:
    # A reply without joined emoji, which the emulator does not know.
    plain = kit.submit("Explain sand", model="demo-fast", max_tokens=40).result(30)
    main, side = pty.openpty()
    running = subprocess.Popen(
        [*LONGTASK, "run", "Explain sand", "--model", "demo@60", "--max-tokens", "40"],
        stdout=side,
        stderr=side,
        env=os.environ | environment | {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "60"},
    )
    os.close(side)
    shown = b""
    while select.select([main], [], [], 30)[0]:
        try:
            shown += os.read(main, 65_536)
        except OSError:  # the terminal's other side is closed
            break
    assert running.wait(20) == 0
    os.close(main)
    assert b"running \xc2\xb7 " in shown
    # What a person sees in the end: the text once, the status below it, nothing left over.
    screen = pyte.Screen(60, 60)
    pyte.ByteStream(screen).feed(shown)
    seen = keep_letters("".join(screen.display))
    assert keep_letters(plain) in seen
    assert seen.count("completed") == 1
    assert "running" not in seen
