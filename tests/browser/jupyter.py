"""A real JupyterLab in a real Chromium, seen as a notebook: write it, run it, look at it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.serving import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Error, Locator, Page, WebSocket

_NAMES = ("chromium-headless-shell", "chromium")  # the first takes a fifth less of a processor
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), "/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]
SHOTS = Path(os.environ.get("LONGTASK_SCREENSHOTS", Path(__file__).parent / ".shots"))

WAIT_UNTIL_READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const widget = app.shell.currentWidget;
  await widget.context.ready;
  await widget.sessionContext.ready;
  await widget.sessionContext.session.kernel.info;
}"""

# A page that has JupyterLab loaded opens the next notebook in a second; loading it takes seven of
# a processor.
OPEN_IN_PLACE = """async (path) => {
  const { commands, shell } = window.jupyterapp;
  const opened = await commands.execute("docmanager:open", { path, factory: "Notebook" });
  shell.activateById(opened.id);
}"""
LEAVE = """async () => {
  // That a kernel died is told in a dialogue, which keeps the focus from what is opened next.
  for (let told; (told = document.querySelector(".jp-Dialog button:last-of-type")); ) {
    told.click();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (const shown of [...window.jupyterapp.shell.widgets("main")]) shown.dispose();
}"""

# Keys go to where the focus is; a dialogue of JupyterLab's takes it.
DESCRIBE = """() => {
  const focused = document.activeElement;
  const context = window.jupyterapp?.shell.currentWidget?.context;
  const kernel = context?.sessionContext?.session?.kernel;
  const read = (selector) =>
    [...document.querySelectorAll(selector)].map((one) => one.innerText.slice(-1500));
  return {
    url: location.pathname,
    focus: focused?.cloneNode().outerHTML,
    seen: `${document.visibilityState}, ${document.hasFocus() ? "focused" : "without focus"}`,
    dialogues: read(".jp-Dialog"),
    kernel: kernel && `${kernel.status}, ${kernel.connectionStatus}`,
    outputs: read(".jp-Cell-outputArea"),
  };
}"""


class JupyterServer:
    """JupyterLab on a free port with folders of its own; nothing of the user's is touched."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.token = secrets.token_hex(16)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = {
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        # The announcements would be fetched from the network, and ask before.
        page_config = folder / "config" / "labconfig" / "page_config.json"
        page_config.parent.mkdir(parents=True)
        off = {"@jupyterlab/apputils-extension:announcements": True}
        page_config.write_text(json.dumps({"disabledExtensions": off}))
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={self.token}"),
            *("--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={self.root}"),
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ]
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            command, env=os.environ | environment | own, stdout=self._log, stderr=self._log
        )
        self._wait()

    def call(self, path: str, method: str = "GET") -> Any:  # noqa: ANN401 - JSON
        """Call the server's REST API."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            body = answer.read()
        return json.loads(body) if body else None

    def end_sessions(self) -> None:
        """End every kernel."""
        for session in self.call("/api/sessions"):
            self.call(f"/api/sessions/{session['id']}", "DELETE")

    def stop(self) -> None:
        """Stop the server and its kernels."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # a worker thread of AnyIO's outlived its event loop
            self._process.kill()
            self._process.wait(20)
        self._log.close()

    def _wait(self) -> None:
        give_up_at = time.monotonic() + 60
        while True:
            try:
                self.call("/api/status")
            except OSError:
                assert time.monotonic() < give_up_at, "JupyterLab did not start"
                assert self._process.poll() is None, "JupyterLab died; see server.log"
                time.sleep(0.1)
            else:
                return


class Notebook:
    """One notebook in the browser, in JupyterLab (`/doc/tree`) or Notebook 7 (`/notebooks`)."""

    def __init__(
        self,
        server: JupyterServer,
        page: Page,
        name: str,
        cells: list[str],
        front_end: str = "/doc/tree",
        url: str = "",
    ) -> None:
        self._server = server
        self._name = name
        self._place = f"{url or server.url}{front_end}"
        self.page = page
        self.errors: list[str] = []
        self.own_errors: list[str] = []
        self.comm_bytes: list[int] = []
        self._listen()
        # With its kernel named, else JupyterLab asks for one in a dialogue.
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        document = {
            "cells": [_make_cell(source, number) for number, source in enumerate(cells)],
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (server.root / name).write_text(json.dumps(document))
        if page.url == "about:blank":
            page.goto(f"{self.url}&reset")
        else:
            page.evaluate(OPEN_IN_PLACE, name)
        self.wait_ready()
        self.set_theme("light")  # a theme is kept on the server, from one test to the next

    @property
    def url(self) -> str:
        """Where it is opened."""
        return f"{self._place}/{self._name}?token={self._server.token}"

    def leave(self) -> None:
        """Close it; the page stays, for the next one."""
        self.page.evaluate(LEAVE)
        self.page.remove_listener("pageerror", self._note_error)
        self.page.remove_listener("websocket", self._hear)

    def open_again(self, page: Page) -> None:
        """Close its page and open it in this one, the kernel lives on."""
        self.page.close()
        self.page = page
        self._listen()
        page.goto(self.url)
        self.wait_ready()

    def read(self) -> dict[str, Any]:
        """Return the file's content as it was saved last."""
        content: dict[str, Any] = json.loads((self._server.root / self._name).read_text())
        return content

    def _listen(self) -> None:
        self.page.on("pageerror", self._note_error)
        self.page.on("websocket", self._hear)

    def _note_error(self, error: Error) -> None:
        # JupyterLab's own, of what it had asked a kernel whose connection it then closed.
        if "Canceled future for" in str(error):
            return
        self.errors.append(str(error))
        if "blob:" in (error.stack or ""):  # as which anywidget loads what is ours
            self.own_errors.append(str(error))

    def _hear(self, websocket: WebSocket) -> None:
        websocket.on("framereceived", self._count)

    def wait_ready(self) -> None:
        """Wait until the notebook and its kernel can be used."""
        self.page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context")
        self.page.evaluate(WAIT_UNTIL_READY)

    def command(self, name: str) -> None:
        """Execute a command of JupyterLab's and wait for it."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def start_command(self, name: str) -> None:
        """Execute a command of JupyterLab's and do not wait for it."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name) }", name)

    def run_all(self) -> None:
        """Run all cells to their end."""
        self.command("notebook:run-all-cells")

    def run_cell(self, number: int) -> None:
        """Run one cell to its end."""
        self.page.evaluate(
            """async (number) => {
              const { jupyterapp } = window;
              const { content } = jupyterapp.shell.currentWidget;
              content.activeCellIndex = number;
              content.deselectAll();
              await jupyterapp.commands.execute("notebook:run-cell");
            }""",
            number,
        )

    def run_code(self, source: str, *, wait: bool = True) -> None:
        """Run a line of code in the notebook's kernel, outside of its cells."""
        self.page.evaluate(
            """async ([code, wait]) => {
              const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
              const future = kernel.requestExecute({code, store_history: false});
              if (wait) {
                const reply = await future.done;
                if (reply.content.status !== "ok") throw new Error(reply.content.evalue);
              }
            }""",
            [source, wait],
        )

    def interrupt(self) -> None:
        """Press the notebook's stop button."""
        self.start_command("notebook:interrupt-kernel")

    def restart(self) -> None:
        """Restart the kernel, without the question."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )

    def reload(self) -> None:
        """Reload the page; the kernel lives on."""
        self.save()
        self.page.reload()
        self.wait_ready()

    def open_tab(self) -> Page:
        """Open the same notebook in a second tab, on the same kernel."""
        tab = self.page.context.new_page()
        tab.goto(self.page.url.replace("&reset", ""))
        tab.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context")
        tab.evaluate(WAIT_UNTIL_READY)
        return tab

    def open_stranger(self, document: dict[str, Any]) -> Page:
        """Open a notebook that came from elsewhere: nobody trusts its outputs."""
        name = f"stranger_{self._name}"
        (self._server.root / name).write_text(json.dumps(document))
        tab = self.page.context.new_page()
        tab.goto(f"{self._server.url}/doc/tree/{name}?token={self._server.token}&reset")
        return tab

    def save(self) -> dict[str, Any]:
        """Save, and return the file's content."""
        self.command("docmanager:save")
        return self.read()

    def output(self, cell: int) -> Locator:
        """Return the output area of a cell."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-Cell-outputArea")

    def set_theme(self, theme: str) -> None:
        """Choose `light` or `dark`."""
        name = f"JupyterLab {theme.title()}"
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        is_light = str(theme == "light").lower()
        self.page.wait_for_selector(f'body[data-jp-theme-light="{is_light}"]', state="attached")

    def shoot(self, locator: Locator, name: str) -> None:
        """Keep a picture as `NAME-light.png` or `NAME-dark.png`, to be looked at."""
        is_light = self.page.locator("body").get_attribute("data-jp-theme-light") == "true"
        assert name.endswith("-light" if is_light else "-dark"), "the picture is what it is called"
        SHOTS.mkdir(parents=True, exist_ok=True)
        locator.screenshot(path=SHOTS / f"{name}.png", animations="disabled")

    def start_tracing(self) -> None:
        """Record what the page's main thread does."""
        self._browser.start_tracing(page=self.page, categories=["toplevel"])

    def stop_tracing(self) -> float:
        """Return the page's longest task since, in ms of CPU: waiting for others is not its own."""
        events = json.loads(self._browser.stop_tracing())["traceEvents"]
        main = {
            (event["pid"], event["tid"])
            for event in events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        tasks = [
            float(event["tdur"]) / 1000
            for event in events
            if event["name"].endswith("RunTask")
            and "tdur" in event
            and (event["pid"], event["tid"]) in main
        ]
        return max(tasks)

    @property
    def _browser(self) -> Browser:
        browser = self.page.context.browser
        assert browser is not None
        return browser

    def _count(self, frame: str | bytes) -> None:
        # By its own header: a status that answers a comm_msg names one as its parent.
        if _find_type(frame) == "comm_msg":
            self.comm_bytes.append(len(frame))


def _find_type(frame: str | bytes) -> str:
    """Return the type of a message on a kernel's websocket."""
    from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1

    if isinstance(frame, str):  # not a kernel's
        return ""
    _, (header, *_) = deserialize_msg_from_ws_v1(frame)  # type: ignore[no-untyped-call]
    found: str = json.loads(header)["msg_type"]
    return found


def _make_cell(source: str, number: int) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": f"cell-{number}",
        "source": source,
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }


def answers(url: str) -> bool:
    """Tell whether a server is there, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - loopback
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def find_children(parent: int) -> list[int]:
    """Return the processes that descend from one; none where there is no /proc."""
    parents = {int(folder.name): _parent_of(folder) for folder in Path("/proc").glob("[0-9]*")}
    found = [parent]
    for known in found:  # grows while it is walked
        found += [pid for pid, above in parents.items() if above == known]
    return found[1:]


def find_running(pids: list[int]) -> list[int]:
    """Return those processes that still run; a zombie does not."""
    return [pid for pid in pids if _parent_of(Path("/proc") / str(pid)) is not None]


def _parent_of(folder: Path) -> int | None:
    try:
        # proc(5): pid (name) state ppid …; the name may hold blanks and brackets.
        state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return None
    return None if state == "Z" else int(parent)
