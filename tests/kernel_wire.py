"""What a kernel puts on its wire while an answer streams: every iopub message, every byte.

A message is counted whole, as ZMQ carries it: topic, signature, header, parent header, metadata,
content. The websocket to the browser carries the same without the first two.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

from longtask_kit.local.model.prose import split_tokens, write_long_reply
from tests.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import longtask_kit as lt

TOKENS = 10_000
_CONNECT = """
import longtask_kit as lt
from longtask_kit.widgets import TaskOutput
kit = lt.connect(quiet=True)
"""
_PROMPTS = {"en": "Explain ledgers", "zh": "解释一下账本"}


def write_answer(language: str, tokens: int = TOKENS) -> list[str]:
    """Return an answer as tokens: prose with code blocks, and one long table; `en` or `zh`."""
    prose = write_long_reply(_PROMPTS[language]).split("\n\n")
    half = len(prose) // 2
    cell = "value" if language == "en" else "数值"
    table = [f"| {n} | {cell} {n * n} | `f({n})` |" for n in range(150)]
    code = "```python\n" + "\n".join(f"x{n} = f({n})  # {cell}" for n in range(40)) + "\n```"
    blocks = [code, *prose[:half], "\n".join(["| n | n² | f |", "|---|---|---|", *table])]
    return split_tokens("\n\n".join([*blocks, code, *prose[half:]]))[:tokens]


async def recite(context: lt.TaskContext) -> AsyncIterator[str]:
    """Yield an answer at `metadata["rate"]` tokens a second; 0 is as fast as it goes."""
    wanted = context.spec.metadata
    rate, began = wanted["rate"], time.monotonic()
    for number, token in enumerate(write_answer(wanted["language"], wanted["tokens"])):
        if rate and (early_s := began + number / rate - time.monotonic()) > 0:
            await asyncio.sleep(early_s)
        yield token


def submit_answer(kit: lt.Kit, language: str, rate: int, tokens: int = TOKENS) -> str:
    """Submit one, to a kit that serves `recite`, and return the task's id."""
    wanted = {"language": language, "rate": rate, "tokens": tokens}
    return kit.submit("x", handler="recite", metadata=wanted).id


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message.

    Attributes:
        at_s: When it came, by the monotonic clock.
        ends: The id of the request whose last message it is, or empty.
    """

    at_s: float
    type: str
    size_bytes: int
    content: dict[str, Any]
    ends: str


def count_bytes(messages: list[Message], type_: str) -> int:
    """Return the bytes of all messages of a type."""
    return sum(message.size_bytes for message in messages if message.type == type_)


def find_peak(messages: list[Message]) -> int:
    """Return the most messages, of any type, that came within a second."""
    times = [message.at_s for message in messages]
    return max(sum(begin <= at < begin + 1 for at in times) for begin in times)


class WiredKernel:
    """A kernel of its own, whose iopub messages are all kept; close it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(env=os.environ | dict(environment))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self._messages: list[Message] = []
        self._is_closing = False
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        self.run(_CONNECT)

    def run(self, code: str, timeout_s: float = 120) -> list[Message]:
        """Run a cell and return what came until it ended."""
        before = len(self._messages)
        reply = self._client.execute_interactive(
            code, timeout=timeout_s, output_hook=lambda _: None
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        idle = reply["parent_header"]["msg_id"]
        wait_until(lambda: any(message.ends == idle for message in self._messages[before:]))
        return self._messages[before:]

    def show(self, task_id: str, cell: str) -> list[Message]:
        """Run a cell in which `task` is that task, and return what came until it ended."""
        return self.run(f"task = kit.attach({task_id!r})\n{cell}")

    def close(self) -> None:
        """End the kernel."""
        self._is_closing = True
        self._listener.join()
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def _listen(self) -> None:
        socket = self._manager.connect_iopub()
        while not self._is_closing:
            if not socket.poll(100):
                continue
            self._messages.append(_read_message(socket.recv_multipart()))
        socket.close()


def _read_message(parts: list[bytes]) -> Message:
    _, header, parent, _, content, *_ = parts[parts.index(b"<IDS|MSG>") + 1 :]
    said = json.loads(content)
    is_idle = said.get("execution_state") == "idle"
    return Message(
        at_s=time.monotonic(),
        type=json.loads(header)["msg_type"],
        size_bytes=sum(map(len, parts)),
        content=said,
        ends=json.loads(parent).get("msg_id", "") if is_idle else "",
    )
