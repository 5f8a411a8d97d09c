"""How a stack starts: on ports of its own, from options that make sense."""

import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.local.files import StackFiles
from longtask_kit.local.spawn import explain_death
from longtask_kit.server.serve import bind
from tests.command import longtask


def find_port(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.thorough
def test_a_chosen_port_wins_over_one_that_a_service_had_last_time(
    home: Path, tmp_path: Path
) -> None:
    with lt.LocalStack.start(tmp_path) as first:
        port = find_port(first.environment["UPSTASH_REDIS_REST_URL"])
    with lt.LocalStack.start(tmp_path, qstash_port=port) as second:
        assert find_port(second.environment["QSTASH_URL"]) == port
        assert find_port(second.environment["UPSTASH_REDIS_REST_URL"]) != port


@pytest.mark.thorough
def test_one_port_for_two_services_is_refused(home: Path, tmp_path: Path) -> None:
    with lt.LocalStack.start(tmp_path) as stack:
        port = find_port(stack.environment["QSTASH_URL"])
    with pytest.raises(lt.LocalStackError, match="--qstash-port"):
        lt.LocalStack.start(tmp_path, redis_port=port, qstash_port=port)
    with lt.LocalStack.start(tmp_path) as again:
        assert again.environment == stack.environment, "the data folder is as it was"


def test_two_served_apps_never_share_a_port() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(lt.ConfigError, match=f"127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
@pytest.mark.thorough
def test_a_proxy_of_the_starting_shell_does_not_come_between_the_services(
    home: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    with monkeypatch.context() as shell:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            shell.setenv(name, proxy)
        shell.setenv("no_proxy", "intranet.example")
        stack = lt.LocalStack.start()
    with stack, lt.connect(settings=stack.settings, quiet=True) as kit:
        assert kit.submit("Explain tides", model="demo-fast").result(30)
        assert "Traceback" not in stack.log_path.read_text()


def test_a_relative_home_is_the_same_folder_for_a_stack_and_its_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as folder:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("LONGTASK_HOME", "here")
        with lt.LocalStack.join_or_start() as stack:
            assert stack.log_path.parent == Path(folder, "here", "run")
            assert Path(folder, "here", "data", "identity.json").exists()


@pytest.mark.thorough
def test_a_stack_starts_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    for value in ("/nowhere", str(home / "file")):
        monkeypatch.setenv("HOME", value)
        lt.LocalStack.start().stop()
    monkeypatch.delenv("HOME")
    lt.LocalStack.start().stop()


def test_a_home_that_is_no_folder_is_an_error_with_the_cure(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("LONGTASK_HOME", str(home / "file"))
    with pytest.raises(lt.LocalStackError, match=f"{home}/file/run.*LONGTASK_HOME"):
        lt.LocalStack.start()
    with pytest.raises(lt.LocalStackError, match=f"{home}/file/run.*LONGTASK_HOME"):
        lt.LocalStack.find()


@pytest.mark.parametrize("arguments", [(), (None,), ("folder",)])
def test_the_form_that_started_a_stack_once_says_what_to_call(arguments: tuple[Any, ...]) -> None:
    once: Any = lt.LocalStack
    with pytest.raises(lt.LocalStackError, match=r"LocalStack\.start\(.*LocalStack\.join_or_start"):
        once(*arguments, time_scale=0.01)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"app_port": 99_999}, "--app-port.*1 to 65535.*99999"),
        ({"model_port": -1}, "--model-port.*found -1"),
        ({"redis_port": "8079"}, "--redis-port.*found '8079'"),
        ({"redis_port": 5000, "qstash_port": 5000}, "--redis-port.*--qstash-port.*both 5000"),
        ({"time_scale": 0}, "--time-scale.*above 0.*found 0"),
        ({"time_scale": math.nan}, "--time-scale.*found nan"),
        ({"tokens_per_s": -1.0}, "--tokens-per-s.*found -1.0"),
        ({"idle_exit_s": 0}, "idle_exit_s.*None for never.*found 0"),
        ({"redis_url": "garbage"}, "--redis-url.*redis://localhost:6379/0"),
        ({"redis_url": "redis://me:secret@host:port"}, "--redis-url"),
        ({"redis_url": "redis://127.0.0.1:1"}, "--redis-url.*127.0.0.1:1.*Connection refused"),
        ({"speed": 3}, "no option speed; it has redis_port"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_by_name(
    home: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(lt.LocalStackError, match=says) as caught:
        lt.LocalStack.start(**options)
    assert "secret" not in str(caught.value)
    with pytest.raises(lt.LocalStackError, match=says):
        lt.LocalStack.join_or_start(**options)


def test_every_stack_option_of_the_command_line_is_checked(home: Path) -> None:
    (home / "file").touch()
    for option, value in (
        ("--app-port", "99999"),
        ("--time-scale", "nan"),
        ("--redis-url", "garbage"),
        ("--data", f"{home}/file"),
        ("--data", f"{home}/{'long' * 99}"),
    ):
        done = longtask("up", option, value)
        assert done.returncode == 1
        assert done.stderr.startswith("LocalStackError: "), done.stderr
        assert option in done.stderr
        assert "Traceback" not in done.stderr


def test_a_disk_that_is_in_the_way_is_an_error_with_the_cure(home: Path) -> None:
    files = StackFiles.of(home / "data")
    for path, is_full in ((files.log, True), (files.lock, False), (files.state, False)):
        if is_full:
            path.symlink_to("/dev/full")
        else:
            path.unlink(missing_ok=True)
            path.mkdir()
        with pytest.raises(lt.LocalStackError, match=f"{home}/run and {home}/data.*LONGTASK_HOME"):
            lt.LocalStack.join_or_start()
        path.unlink() if is_full else path.rmdir()


def test_valkeys_own_words_reach_whoever_starts_the_stack(home: Path, tmp_path: Path) -> None:
    (tmp_path / "valkey" / "appendonlydir").mkdir(parents=True)
    manifest = tmp_path / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("file appendonly.aof.1.incr.aof seq 1 type i\n")
    manifest.with_name("appendonly.aof.1.incr.aof").write_bytes(b"\xff" * 99)
    with pytest.raises(lt.LocalStackError, match=r"(?s)Valkey ended .*append only file"):
        lt.LocalStack.start(tmp_path)


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("starting\nLocalStackError: a\nb\nc", "a\nb\nc"),
        ("LocalStackError: of an attempt before\nLocalStackError: a", "a"),
        ("starting", "exit code -9.*starting"),
        ("Traceback …\nKeyError: 'LocalStackError: x'", "exit code -9.*Traceback"),
    ],
)
def test_the_whole_cause_of_a_death_is_told(tmp_path: Path, log: str, says: str) -> None:
    told = explain_death(log, -9, StackFiles(tmp_path, tmp_path))
    assert re.fullmatch(says, told) or re.search(f"(?s){says}", told)
    assert "LocalStackError: " not in told.splitlines()[0]


def test_a_data_folder_that_cannot_be_is_an_error_with_the_cure(home: Path) -> None:
    (home / "file").touch()
    for data in (home / "file", home / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(lt.LocalStackError, match=f"{data} as a folder.*--data"):
            lt.LocalStack.start(data)
