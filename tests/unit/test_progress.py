"""What a call that takes its time says meanwhile."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import Future
from contextlib import redirect_stdout
from threading import Timer

import pytest

from longtask_kit.client import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[_Terminal, io.StringIO])
def out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    for name in ("_SAY_EVERY_S", "_STEP_S"):
        monkeypatch.setattr(progress, name, 0.01)
    stream: io.StringIO = request.param()
    return stream


def test_a_line_stands_while_it_takes_and_is_taken_back(out: io.StringIO) -> None:
    future: Future[str] = Future()
    Timer(0.1, future.set_result, ["done"]).start()
    with redirect_stdout(out):
        assert progress.wait_saying(future, "submitting 9 rows") == "done"
    said = "\rsubmitting 9 rows: 0 s"
    if out.isatty():
        assert out.getvalue().startswith(said)
        assert out.getvalue().endswith(f"{said}\r{' ' * (len(said) - 1)}\r")
    else:
        assert out.getvalue() == ""


def test_a_time_out_of_the_call_itself_is_its_error(out: io.StringIO) -> None:
    future: Future[str] = Future()
    Timer(0.05, future.set_exception, [TimeoutError("its own")]).start()
    with redirect_stdout(out), pytest.raises(TimeoutError, match="its own"):
        progress.wait_saying(future, "submitting 9 rows")
    assert out.getvalue().endswith(" \r") or not out.isatty()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_standard_output_lacks_is_escaped(encoding: str) -> None:
    written = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(written, encoding, newline="")) as out:
        progress.say("报告/\udcff.db\n")
        out.flush()
    told = written.getvalue().decode(encoding)
    assert told.endswith("/\\udcff.db\n")
    assert told.startswith("报告" if encoding == "utf-8" else "\\u62a5")
