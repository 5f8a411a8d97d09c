"""The `longtask` command: in this process where its text is the subject, else as a process."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from longtask_kit.cli.main import main

LONGTASK = [sys.executable, "-m", "longtask_kit.cli"]
_WIDTH = {"COLUMNS": "120"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command has printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def longtask(*arguments: str, stdin: str = "", **environment: str) -> Done:
    """Run the command in this process: what a process takes to load is not waited for."""
    out, err = io.StringIO(), io.StringIO()
    returncode = call(*arguments, stdin=stdin, stdout=out, stderr=err, **environment)
    return Done(returncode=returncode, stdout=out.getvalue(), stderr=err.getvalue())


def call(
    *arguments: str, stdin: str = "", stdout: TextIO, stderr: TextIO, **environment: str
) -> int:
    """Run it in this process with these streams, and return its exit code."""
    with (
        _as_called(["longtask", *arguments], stdin, environment),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as exc:
            return exc.code if isinstance(exc.code, int) else 0
    return 0


def spawn(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own, as a shell does."""
    return subprocess.run(
        [*LONGTASK, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | _WIDTH | environment,
        check=False,
    )


@contextlib.contextmanager
def _as_called(argv: list[str], stdin: str, environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ), sys.argv, sys.stdin
    os.environ.update(_WIDTH | environment)
    sys.argv, sys.stdin = argv, io.StringIO(stdin)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before[0])
        sys.argv, sys.stdin = before[1:]
