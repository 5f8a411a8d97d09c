"""In a real kernel: live while the cell is busy, awaited natively, interrupted at once."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

import longtask_kit as lt


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

    def collect(message: dict[str, dict[str, dict[str, str]]]) -> None:
        content = message["content"]
        if "text" in content:
            printed.append(str(content["text"]))
        if "data" in content:
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
lengths = []
for _ in range(8):
    time.sleep(0.15)  # a sync cell: the kernel's own loop is blocked
    lengths.append(len(task.live_transcript.text))
print(lengths)
"""
    lengths = [int(part) for part in run_cell(client, busy).strip("[]\n").split(",")]
    assert lengths[-1] > lengths[len(lengths) // 2] > lengths[1]
    assert run_cell(client, "text = await task; text == task.text") == "True"
    listed = "[delta async for delta in task][-1] == [delta for delta in task][-1]"
    assert run_cell(client, listed) == "True"
    assert run_cell(client, "task").startswith("<Task task_")


@pytest.mark.parametrize("wait", ["await task", "task.result()", "''.join(task)"])
def test_an_interrupt_ends_the_wait_and_leaves_the_task_running(
    kernel: tuple[KernelManager, BlockingKernelClient], wait: str
) -> None:
    manager, client = kernel
    submit = "import longtask_kit as lt; kit = lt.connect(quiet=True); "
    run_cell(client, submit + "task = kit.submit('Explain tides', model='demo@20')")
    message_id = client.execute(f"print('waiting'); {wait}")
    while True:
        message = client.get_iopub_msg(timeout=30)
        if message["content"].get("text") == "waiting\n":
            break
    time.sleep(0.3)  # into the wait
    began = time.monotonic()
    manager.interrupt_kernel()
    reply = None
    while reply is None and time.monotonic() < began + 20:
        with suppress(Empty):
            answer = client.get_shell_msg(timeout=1)
            reply = answer if answer["parent_header"]["msg_id"] == message_id else None
    assert reply is not None, "the cell did not end"
    assert reply["content"]["status"] == "error"
    assert time.monotonic() - began < 5  # far from the 10 s of an await that does not tick
    assert run_cell(client, "task.status") == "'running'"
    assert run_cell(client, "task.cancel()") == "'running'"
