"""What validating the lessons needs: a local stack of their own, and their live outputs followed.

A task's live output is replaced by its text when the task ends. nbval ignores such replacements;
a notebook front end and the executor don't, so without this every lesson would seem falsified.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from longtask_kit.cli.notebooks import explain_skip, lesson_environment, open_home
from longtask_kit.local.model.installed import models_folder

# Now, since the tests take another home for themselves; a worker starts in that one already.
_MODELS = Path(os.environ.setdefault("_LESSON_MODELS", str(models_folder())))
_home = pytest.StashKey[str]()
_start_kernel = IPyNbFile.setup
_read_message = IPyNbFile.get_kernel_message


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Keep a home for the lessons' stack while tests run; have a skipped cell say why."""
    with open_home(_MODELS) as home:
        session.config.stash[_home] = home
        with lesson_environment(home):
            for item in session.items:
                if isinstance(item, IPyNbCell) and (reason := explain_skip(item.cell)):
                    item.add_marker(pytest.mark.skip(reason=reason))
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what a failed cell and those before said on stderr: nbval says only that it was said."""
    report = yield
    if report.failed and isinstance(item, IPyNbCell):
        said = "".join(item.parent.__dict__.get("stderr", []))
        report.sections.append(("stderr up to here", said or "nothing"))
    return report


def _start_kernel_at_home(self: Any) -> None:
    with lesson_environment(self.config.stash[_home]):
        _start_kernel(self)


def _read_message_and_replace(
    self: Any, timeout: float | None = None, stream: str = "iopub"
) -> Any:
    message = _read_message(self, timeout, stream)
    content = message["content"]
    if message["msg_type"] == "stream" and content["name"] == "stderr":
        self.__dict__.setdefault("stderr", []).append(content["text"])
    display_id = (content.get("transient") or {}).get("display_id")
    shown = self.__dict__.setdefault("shown_by_id", {})
    if message["msg_type"] == "display_data" and display_id:
        # nbval keeps this very node, so that a replacement reaches what it compares.
        shown[display_id] = content["data"] = nbformat.from_dict(content["data"])
    elif message["msg_type"] == "update_display_data" and display_id in shown:
        shown[display_id].clear()
        shown[display_id].update(content["data"])
    return message


IPyNbFile.setup = _start_kernel_at_home
IPyNbFile.get_kernel_message = _read_message_and_replace
