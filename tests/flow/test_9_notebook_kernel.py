"""In a real kernel: live while the cell is busy, awaited natively, interrupted at once."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

import longtask_kit as lt
from tests.thorough import first_of


@pytest.fixture
def kernel(stack: lt.LocalStack) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | stack.environment)
    client: BlockingKernelClient = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run_cell(client: BlockingKernelClient, code: str) -> str:
    """Execute a cell and return what it printed or showed; an error fails the test."""
    printed: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        content = message["content"]
        if "text" in content:
            printed.append(str(content["text"]))
        is_own = message["msg_type"] != "update_display_data"  # else of a cell before
        if is_own and "text/plain" in content.get("data", {}):
            printed.append(content["data"]["text/plain"])

    reply = client.execute_interactive(code, timeout=60, output_hook=collect)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed)


def test_a_task_streams_while_its_cell_is_busy_and_is_awaited_in_the_next(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    _, client = kernel
    said = run_cell(client, "import longtask_kit as lt; kit = lt.connect()")
    assert said.startswith("longtask_kit: QStash 127.0.0.1")
    busy = """
import time
task = kit.submit("Explain tides", model="demo@100")
task.events()
lengths = set()
while len(lengths) < 5:
    time.sleep(0.01)  # a sync cell: the kernel's own loop is blocked
    lengths.add(len(task._feed.transcript.text))
print(task._feed.transcript.status)
"""
    assert run_cell(client, busy) == "running\n"
    assert run_cell(client, "text = await task; text == task.text") == "True"
    listed = "[delta async for delta in task][-1] == [delta for delta in task][-1]"
    assert run_cell(client, listed) == "True"
    assert run_cell(client, "task") == run_cell(client, "print(task.text)").rstrip("\n")


@pytest.mark.parametrize(
    "wait", first_of(["await task", "task.result()", "''.join(task)"], rest_in_gate=True)
)
def test_an_interrupt_ends_the_wait_and_leaves_the_task_running(
    kernel: tuple[KernelManager, BlockingKernelClient], wait: str
) -> None:
    manager, client = kernel
    submit = "import longtask_kit as lt; kit = lt.connect(quiet=True); "
    run_cell(client, submit + "task = kit.submit('Explain tides', model='demo@15')")
    # Else the kernel answers "aborted" to what comes in the moment after an error.
    message_id = client.execute(f"print('waiting'); {wait}", stop_on_error=False)
    while True:
        message = client.get_iopub_msg(timeout=30)
        if message["content"].get("text") == "waiting\n":
            break
    time.sleep(0.3)  # into the wait
    manager.interrupt_kernel()
    reply = None
    while reply is None:
        with suppress(Empty):
            answer = client.get_shell_msg(timeout=1)
            reply = answer if answer["parent_header"]["msg_id"] == message_id else None
    assert reply["content"]["status"] == "error"
    # An await that does not tick would have outlasted it: the task takes 11 s.
    assert run_cell(client, "task.status") == "'running'"
    assert run_cell(client, "task.cancel()") == "'cancelling'"


def collect_messages(
    client: BlockingKernelClient, code: str, *, until: str = "idle"
) -> list[tuple[str, dict[str, Any]]]:
    """Execute a cell and return its iopub messages, up to one whose type or state is `until`."""
    message_id = client.execute(code)
    messages: list[tuple[str, dict[str, Any]]] = []
    while True:
        message = client.get_iopub_msg(timeout=30)
        kind, content = message["msg_type"], message["content"]
        messages.append((kind, content))
        if until == kind:
            return messages
        is_ours = message["parent_header"].get("msg_id") == message_id
        if is_ours and content.get("execution_state") == until:
            return messages


def test_a_task_as_last_line_is_live_and_then_stays_as_text(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    _, client = kernel
    run_cell(client, "import longtask_kit as lt; kit = lt.connect(quiet=True)")
    cell = "task = kit.submit('Explain <b>tides</b>', model='demo@200', max_tokens=30); task"
    messages = collect_messages(client, cell, until="update_display_data")
    assert not [content for kind, content in messages if kind == "error"]
    [shown] = [content for kind, content in messages if kind == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    [kept] = [content for kind, content in messages if kind == "update_display_data"]
    assert kept["transient"] == shown["transient"], "it replaces the live output"
    assert set(kept["data"]) == {"text/plain", "text/html"}, "no widget is left to be missed"
    text = run_cell(client, "print(task.text)").rstrip("\n")
    assert kept["data"]["text/plain"] == f"{text}\n\n[stopped at max_tokens (30)]"
    assert "<b>" not in kept["data"]["text/html"].split("</div>", 1)[1]
    again = collect_messages(client, "task")
    [static] = [content for kind, content in again if kind == "display_data"]
    assert static["data"] == kept["data"], "an ended task is static at once"
    found = collect_messages(client, "kit.attach(task.id)")
    [first] = [content for kind, content in found if kind == "display_data"]
    assert first["data"] == kept["data"], "and one that was only found"


def test_the_magics_submit_watch_and_cancel(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    _, client = kernel
    run_cell(client, "%load_ext longtask_kit")
    cell = "%%longtask --model demo-fast --max-tokens 20 --name poem --format\nAbout {3 * 'x'}"
    topic = "poem.spec.prompt, poem.status, poem.spec.max_tokens"
    assert not [c for kind, c in collect_messages(client, cell) if kind == "error"]
    assert run_cell(client, topic) == "('About xxx', 'completed', 20)"
    literal = "%%longtask -m demo@5 -n slow --no-wait\nKeep {braces} and <tags>"
    run_cell(client, literal)  # returns at once, while the task goes on
    assert run_cell(client, "slow.spec.prompt") == "'Keep {braces} and <tags>'"
    listed = run_cell(client, "%longtask_status")
    assert listed.count("task_") == 2
    assert "completed, stopped at max_tokens (20)" in listed
    assert run_cell(client, "%longtask_cancel slow") in ("cancelling\n", "cancelled\n")
    assert "Longest answer, in tokens" in run_cell(client, "%longtask --help")
    for wrong, says in (
        ("%longtask x", "the prompt is the cell"),
        ("%%longtask --help", "%longtask (single %)"),
        ("%%longtask --name class\nx", "a variable's name"),
        ("%%longtask --system It's\nx", "quote a value as in a shell"),
        ("%%longtask --max-tokens many\nx", "expected a whole number, or none"),
        ("%%longtask --nonsense\nx", "unrecognized arguments"),
        ("%%longtask --max-tokens 0\nx", "--max-tokens"),
        ("%%longtask --param stop\nx", "expected name=value"),
        ("%%longtask --help\nx", "Longest answer, in tokens"),
        ("%%longtask\n ", "empty"),
        ("%%longtask --format\n{undefined}", "undefined"),
        ("%longtask_cancel nobody", "submit it again"),
    ):
        errors = [c for kind, c in collect_messages(client, wrong) if kind in ("error", "stream")]
        assert says in str(errors), wrong
        assert "Traceback" not in str(errors)


def test_a_magic_that_finds_no_kit_says_why_in_a_line(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    _, client = kernel
    run_cell(client, "%load_ext longtask_kit\nimport os, longtask_kit as lt")
    run_cell(client, "os.environ.pop('UPSTASH_REDIS_REST_URL'); None")
    half = str(collect_messages(client, "%%longtask\nx"))
    run_cell(client, "kit = lt.connect('http://127.0.0.1:9', quiet=True); kit.close()")
    closed = str(collect_messages(client, "%%longtask\nx"))
    for told, says in ((half, "UPSTASH_REDIS_REST_URL"), (closed, "This kit is closed")):
        assert "UsageError" in told
        assert says in told
        assert "Traceback" not in told


def test_a_magics_options_are_quoted_as_in_a_shell(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    _, client = kernel
    run_cell(client, "%load_ext longtask_kit")
    options = r"""-m "demo-fast" --system 'Be "terse".' --metadata who="a b" --no-wait -n 'task'"""
    params = r"""--param 'stop=["\n", "b c"]' --param "user=it's \"me\"" """
    run_cell(client, f"%%longtask {options} {params}\nx")
    asked = "task.spec.system, task.spec.params, task.spec.metadata"
    expected = 'Be "terse".', {"stop": ["\n", "b c"], "user": 'it\'s "me"'}, {"who": "a b"}
    assert run_cell(client, f"({asked}) == {expected!r}") == "True", run_cell(client, asked)


@pytest.mark.parametrize(
    "wait", first_of(["task.result()", "await task", "''.join(task)"], rest_in_gate=True)
)
def test_a_failure_is_told_once_and_its_traceback_ends_at_the_callers_line(
    kernel: tuple[KernelManager, BlockingKernelClient], wait: str
) -> None:
    _, client = kernel
    run_cell(client, "import longtask_kit as lt; kit = lt.connect(quiet=True)")
    cell = f"task = kit.submit('x', model='demo-bad-key')\n{wait}"
    [error] = [c for kind, c in collect_messages(client, cell) if kind == "error"]
    assert error["ename"] == "TaskFailedError"
    told = "\n".join(error["traceback"])
    assert re.findall(r"/longtask_kit/[a-z_/]+\.py", told) == []
    run_cell(client, "%load_ext longtask_kit")
    told = str(collect_messages(client, "%%longtask -m demo-bad-key\nx"))
    assert "as its output says" in told
    assert "Traceback" not in told
