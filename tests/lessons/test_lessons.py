"""The lessons as they are committed: executed in order, validated for real, nothing private."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest

from longtask_kit.cli.notebooks import LESSONS

_PATHS = sorted(LESSONS.glob("*.ipynb"))
_MAX_CELLS = 32  # about 20 of one idea each, counted with the sentence before
_MAX_CODE_CELLS = 20
_MAX_IGNORED = 0.15
_IGNORED = {"nbval-skip", "nbval-ignore-output"}

_SECRET = re.compile(r"\b(sk|sig)[-_][A-Za-z0-9_-]{16,}|eyJ[\w-]{8,}\.|Bearer [A-Za-z0-9_-]{16,}")
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|Users)/|[A-Z]:\\\\|site-packages"
)
_UNSTABLE = re.compile(
    r"task_[A-Za-z0-9_-]{8,}|msg_[A-Za-z0-9]{8,}|0x[0-9a-f]{6,}|127\.0\.0\.1:\d|"
    r"[0-9a-f]{8}-[0-9a-f]{4}-|\d\d:\d\d:\d\d|\b1[6-9]\d{11}\b"
)


def _read(path: Path) -> Any:  # noqa: ANN401 - nbformat has no types
    return nbformat.read(path, as_version=4)


def _code(path: Path) -> list[Any]:
    return [cell for cell in _read(path).cells if cell.cell_type == "code"]


def _tags(cell: Any) -> set[str]:  # noqa: ANN401
    return set(cell.metadata.get("tags", ()))


def _texts(cell: Any) -> list[str]:  # noqa: ANN401
    """Return every text of a cell's outputs."""
    found = []
    for output in cell.outputs:
        for holder in (output, output.get("data", {})):
            found += [value for value in holder.values() if isinstance(value, str)]
    return found


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_it_is_short_and_says_why_before_how(path: Path) -> None:
    cells = _read(path).cells
    assert len(cells) <= _MAX_CELLS
    assert len(_code(path)) <= _MAX_CODE_CELLS
    assert cells[0].source.startswith("# ")
    bare = [
        cell.id
        for last, cell in pairwise(cells)
        if last.cell_type == cell.cell_type == "code" and cell.id != "magic"
    ]
    assert not bare, "code without a sentence of why before it"


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_it_is_committed_executed_in_order(path: Path) -> None:
    run = [cell for cell in _code(path) if "nbval-skip" not in _tags(cell)]
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1))
    assert "assert" in run[-1].source, "the last cell asserts what the lesson taught"
    assert re.search(r"close\(\)|stop\(\)", run[-1].source), "and stops what it started"


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_almost_every_output_is_compared(path: Path) -> None:
    cells = _code(path)
    speaking = [cell for cell in cells if cell.outputs or _tags(cell) & _IGNORED]
    ignored = [cell for cell in speaking if "nbval-ignore-output" in _tags(cell)]
    assert len(ignored) <= _MAX_IGNORED * len(speaking)
    if path.stem != "07_real_upstash":  # its cells for an account
        assert not [cell for cell in cells if "nbval-skip" in _tags(cell)]


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_it_holds_nothing_private_and_nothing_that_changes(path: Path) -> None:
    for cell in _code(path):
        for text in _texts(cell):
            for pattern in (_SECRET, _MACHINE_PATH, _UNSTABLE):
                assert not pattern.search(text), f"cell {cell.id}"
        for output in cell.outputs:
            assert output.output_type != "error" or "raises-exception" in _tags(cell)
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        assert not _MACHINE_PATH.search(cell.source), f"cell {cell.id}"
        assert not set(cell.metadata) - {"tags"}
    assert set(_read(path).metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.stem)
def test_its_pictures_are_there_and_can_be_heard(path: Path) -> None:
    for cell in _read(path).cells:
        for words, target in re.findall(r"!\[(.*?)\]\((.*?)\)", cell.source):
            assert len(words) > 20, "a picture's text alternative tells what it shows"
            assert (path.parent / target).exists()


@pytest.mark.parametrize("path", sorted(LESSONS.glob("images/*.svg")), ids=lambda path: path.stem)
def test_a_drawing_has_a_title_and_a_description(path: Path) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
    assert root.findtext(f"{svg}title")
    assert len(root.findtext(f"{svg}desc") or "") > 40


@pytest.mark.thorough
def test_one_falsified_character_is_noticed(tmp_path: Path) -> None:
    for name in ("00_导读.ipynb", "conftest.py", "sanitize.cfg"):
        shutil.copy(LESSONS / name, tmp_path)
    lesson = tmp_path / "00_导读.ipynb"
    text = lesson.read_text(encoding="utf-8")
    assert text.count('"completed True\\n"') == 1
    lesson.write_text(text.replace('"completed True\\n"', '"completed Truf\\n"'), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ["--nbval", "--nbval-sanitize-with", "sanitize.cfg", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    # And nothing else is: the other cells give what they gave.
    assert re.search(r"^1 failed, \d+ passed", done.stdout, re.MULTILINE), done.stdout
