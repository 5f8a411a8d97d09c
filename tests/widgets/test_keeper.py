"""What the kernel tells the pages that show a task, so that it stays in their notebook."""

from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.widgets import TaskOutput
from longtask_kit.widgets.keeper import (
    choose_page,
    leave_style_out,
    make_frame,
    make_metadata,
    may_pages_write,
)
from longtask_kit.widgets.output import _STATIC
from longtask_kit.widgets.saved import make_bundle
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm


class Pages:
    """An output of an ended task, and what its pages hear."""

    def __init__(self, kit: lt.Kit) -> None:
        task = kit.submit("Explain tides", model="demo-fast")
        self.watch(task)
        wait_until(lambda: self.output.status == "completed")
        self.data = {"text/plain": task.text}
        self.metadata = make_metadata(task.id, "completed")

    def watch(self, task: lt.Task) -> None:
        self.output = TaskOutput(task)
        assert isinstance(self.output.comm, RecordingComm)
        self._comm = self.output.comm

    def finish(self, *, is_live: bool = False) -> None:
        self.output.keeper.finish(self.data, self.metadata, is_live=is_live)

    def say(self, kind: str, **message: Any) -> None:  # noqa: ANN401 - JSON
        self.output._receive(self.output, {"t": kind} | message, [])

    def hear(self, kind: str) -> list[dict[str, Any]]:
        sent = [(message.get("data") or {}).get("content") for message in self._comm.published]
        return [content for content in sent if isinstance(content, dict) and content["t"] == kind]

    @property
    def is_closed(self) -> bool:
        return self.output.comm is None


@pytest.fixture
def pages(kit: lt.Kit) -> Pages:
    return Pages(kit)


def test_a_page_that_holds_the_end_writes_then_a_visible_one() -> None:
    assert choose_page({"hidden": 1, "visible": 2}) == "visible"
    assert choose_page({"hidden": 1, "holds it": 3, "visible": 2}) == "holds it"
    assert choose_page({"a": 2, "b": 2}) == choose_page({"b": 2, "a": 2}), "always the same"


def test_pages_that_want_to_write_are_asked_and_one_gets_the_turn(pages: Pages) -> None:
    pages.finish()
    assert [over["taskId"] for over in pages.hear("over")] == [pages.metadata["longtask"]["taskId"]]
    pages.say("want", page="a", rank=1)
    pages.say("want", page="b", rank=2)
    pages.say("me", page="c", rank=3)
    wait_until(lambda: pages.hear("turn"))
    [turn] = pages.hear("turn")
    assert turn == {"t": "turn", "page": "c", "data": pages.data, "metadata": pages.metadata}
    assert len(pages.hear("who")) == 1
    pages.say("me", page="late", rank=3)
    assert len(pages.hear("who")) == 1, "an answer begins nothing"


def test_what_an_earlier_kernel_left_gets_the_end_though_nobody_shows_it_here(
    pages: Pages,
) -> None:
    assert pages.hear("over") == [], "what its user shows is not replaced"
    pages.say("want", page="a", rank=2)
    wait_until(lambda: pages.hear("turn"))
    [turn] = pages.hear("turn")
    assert turn["page"] == "a"
    assert turn["metadata"] == pages.metadata
    assert turn["data"]["text/plain"] == pages.data["text/plain"]


def test_of_a_task_under_way_no_page_gets_an_end(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@5")
    pages = Pages.__new__(Pages)
    pages.watch(task)
    pages.say("want", page="early", rank=2)
    assert pages.hear("who") == []
    task.cancel()


def test_a_page_that_comes_later_is_told_of_the_end(pages: Pages) -> None:
    pages.say("sync", e=0, s=0)
    assert pages.hear("over") == []
    pages.finish()
    pages.say("sync", e=0, s=0)
    assert len(pages.hear("over")) == 2


def test_an_end_that_can_be_retried_is_saved_static_and_taken_back_by_the_retry(
    pages: Pages,
) -> None:
    pages.finish(is_live=True)
    [over] = pages.hear("over")
    assert over["saved"] == {"data": pages.data, "metadata": pages.metadata}
    pages.output.keeper.reopen()
    assert pages.hear("over")[-1]["taskId"] is None
    pages.say("sync", e=0, s=0)
    assert len(pages.hear("over")) == 2, "a page that comes now hears of no end"


def test_the_first_page_that_speaks_is_told_of_once(pages: Pages) -> None:
    came: list[str] = []
    pages.output.keeper.on_page(lambda: came.append("first"))
    pages.say("sync", e=0, s=0)
    pages.say("ping")
    wait_until(lambda: came)
    pages.output.keeper.on_page(lambda: came.append("late"))
    pages.say("ping")
    assert came == ["first"]


def test_the_widget_is_closed_when_a_saved_notebook_needs_it_no_more(pages: Pages) -> None:
    pages.finish()
    assert not pages.is_closed
    pages.say("kept")
    pages.say("want", page="a", rank=2)  # another page still shows it
    wait_until(lambda: pages.is_closed, timeout_s=20)
    assert pages.hear("turn"), "which was replaced before"


def test_a_page_that_sees_no_kernel_asks_whether_one_is_there(pages: Pages) -> None:
    assert not pages.output.keeper.has_page
    pages.say("ping")
    assert pages.hear("pong") == [{"t": "pong"}]
    assert pages.output.keeper.has_page


def test_a_frame_has_one_place_for_the_text_and_reads_otherwise_without_a_kernel(
    kit: lt.Kit,
) -> None:
    task = kit.submit("🌊 tides <b>", model="demo@5")
    wait_until(lambda: task.status == "running")
    frame = make_frame(task)
    state = task._feed.copy()
    state._chunks[:] = [frame["slot"]]
    gone = make_bundle(state, task_id=task.id, spec=task._brief, is_disconnected=True)
    for name, form in frame["data"].items():
        assert form.count(frame["slot"]) >= 1
        head, tail, middle = frame["gone"][name]
        written = form.encode("utf-16-le")  # JavaScript's lengths
        end = len(written) - 2 * tail
        cut = written[: 2 * head].decode("utf-16-le") + middle + written[end:].decode("utf-16-le")
        assert cut == gone[name]
        assert "disconnected" in cut
    task.cancel()


def test_a_frame_leaves_out_the_style_that_its_page_has(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    task.result(30)
    frame = make_frame(task)
    sent = leave_style_out(frame)
    css = (_STATIC / "output.css").read_text("utf-8")
    html = sent["data"]["text/html"]
    assert html.replace("<style>", f"<style>{css[: sent['style']]}") == frame["data"]["text/html"]
    assert len(html) < sent["style"], "it is most of a frame"


def test_a_snapshot_says_where_the_output_is_and_whether_pages_may_write(
    kit: lt.Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = TaskOutput()
    place = output.get_state()["snapshot"]["place"]
    assert place == {"modelId": output.model_id, "mayWrite": True}
    monkeypatch.setenv("LONGTASK_PAGE_WRITES", "0")
    assert not may_pages_write()
    assert TaskOutput().get_state()["snapshot"]["place"]["mayWrite"] is False
