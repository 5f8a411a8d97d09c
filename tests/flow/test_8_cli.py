"""The `longtask` command, as a person types it.

In this process where its text is the subject; as a process where pipes, signals, a terminal or
what a shell sees of it are.
"""

import contextlib
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import httpx
import pyte
import pytest
import trustme
from rich.cells import cell_len
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import longtask_kit
import longtask_kit as lt
from longtask_kit.cli.console import ToldStream
from longtask_kit.client.terminal import _print_live
from longtask_kit.log.keys import new_task_id
from tests.command import LONGTASK, call, longtask, spawn
from tests.serving import free_port, serve
from tests.thorough import first_of
from tests.tls import terminate_tls
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


POEM = "写一个关于河流的俳句 🌊 – café"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
def test_text_that_the_encoding_lacks_ends_no_command(
    environment: dict[str, str], kit: lt.Kit, encoding: str
) -> None:
    task = kit.submit(POEM, model="demo-fast")
    text = task.result(30)
    commands = {
        "run": ["run", POEM, "--model", "demo-fast"],
        "tail": ["tail", task.id],
        "failed": ["run", POEM, "--model", "模型"],
        **{name: [name] for name in ("ls", "doctor", "status")},
        "record": ["status", task.id],
        "messages": ["queue", "list"],
        "events": ["tail", task.id, "--json"],
        "records": ["ls", "--json", "--limit", "1"],
    }
    said: dict[str, str] = {}
    for name, arguments in commands.items():
        with tempfile.TemporaryFile("w+", encoding=encoding) as out:
            with tempfile.TemporaryFile("w+", encoding=encoding) as errors:
                ended = call(*arguments, stdout=out, stderr=errors, **environment)
            out.seek(0)
            said[name] = out.read()
        assert ended == (1 if name == "failed" else 0), name
    escaped = text.encode(encoding, "backslashreplace").decode(encoding)
    assert said["run"].rstrip("\n") == said["tail"].rstrip("\n") == escaped.rstrip("\n")
    assert json.loads(said["events"].splitlines()[-1])["data"] == text
    assert json.loads(said["records"])["prompt"] == POEM


def test_a_process_whose_streams_are_not_utf8_says_it_all(
    environment: dict[str, str], kit: lt.Kit
) -> None:
    text = kit.submit(POEM, model="demo-fast").result(30)
    told = {"PYTHONIOENCODING": "cp1252"}
    done = spawn("run", POEM, "--model", "demo-fast", "--json", **told, **environment)
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["data"] == text


def test_input_that_is_not_in_its_encoding_is_one_line(environment: dict[str, str]) -> None:
    done = spawn("run", "-", stdin="ü", PYTHONIOENCODING="ascii:strict", **environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("SubmitError: Standard input is not ascii (")
    assert "PYTHONIOENCODING" in done.stderr


def test_bytes_that_are_no_text_are_told_in_a_locale_that_lets_them_through() -> None:
    done = longtask("run", "-", stdin="caf\udce9")
    assert done.returncode == 1
    assert done.stderr.startswith("SubmitError: Standard input is not ")
    assert "at character 3): convert it" in done.stderr.replace("\n", " ")


def test_the_mark_before_a_text_is_no_part_of_a_prompt(
    environment: dict[str, str], kit: lt.Kit
) -> None:
    done = longtask(
        "run", "-", "--no-wait", "--model", "demo-fast", stdin="\ufeffHi", **environment
    )
    assert kit.attach(done.stdout.strip()).prompt == "Hi"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_the_caller_has_closed_is_as_if_nobody_read_it(
    environment: dict[str, str], closed: str
) -> None:
    command = shlex.join([*LONGTASK, "run", "Hi", "--model", "demo-fast", "--max-tokens", "3"])
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"],  # noqa: S607 - the shell's own
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_an_interrupt_while_the_command_loads_is_no_traceback(tmp_path: Path) -> None:
    # What it loads first sends the signal, so that it comes while it loads.
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    root = str(Path(longtask_kit.__file__).parents[1])
    done = spawn("ls", PYTHONPATH=os.pathsep.join([str(tmp_path), root]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def run_into(
    stdout: TextIO, arguments: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with that standard output."""
    return subprocess.run(
        [*LONGTASK, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that Linux has")
def test_output_that_finds_no_room_is_one_line(environment: dict[str, str]) -> None:
    with open("/dev/full", "w") as full:
        done = run_into(full, ["status"], environment)
    assert done.returncode == 1
    assert done.stderr == "What this printed could not be written: No space left on device.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_what_its_encoding_has(environment: dict[str, str], encoding: str) -> None:
    main, side = pty.openpty()
    command = [*LONGTASK, "run", POEM, "--model", "demo-fast", "--max-tokens", "30"]
    variables = {"TERM": "xterm-256color", "COLUMNS": "60", "PYTHONIOENCODING": encoding}
    with subprocess.Popen(
        command, stdout=side, stderr=side, env=os.environ | environment | variables
    ) as running:
        os.close(side)
        shown = read_terminal(main)
    assert running.returncode == 0, shown
    assert b"completed" in shown
    assert shown.isascii() == (encoding == "ascii")


def read_terminal(main: int) -> bytes:
    """Return all that is shown until the other side of a terminal is closed."""
    shown = b""
    while select.select([main], [], [], 30)[0]:
        try:
            shown += os.read(main, 65_536)
        except OSError:
            break
    os.close(main)
    return shown


def test_a_failed_task_is_exit_code_1_with_its_cause(environment: dict[str, str]) -> None:
    done = spawn("run", "Explain tides", "--model", "demo-bad-key", **environment)
    assert done.returncode == 1
    assert "failed: The model service answered 401" in done.stderr
    assert "Check OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", " "], "empty"),
        (["run"], "There is nothing to ask"),
        (["run", "x", "--max-tokens", "0"], '"--max-tokens" is 0'),
        (["run", "x", "--temperature", "9"], '"--temperature" is 9'),
        (["run", "x", "--timeout", "0"], '"--timeout" is 0'),
        (["run", "x", "--param", "stop"], "--param 'stop': expected name=value"),
        (["run", "x", "--api", "chats"], "\"--api\" is 'chats': expected chat or responses"),
        (["run", "x", "--max-tokens", "many"], "--max-tokens is 'many': expected a whole number"),
        (["run", "x", "--image", "/no/such.png"], "/no/such.png can't be read"),
        (["run", "--messages", "/no/such.json"], "--messages: /no/such.json can't be read"),
        (["queue", "list", "--state", "FOO"], "--state is 'FOO': expected one of CREATED"),
        (["retry", "nonsense"], "submit it again"),
        (["delete", "nonsense"], "submit it again"),
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


@pytest.mark.parametrize("command", ["tail", "status", "cancel", "retry", "delete"])
def test_what_is_no_task_id_starts_no_stack(home: Path, command: str) -> None:
    done = longtask(command, "nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("StreamExpiredError: No task 'nonsense'")
    assert lt.LocalStack.find() is None


def test_no_line_breaks_in_mid_word_on_a_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTASK_MODEL", "gpt-9")
    shown = show(["status"], COLUMNS="80")
    assert "tasks go to    the local stack, but not yet: The model 'gpt-9' is none" in shown
    shown += show(["run", "hi"], COLUMNS="80")
    assert lt.LocalStack.find() is None
    shown += show(["run", "hi", "--model", "demo-refuse"], COLUMNS="80")
    assert "longtask_kit: local stack (" in shown
    assert max(cell_len(line) for line in shown.splitlines()) <= 80, shown


def test_a_long_line_stays_one_where_it_is_piped(home: Path) -> None:
    done = longtask("status", LONGTASK_MODEL="gpt-9", COLUMNS="80")
    assert len(done.stdout.splitlines()) == 2


def test_lines_written_to_standard_output_are_broken_between_words_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "budget 50 tokens; an estimate of all rows: 23 tokens asked, at most 4,000 answered"
    main, side = pty.openpty()
    with os.fdopen(side, "w") as terminal, contextlib.redirect_stderr(terminal):
        stream = ToldStream()
        stream.write(f"{long}\n")
        stream.write("\rsubmitting: 1 s")
        assert stream.isatty()
    assert [line.rstrip(" ") for line in read_terminal(main).decode().split("\r\n")] == [
        long.removesuffix(" answered"),
        "answered",
        "\rsubmitting: 1 s",
    ]


def show(arguments: list[str], **environment: str) -> str:
    """Return what a command prints on a terminal, without its colours."""
    main, side = pty.openpty()
    with os.fdopen(side, "w") as terminal:
        call(*arguments, stdout=terminal, stderr=terminal, TERM="xterm", **environment)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", read_terminal(main).decode())


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
    assert f"longtask tail {task_id}\nEnd it:    longtask cancel {task_id}\n" in errors
    assert "Traceback" not in errors
    assert longtask("cancel", task_id, **environment).stdout in ("cancelled\n", "cancelling\n")
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
        done = run_into(stdout, arguments, environment)
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
    cut = kit.submit("Explain tides", model="demo-length", max_tokens=9)
    cut.result(30)
    for command in (("ls", "--limit", "1"), ("status", cut.id)):
        assert "stopped at max_tokens (9)" in longtask(*command, **environment).stdout
    record = json.loads(longtask("status", task.id, "--json", **environment).stdout)
    assert (record["taskId"], record["status"]) == (task.id, "completed")
    assert "completed" in longtask("status", task.id, **environment).stdout
    first = json.loads(longtask("ls", "--json", "--limit", "1", **environment).stdout)
    assert first["taskId"].startswith("task_")


def test_doctor_shows_a_setting_that_cannot_be_meant_and_a_name_that_nobody_reads() -> None:
    done = longtask("doctor", OPENAI_BASE_URL="127.0.0.1:11434/v1", LONGTASK_MODLE="demo")
    assert done.returncode == 1
    assert "✗  OPENAI_BASE_URL" in done.stdout
    assert "http://127.0.0.1:11434/v1" in done.stdout
    assert "!  LONGTASK_MODLE" in done.stdout
    assert "did you mean LONGTASK_MODEL?" in done.stdout
    assert "not asked" in done.stdout


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
        ({"UPSTASH_REDIS_REST_TOKEN": "wrong"}, "Redis answers", "again, of one database"),
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


def test_doctor_tells_swapped_keys_and_a_token_for_reading(environment: dict[str, str]) -> None:
    names = ("QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY")
    swapped = dict(zip(names, (environment[name] for name in reversed(names)), strict=True))
    done = longtask("doctor", **(environment | swapped))
    assert "are swapped: exchange" in " ".join(done.stdout.split())
    reads = {"UPSTASH_REDIS_REST_TOKEN": environment["UPSTASH_REDIS_REST_READ_ONLY_TOKEN"]}
    done = longtask("doctor", **(environment | reads))
    assert "the token for reading only" in " ".join(done.stdout.split())


@pytest.mark.parametrize(("off_s", "told"), [(-90, "ahead of"), (90, "behind"), (-5, "")])
def test_doctor_tells_a_clock_that_is_off(
    environment: dict[str, str], off_s: int, told: str
) -> None:
    async def answer(request: Request) -> JSONResponse:
        """Answer as a Redis whose clock is off by so much, and which takes what it is sent."""
        asked = await request.json()
        time_there = [str(int(time.time()) + off_s), "0"]
        return JSONResponse({"result": time_there if asked == ["TIME"] else "OK"})

    routes = [Route("/{path:path}", answer, methods=["POST"])]
    with serve(Starlette(routes=routes)) as url:
        done = longtask("doctor", **(environment | {"UPSTASH_REDIS_REST_URL": url}))
    shown = " ".join(done.stdout.split())
    if not told:
        assert "✓ Redis answers" in shown
        assert "the clocks agree" in shown
        return
    assert done.returncode == 1
    assert re.search(rf"✗ Redis answers .*clock is (89|9\d) s {told} its", shown), shown
    assert "timedatectl" in shown


def test_doctor_tells_a_certificate_that_the_models_client_does_not_trust(
    stack: lt.LocalStack, environment: dict[str, str]
) -> None:
    port = urlsplit(stack.environment["OPENAI_BASE_URL"]).port or 0
    with terminate_tls(port, trustme.CA()) as tls_port:
        own = {"OPENAI_BASE_URL": f"https://127.0.0.1:{tls_port}/v1"}
        done = longtask("doctor", **(environment | own))
    shown = " ".join(done.stdout.split())
    assert "shows a certificate that this machine does not trust" in shown
    assert "SSL_CERT_FILE" in shown


@pytest.mark.parametrize("is_hosted", first_of([False, True], rest_in_gate=True))
def test_doctor_tells_of_the_cassette_that_answers_instead(
    environment: dict[str, str], home: Path, tmp_path: Path, is_hosted: bool
) -> None:
    own = environment if is_hosted else {}
    path = tmp_path / "answers.jsonl"
    done = longtask("doctor", **own, LONGTASK_REPLAY=str(path))
    assert done.returncode == 1
    assert "✗  LONGTASK_REPLAY" in done.stdout
    assert (
        longtask("run", "x", LONGTASK_MODEL="demo-fast", LONGTASK_RECORD=str(path)).returncode == 0
    )
    done = longtask("doctor", **own, LONGTASK_REPLAY=str(path))
    assert done.returncode == 0, done.stdout
    assert "replayed from answers.jsonl" in " ".join(done.stdout.split())


def test_a_certificate_that_is_not_trusted_is_told_of_every_service(
    environment: dict[str, str],
) -> None:
    names = ("UPSTASH_REDIS_REST_URL", "QSTASH_URL", "LONGTASK_BASE_URL")
    ca, own = trustme.CA(), {}
    with contextlib.ExitStack() as stack:
        for name in names:
            port = urlsplit(environment[name]).port or 0
            own[name] = f"https://127.0.0.1:{stack.enter_context(terminate_tls(port, ca))}"
        done = longtask("doctor", **(environment | own))
        shown = " ".join(done.stdout.split())
        assert shown.count("this machine does not trust its certificate") == 4, shown
        assert shown.count("set SSL_CERT_FILE to it") == 4
        is_told = pytest.raises(lt.LongTaskError, match="does not trust its certificate")
        with lt.connect(own["LONGTASK_BASE_URL"], quiet=True) as kit, is_told:
            kit.tasks()


def test_doctor_keeps_apart_what_the_environment_sets_and_what_the_local_stack_provides(
    home: Path,
) -> None:
    done = longtask("doctor")
    assert done.returncode == 0, done.stdout
    shown = " ".join(done.stdout.split())
    assert "the environment sets LONGTASK_HOME, LONGTASK_MODEL" in shown
    assert "the local stack provides QSTASH_URL, QSTASH_TOKEN" in shown
    assert "(because of LONGTASK_MODEL)" in shown
    own = {"OPENAI_API_KEY": "sk-canary", "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    done = longtask("doctor", **own, LONGTASK_MODEL="mine")
    shown = " ".join(done.stdout.split())
    assert "local stack, model mine at 127.0.0.1" in shown
    assert "(because of LONGTASK_MODEL, OPENAI_API_KEY, OPENAI_BASE_URL)" in shown
    assert "✗ model answers 127.0.0.1" in shown
    assert "canary" not in shown


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
        "LONGTASK_API_KEY",
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
    shown = read_terminal(main)
    assert running.wait(20) == 0
    assert b"running \xc2\xb7 " in shown
    # What a person sees in the end: the text once, the status below it, nothing left over.
    screen = pyte.Screen(60, 60)
    pyte.ByteStream(screen).feed(shown)
    seen = keep_letters("".join(screen.display))
    assert keep_letters(plain) in seen
    assert seen.count("completed") == 1
    assert "running" not in seen


def test_on_a_terminal_a_text_that_goes_on_after_a_retry_is_one_line(kit: lt.Kit) -> None:
    @lt.handler(continues=True)
    async def cut_once(context: lt.TaskContext) -> AsyncIterator[str]:
        if context.attempt == 1:
            yield "One "
            raise lt.RetryableError("cut")
        yield "sentence.\nAnd one more."

    kit.serve(handlers={"cut_once": cut_once})
    task = kit.submit("x", handler="cut_once")
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, height=20, highlight=False)
    _print_live(task, task.events(), console)
    screen = pyte.Screen(120, 20)
    pyte.Stream(screen).feed(shown.getvalue().replace("\n", "\r\n"))
    lines = [line.strip() for line in screen.display if line.strip()]
    assert lines[:3] == ["── attempt 1 failed: cut", "One sentence.", "And one more."]
    assert re.search(r" · 2 pieces · .* · task_", lines[3])


def test_on_a_terminal_a_refusal_ends_its_line(environment: dict[str, str]) -> None:
    main, side = pty.openpty()
    running = subprocess.Popen(
        [*LONGTASK, "run", "hi", "--model", "demo-refuse@200"],
        stdout=side,
        stderr=side,
        env=os.environ | environment | {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "60"},
    )
    os.close(side)
    shown = read_terminal(main)
    assert running.wait(20) == 0
    screen = pyte.Screen(60, 60)
    pyte.ByteStream(screen).feed(shown)
    *refusal, status, note = [line.strip() for line in screen.display if line.strip()]
    assert " ".join(refusal).endswith("as its name says.")
    assert status.startswith("completed")
    assert note == "refused"


def test_run_asks_what_a_model_takes(
    stack: lt.LocalStack, environment: dict[str, str], tmp_path: Path
) -> None:
    said = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}]
    (tmp_path / "said.json").write_text(json.dumps(said))
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    asked = ["--messages", f"{tmp_path}/said.json", "--image", f"{tmp_path}/cat.png"]
    how = ["--param", "seed=7", "--param", "stop=end", "--schema", f"{tmp_path}/schema.json"]
    how += ["--max-tokens", "none", "--temperature", "none", "--metadata", "lesson=1"]
    how += ["--api", "chat"]
    left = longtask(
        "run", "Two?", *asked, *how, "--retries", "1", "--model", "demo-fast", "--no-wait",
        **environment,
    )  # fmt: skip
    with lt.connect(settings=stack.settings, quiet=True) as kit:
        task = kit.attach(left.stdout.strip())
        parts = [{"type": "text", "text": "Two?"}, lt.image(tmp_path / "cat.png")]
        assert task.messages == [*said, {"role": "user", "content": parts}]
        assert (task.spec.params["seed"], task.spec.params["stop"]) == (7, "end")
        assert task.spec.params["response_format"]["type"] == "json_schema"
        assert task.spec.retries == 1
        assert (task.spec.max_tokens, task.spec.temperature, task.spec.api) == (None, None, "chat")
        assert task.metadata == {"lesson": 1}
        status = list(task.events())[-1].type
    had = {"end": "completed", "error": "failed"}[status]  # by whether the model takes images
    assert longtask("cancel", task.id, **environment).stdout == (
        f"had already {had}; nothing to cancel\n"
    )
    assert longtask("delete", task.id, **environment).stdout == "deleted\n"
    assert "submit it again" in longtask("status", task.id, **environment).stderr


def test_the_version_is_printed() -> None:
    assert longtask("--version").stdout == f"longtask_kit {longtask_kit.__version__}\n"
