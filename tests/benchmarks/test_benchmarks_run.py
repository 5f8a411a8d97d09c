import json
import subprocess
import sys

import pytest

from tests.benchmarks.cases import BENCHMARKS
from tests.benchmarks.readers import CONTESTANTS


@pytest.mark.thorough
@pytest.mark.timeout(960)
def test_every_benchmark_yields_rows_whatever_the_machine_is_busy_with() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json"]
    # No shorter than any machine takes: killed, it would leave its JupyterLab behind.
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = report["rows"]
    assert {row["benchmark"] for row in rows} == set(BENCHMARKS)
    assert all(row["min"] <= row["median"] <= row["max"] for row in rows)
    aimed = {row["benchmark"] for row in rows if row["aim"] is not None}
    assert aimed >= {"import", "cold-run", "side-by-side", "far-redis", "followers", "memory"}
    assert report["machine"]["cores"] >= 1

    compared = {row["who"] for row in rows if row["benchmark"] == "side-by-side"} - {""}
    missing = set(CONTESTANTS) - compared
    assert "longtask_kit" in compared
    assert all(any(line.startswith(name) for line in report["skipped"]) for name in missing)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "side-by-side" in done.stderr
