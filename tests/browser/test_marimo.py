"""A task as a cell's last expression in marimo; skipped where that is not installed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import longtask_kit as lt
from tests.browser.jupyter import SHOTS, answers
from tests.serving import free_port
from tests.wait import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.thorough
APP = """
import marimo
app = marimo.App()

@app.cell
def _():
    import longtask_kit as lt
    kit = lt.connect(quiet=True)
    task = kit.submit("Explain tides", model="demo@20")
    task
    return (task,)

@app.cell
def _(task):
    task
    return
"""


def test_a_task_is_live_in_marimo_in_each_cell_that_shows_it(
    stack: lt.LocalStack, browser: "Browser", tmp_path: Path
) -> None:
    pytest.importorskip("marimo", reason="no marimo (pip install marimo)")
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", "marimo", "run", "app.py", "--headless", "--no-token"]
    with (tmp_path / "marimo.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"],
            cwd=tmp_path,
            env=os.environ | stack.environment,
            stdout=log,
            stderr=log,
        )
    context = browser.new_context()
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), timeout_s=60)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        running = page.locator('.longtask-output[data-status="running"]')
        running.nth(1).locator(".longtask-rendered p").first.wait_for()
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / "marimo-light.png")
        running.first.get_by_role("button", name="Cancel", exact=True).click()
        page.locator('.longtask-output[data-status="cancelled"]').nth(1).wait_for()
    finally:
        context.close()
        process.terminate()
        process.wait(20)
