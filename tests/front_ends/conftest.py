"""The npm packages of `package-lock.json`, installed once; and an app with every front end."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import longtask_kit as lt

FOLDER = Path(__file__).parent
RunNode = Callable[..., str]


@pytest.fixture(scope="session")
def node() -> RunNode:
    """Return what runs a script of this folder with arguments, and returns what it prints."""
    npm, program = shutil.which("npm"), shutil.which("node")
    if npm is None or program is None:
        pytest.skip("node and npm are not installed: the JavaScript clients were not driven")
    with FileLock(FOLDER / ".npm.lock"):
        _install(npm)

    def run(script: str, *arguments: str, source: str = "", **environment: str) -> str:
        done = subprocess.run(
            [program, *(["--input-type=module"] if source else []), script, *arguments],
            cwd=FOLDER,
            input=source,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return run


def _install(npm: str) -> None:
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules/.of"
    if installed.exists() and installed.read_text() == lock.read_text():
        return
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not install the clients in 240 s: they were not driven")
    if done.returncode != 0:
        pytest.skip(f"npm could not install the clients: {done.stderr.strip()[-200:]}")
    installed.write_text(lock.read_text())


@pytest.fixture
def base_url(stack: lt.LocalStack) -> str:
    """Where an OpenAI SDK finds the app of `longtask up`."""
    return f"{stack.environment['LONGTASK_BASE_URL']}/v1"


@pytest.fixture
def key(stack: lt.LocalStack) -> str:
    return stack.environment["LONGTASK_API_KEY"]
