import json
import subprocess
import sys

import pytest

from tests.benchmarks.cases import BENCHMARKS


@pytest.mark.timeout(300)
def test_every_benchmark_yields_rows_whatever_the_machine_is_busy_with() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["benchmark"] for row in report["rows"]} == set(BENCHMARKS)
    assert all(row["min"] <= row["median"] <= row["max"] for row in report["rows"])
    assert {row["benchmark"] for row in report["rows"] if row["aim"] is not None} == {
        "import",
        "stack",
        "first-token",
        "queue",
        "redis",
        "widget",
    }
    assert report["machine"]["cores"] >= 1


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "log-size" in done.stderr
