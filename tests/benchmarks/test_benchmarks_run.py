import contextlib
import json
import subprocess
import sys
from subprocess import PIPE

import pytest

from tests.benchmarks.cases import BENCHMARKS
from tests.benchmarks.readers import CONTESTANTS


@pytest.mark.thorough
@pytest.mark.timeout(960)
def test_every_benchmark_yields_rows_whatever_the_machine_is_busy_with() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json"]
    # Two halves at once: what is shown is that they run. Each has a stack of its own.
    halves = [[f"--only={name}" for name in list(BENCHMARKS)[at::2]] for at in range(2)]
    with contextlib.ExitStack() as stack:
        running = [
            subprocess.Popen([*command, *half], stdout=PIPE, stderr=PIPE, text=True)
            for half in halves
        ]
        # No shorter than any machine takes: killed, they would leave their JupyterLab behind.
        for one in running:
            stack.callback(one.kill)
        done = [one.communicate(timeout=450) for one in running]

    assert [one.returncode for one in running] == [0, 0], [errors for _, errors in done]
    reports = [json.loads(printed) for printed, _ in done]
    rows = [row for report in reports for row in report["rows"]]
    skipped = [line for report in reports for line in report["skipped"]]
    assert {row["benchmark"] for row in rows} == set(BENCHMARKS)
    assert all(row["min"] <= row["median"] <= row["max"] for row in rows)
    aimed = {row["benchmark"] for row in rows if row["aim"] is not None}
    assert aimed >= {"import", "cold-run", "side-by-side", "far-redis", "followers", "memory"}
    assert all(report["machine"]["cores"] >= 1 for report in reports)

    compared = {row["who"] for row in rows if row["benchmark"] == "side-by-side"} - {""}
    missing = set(CONTESTANTS) - compared
    assert "longtask_kit" in compared
    assert all(any(line.startswith(name) for line in skipped) for name in missing)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "side-by-side" in done.stderr
