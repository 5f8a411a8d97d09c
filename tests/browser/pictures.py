"""The pictures of the panel in README and in a lesson: `python -m tests.browser.pictures`."""

import tempfile
from pathlib import Path

from playwright.sync_api import Locator, sync_playwright

import longtask_kit as lt
from tests.browser.jupyter import CHROMIUM, CHROMIUM_ARGUMENTS, JupyterServer, Notebook

_ROOT = Path(__file__).parents[2]
_SHOW = """
import longtask_kit as lt
panel = lt.connect(quiet=True).panel()
panel.model.value = "demo@300"
panel
"""


def main() -> None:
    """Make them anew."""
    with (
        tempfile.TemporaryDirectory() as folder,
        lt.LocalStack.start() as stack,
        sync_playwright() as playwright,
    ):
        server = JupyterServer(Path(folder), stack.environment)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        try:
            page = browser.new_context(viewport={"width": 1200, "height": 1400}).new_page()
            notebook = Notebook(server, page, "pictures.ipynb", [_SHOW])
            notebook.run_all()
            take_pictures(notebook)
        finally:
            browser.close()
            server.stop()


def take_pictures(notebook: Notebook) -> None:
    """Take the lesson's picture of one answer, and README's of a conversation."""
    panel = notebook.output(0).locator(".longtask-panel")
    ask(notebook, panel, "Explain tides")
    panel.screenshot(path=_ROOT / "notebooks/images/panel.png", animations="disabled")
    notebook.run_code("panel.start_over(); panel.chat.value = True")
    for prompt in ("Write a haiku about rivers", "List three rivers"):
        ask(notebook, panel, prompt)
    for theme in ("light", "dark"):
        notebook.set_theme(theme)
        path = _ROOT / f".github/panel-{theme}.png"
        panel.screenshot(path=path, animations="disabled")


def ask(notebook: Notebook, panel: Locator, prompt: str) -> None:
    """Ask, and wait until the answer stands as it will."""
    notebook.run_code(f"panel.prompt.value = {prompt!r}; panel.submit(); panel.task.result()")
    panel.locator('.longtask-output[data-status="completed"]', has_text=prompt[-6:]).last.wait_for()
    panel.locator(".longtask-scroller.is-over").last.wait_for()
    notebook.page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
