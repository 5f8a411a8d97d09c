"""README as somebody reads it: each block is pasted, alone, into a fresh kernel or shell."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import longtask_kit as lt
from longtask_kit.cli.notebooks import LESSONS, lesson_environment, open_home
from longtask_kit.local.model.installed import models_folder

pytestmark = pytest.mark.gate

_ROOT = LESSONS.parent
_PAGE = _ROOT / "tests/front_ends/page.jsx"
_TEXT = (_ROOT / "README.md").read_text(encoding="utf-8")

# What stands in a block, and why such a one is not run here.
_SKIPPED = {
    "pip install": "installs packages; .ci/run does so in a clean environment",
    "pytest": "is the run that this test is part of",
    "longtask model install": "fetches a real model; tests/llm run it where it is installed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        line: Where it begins.
        language: As the fence says.
        code: What is pasted.
        before: The block that the reader has just pasted, if this one goes on from it: a cell's
            magic is its first line, so what loads it needs a cell of its own.
    """

    line: int
    language: str
    code: str
    before: str


def _find_blocks() -> list[Block]:
    blocks: list[Block] = []
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", _TEXT, re.MULTILINE | re.DOTALL):
        before = blocks[-1].code if found[2].startswith("%%") else ""
        line = _TEXT[: found.start()].count("\n") + 1
        blocks.append(Block(line=line, language=found[1], code=found[2], before=before))
    return blocks


_BLOCKS = _find_blocks()


def _mark(block: Block) -> Any:  # noqa: ANN401 - pytest's ParameterSet
    reason = next((why for text, why in _SKIPPED.items() if text in block.code), None)
    marks = [pytest.mark.skip(reason=reason)] if reason else []
    return pytest.param(block, marks=marks, id=f"line{block.line}")


def _of(language: str) -> list[Any]:
    return [_mark(block) for block in _BLOCKS if block.language == language]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A reader's: nothing is set, and the local stack starts with the first block that asks."""
    with open_home(models_folder()) as home, lesson_environment(home):
        bin_folder = Path(sys.executable).parent
        yield os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


def _paste(code: str, client: Any) -> None:  # noqa: ANN401 - jupyter_client ships no types for it
    said: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        said.append(str(message["content"].get("text", "")))

    reply = client.execute_interactive(code, timeout=60, output_hook=collect)["content"]
    assert reply["status"] == "ok", f"{reply.get('ename')}: {reply.get('evalue')}\n{''.join(said)}"


def _paste_all(codes: list[str], environment: Mapping[str, str], folder: Path) -> None:
    """Paste into the cells of one fresh kernel."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=dict(environment), cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        for code in codes:
            _paste(code, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_every_block_is_one_that_can_be_tried() -> None:
    assert {block.language for block in _BLOCKS} <= {"python", "sh", "js", "jsx"}
    page = {line.strip() for line in _PAGE.read_text().splitlines()}
    for block in (block for block in _BLOCKS if block.language == "jsx"):
        lines = {line.strip() for line in block.code.splitlines()}
        assert lines <= page, "lines of the page that a test opens"


@pytest.mark.parametrize("block", _of("python"))
def test_a_python_block_runs_when_pasted_into_a_fresh_kernel(
    block: Block, environment: dict[str, str], tmp_path: Path
) -> None:
    _paste_all([block.before, block.code], environment, tmp_path)


@pytest.mark.parametrize("block", _of("sh"))
def test_a_shell_block_runs_when_pasted_into_a_fresh_shell(
    block: Block, environment: dict[str, str], tmp_path: Path
) -> None:
    # The environment that README sets up is the one that the tests run in.
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    done = subprocess.run(
        ["bash", "-e", "-c", block.code],  # noqa: S607 - whichever bash
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", _TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-") for text in headings}
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", _TEXT)
    for target in (one or other for one, other in targets):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (_ROOT / target).exists(), target


def test_every_name_of_the_kit_is_there() -> None:
    named = set(re.findall(r"\blt\.(\w+)", _TEXT))
    assert named
    assert not named - set(lt.__all__)
