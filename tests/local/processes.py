"""Processes of a test: to start one, to find one, to see whether it runs."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read_process_cpu_s(pid: int) -> float:
    """Return the CPU seconds of one process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def find_valkey(stack_pid: int) -> int:
    """Return the process id of a stack's Valkey."""
    children = Path(f"/proc/{stack_pid}/task/{stack_pid}/children").read_text().split()
    return int(children[0])
