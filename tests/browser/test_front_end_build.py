"""The built front end is what its sources give, and its pure parts work."""

import shutil
import subprocess
from pathlib import Path

import pytest

import longtask_kit

WIDGETS = Path(longtask_kit.__file__).parent / "widgets"

pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None, reason="no node and npm on this machine"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with their build tools installed."""
    folder = tmp_path_factory.mktemp("js") / "js"
    shutil.copytree(WIDGETS / "js", folder, ignore=shutil.ignore_patterns("node_modules"))
    run(folder, "npm", "ci", "--no-audit", "--no-fund")
    return folder


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
def test_the_checked_in_files_are_what_the_sources_give(sources: Path) -> None:
    run(sources, "node", "build.js", "built")
    for built in (sources / "built").iterdir():
        assert built.read_bytes() == (WIDGETS / "static" / built.name).read_bytes(), (
            f"{built.name} is stale: cd longtask_kit/widgets/js && npm ci && npm run build"
        )


@pytest.mark.thorough
def test_the_pure_parts_work(sources: Path) -> None:
    run(sources, "npm", "test")


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (WIDGETS / "js" / "package-lock.json").read_text()
