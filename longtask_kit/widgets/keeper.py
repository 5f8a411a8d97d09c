"""What keeps a shown task in its notebook: the kernel's half of `js/src/keeper.js`.

A kernel reaches an output only in the page that ran its cell, and only until that is reloaded; a
page can write into the notebook it shows. So the static form is made here and placed there: by one
page, since two that change a file have their users asked about it. The widget is closed when a
saved notebook does not need it any more; before, whoever opens that finds it here.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from longtask_kit.errors import ConfigError, StreamExpiredError
from longtask_kit.log.events import TERMINAL_STATUSES
from longtask_kit.settings import Settings
from longtask_kit.widgets.saved import make_bundle, read_style

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from longtask_kit.client.task import Task
    from longtask_kit.log.transcript import Transcript
    from longtask_kit.widgets.output import TaskOutput

_ELECTION_S = 0.4
_CLOSE_S = 2.0  # for other pages to place theirs
PLACED = 3
"""The rank of a page that holds the static form already; a visible one has 2, a hidden one 1."""


class Keeper:
    """What an output's pages are told so that its task stays in the notebook.

    Attributes:
        has_page: Whether a page ever spoke: an executed notebook has none.
    """

    def __init__(self, output: TaskOutput) -> None:
        self.has_page = False
        self._output = output
        self._lock = threading.Lock()
        self._final: dict[str, Any] | None = None
        self._is_live = False
        self._ranks: dict[str, int] | None = None  # while pages are asked
        self._page_came: list[Callable[[], None]] = []

    def receive(self, message: dict[str, Any]) -> bool:
        """Act on a message of a page; whether it was for the keeper alone."""
        if not self.has_page:
            self.has_page = True
            for tell in self._page_came:
                self._call_later(0, tell)
        page = str(message.get("page"))
        match message.get("t"):
            case "ping":
                self._output.send({"t": "pong"})
            case "frame":
                self._send_frame()
            case "want":
                self._take_rank(page, message.get("rank"), begins=True)
            case "me":
                self._take_rank(page, message.get("rank"), begins=False)
            case "kept":
                self._call_later(_CLOSE_S, self._close)
            case "sync":
                self._tell_end()  # a page that came later
                return False
            case _:
                return False
        return True

    def on_page(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the first page speaks, unless one has."""
        if not self.has_page:
            self._page_came.append(tell)

    def finish(
        self, data: Mapping[str, str], metadata: Mapping[str, Any], *, is_live: bool = False
    ) -> None:
        """Have the output replaced by its static form wherever a page shows it.

        Args:
            data: The static form.
            metadata: What it says of its task.
            is_live: Only what is saved is static; the page goes on showing the card, with which
                the task can be tried again.
        """
        self._final, self._is_live = {"data": dict(data), "metadata": dict(metadata)}, is_live
        self._tell_end()

    def reopen(self) -> None:
        """Take an end back: the task is tried again."""
        self._final = None
        self._output.send({"t": "over", "taskId": None})

    def _tell_end(self) -> None:
        task = self._output.task
        if self._final is not None and task is not None:
            saved = {"saved": self._final} if self._is_live else {}
            self._output.send({"t": "over", "taskId": task.id} | saved)

    def _send_frame(self) -> None:
        if (task := self._output.task) is not None:
            frame = leave_style_out(make_frame(task))
            self._output.send({"t": "frame", "taskId": task.id} | frame)

    def _take_rank(self, page: str, rank: object, *, begins: bool) -> None:
        with self._lock:
            is_new = begins and self._ranks is None and self._find_end() is not None
            if is_new:
                self._ranks = {}
            if self._ranks is not None and isinstance(rank, int):
                self._ranks[page] = rank
        if is_new:
            self._output.send({"t": "who"})
            self._call_later(_ELECTION_S, self._give_turn)

    def _give_turn(self) -> None:
        with self._lock:
            ranks, self._ranks = self._ranks or {}, None
        end = self._find_end()
        if end is not None and ranks:
            self._output.send({"t": "turn", "page": choose_page(ranks)} | end)

    def _find_end(self) -> dict[str, Any] | None:
        """Return the static form of the end; what an earlier kernel left may get it at any time."""
        task = self._output.task
        if self._final is not None or task is None:
            return self._final
        state = task._feed.copy()
        if state.status not in TERMINAL_STATUSES:
            return None
        metadata = make_metadata(task.id, state.status)
        return {"data": describe_now(task, state), "metadata": metadata}

    def _close(self) -> None:
        if self._ranks is None:
            self._output.close()
        else:
            self._call_later(_CLOSE_S, self._close)

    def _call_later(self, delay_s: float, work: Any) -> None:  # noqa: ANN401 - a function
        if (task := self._output.task) is not None:
            task._door.call_later(delay_s, work)


def choose_page(ranks: Mapping[str, int]) -> str:
    """Return the page that writes: the highest rank; of equals always the same one."""
    return max(ranks, key=lambda page: (ranks[page], page))


def may_pages_write() -> bool:
    """Tell whether pages may write into their notebooks: unless `LONGTASK_PAGE_WRITES=0`."""
    try:
        return Settings().page_writes
    except ConfigError:  # over the HTTP API no setting need be right
        return True


def make_metadata(task_id: str, status: str) -> dict[str, Any]:
    """Return what an output's metadata says of its task, for pages and `longtask fill`."""
    return {"longtask": {"taskId": task_id, "status": status}}


def describe_now(task: Task, state: Transcript | None = None) -> dict[str, str]:
    """Return the MIME bundle of a task as it stands."""
    return make_bundle(state or task._feed.copy(), **_find_known(task))


def _find_known(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "spec": task._brief,
        "price": task._price,
        "is_gone": isinstance(task._feed.error, StreamExpiredError),
    }


def make_frame(task: Task) -> dict[str, Any]:
    """Return the static form with a slot where the text goes.

    A page saves when it likes, and then knows the newest text, but has no kernel to ask.

    Returns:
        `slot`, and the bundle with it; `gone` says how it reads once the kernel is gone: for each
        form the length of what it begins and ends with alike, and what stands between.
    """
    slot = f"text{uuid4().hex}"
    state = replace(task._feed.copy(), _chunks=[slot])
    known = _find_known(task)
    live = make_bundle(state, **known)
    gone = make_bundle(state, **known, is_disconnected=True)
    compared = {name: _compare(live[name], gone[name]) for name in live}
    return {"slot": slot, "data": live, "gone": compared}


def leave_style_out(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame for the wire: most of it is its style, with which the page's own begins."""
    style, data = read_style(), frame["data"]
    html = data["text/html"].replace(style, "", 1)
    return frame | {"data": data | {"text/html": html}, "style": _count(style)}


def _compare(before: str, after: str) -> tuple[int, int, str]:
    """Return how much two texts begin and end with alike, in UTF-16, and the second's middle."""
    head = _find_alike(before, after)
    rest = after[len(head) :]
    tail = _find_alike(before[len(head) :][::-1], rest[::-1])
    return _count(head), _count(tail), rest[: len(rest) - len(tail)]


def _find_alike(one: str, other: str) -> str:
    """Return what two texts begin with alike."""
    return "".join(
        pair[0]
        for pair in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    )


def _count(text: str) -> int:
    """Return a text's length as JavaScript counts it."""
    return len(text.encode("utf-16-le")) // 2
