"""How a stack starts: on ports of its own, from options that make sense."""

from pathlib import Path

import pytest

import longtask_kit as lt
from longtask_kit.serve import bind


def find_port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_a_chosen_port_wins_over_one_that_a_service_had_last_time(
    home: Path, tmp_path: Path
) -> None:
    with lt.LocalStack(tmp_path) as first:
        port = find_port(first.environment["UPSTASH_REDIS_REST_URL"])
    with lt.LocalStack(tmp_path, qstash_port=port) as second:
        assert find_port(second.environment["QSTASH_URL"]) == port
        assert find_port(second.environment["UPSTASH_REDIS_REST_URL"]) != port


def test_one_port_for_two_services_is_refused(home: Path, tmp_path: Path) -> None:
    with lt.LocalStack(tmp_path) as stack:
        port = find_port(stack.environment["QSTASH_URL"])
    with pytest.raises(lt.LocalStackError, match="--qstash-port"):
        lt.LocalStack(tmp_path, redis_port=port, qstash_port=port)
    with lt.LocalStack(tmp_path) as again:
        assert again.environment == stack.environment, "the data folder is as it was"


def test_two_served_apps_never_share_a_port() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(lt.ConfigError, match=f"127.0.0.1:{port}.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_proxy_of_the_starting_shell_does_not_come_between_the_services(
    home: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    with monkeypatch.context() as shell:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            shell.setenv(name, proxy)
        shell.setenv("no_proxy", "intranet.example")
        stack = lt.LocalStack()
    with stack, lt.connect(settings=stack.settings, quiet=True) as kit:
        assert kit.submit("Explain tides", model="demo-fast").result(30)
        assert "Traceback" not in stack.log_path.read_text()
