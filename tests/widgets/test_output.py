"""`TaskOutput`: what reaches the front end, and what its messages do."""

import time
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.widgets import TaskOutput
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm


def recorded(output: TaskOutput) -> RecordingComm:
    assert isinstance(output.comm, RecordingComm)
    return output.comm


class FrontEnd:
    """The protocol's other half, as `js/src/buffer.js` has it."""

    def __init__(self) -> None:
        self.epoch, self.seq, self.text = 0, 0, ""
        self.meta: dict[str, Any] = {}

    def apply(self, update: dict[str, Any]) -> None:
        if update["e"] > self.epoch:
            assert update["s"] == 0, "a new text begins with its first update"
            self.epoch, self.seq, self.text = update["e"], -1, ""
        assert (update["e"], update["s"]) == (self.epoch, self.seq + 1), "nothing is missing"
        self.seq = update["s"]
        self.text += update.get("d", "")
        self.meta |= update.get("m", {})


def replay(output: TaskOutput) -> FrontEnd:
    front = FrontEnd()
    for update in recorded(output).updates():
        front.apply(update)
    return front


def show(task: lt.Task) -> TaskOutput:
    """Show a task and wait until its end has been drawn."""
    output = TaskOutput(task)
    wait_until(lambda: output.status in ("completed", "failed", "cancelled"), timeout_s=60)
    return output


def test_the_updates_add_up_to_the_text_and_its_figures(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@400", max_tokens=120)
    output = show(task)
    front = replay(output)
    assert front.text == task.text
    assert front.meta["status"] == "completed"
    assert front.meta["tokens"] == 120
    assert front.meta["maxTokens"] == 120
    assert front.meta["model"] == "demo@400"
    assert front.meta["elapsedMs"] > front.meta["firstTokenMs"] >= 0
    assert front.meta["isWatching"] is False
    assert repr(output) == "TaskOutput(completed, 120 tokens)"


def test_updates_are_coalesced_to_30_a_second_and_little_more_than_the_text(kit: lt.Kit) -> None:
    task = kit.submit("Explain ledgers", model="demo-long", max_tokens=10_000)
    began = time.monotonic()
    output = show(task)
    seconds = time.monotonic() - began
    comm = recorded(output)
    assert replay(output).text == task.text
    assert len(comm.updates()) <= 4 + 31 * seconds
    assert comm.count_bytes() <= 1.5 * len(task.text.encode())


def test_a_new_attempt_is_a_new_text(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-cut-then-ok")
    output = show(task)
    front = replay(output)
    assert front.text == task.text
    assert front.epoch == 2
    assert front.meta["notice"] == "Attempt 2: the text starts over"
    assert front.meta["attempt"] == 2
    assert 0 < front.meta["attemptBeganMs"] < front.meta["elapsedMs"], "its rate is its own"
    output.watch(kit.submit("Explain tides", model="demo-fast"))
    assert replay(output).meta["notice"] is None, "the next task is not told of it"


def test_a_snapshot_tells_the_time_as_of_now(kit: lt.Kit) -> None:
    task = kit.submit("x", model="demo-slow-start")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")

    def tell_ms() -> int:
        ms: int = output.get_state()["snapshot"]["meta"]["elapsedMs"]
        return ms

    before = tell_ms()
    wait_until(lambda: tell_ms() >= before + 100)
    assert replay(output).text == "", "no message brought that"
    task.cancel()
    wait_until(lambda: output.status == "cancelled")
    assert tell_ms() == tell_ms()


def test_an_ended_task_shown_again_is_marked_as_no_news(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    output = show(task)
    assert replay(output).meta["isReplay"] is False
    output.watch(task)
    assert replay(output).meta["isReplay"] is True


def test_any_snapshot_is_whole(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@100")
    output = TaskOutput(task)
    wait_until(lambda: output._meta.get("tokens"))
    snapshot = output.get_state()["snapshot"]
    assert snapshot["text"]
    assert task.result(30).startswith(snapshot["text"])
    front = FrontEnd()
    front.epoch, front.seq, front.text = snapshot["epoch"], snapshot["seq"], snapshot["text"]
    wait_until(lambda: output.status == "completed")
    for update in recorded(output).updates():
        if (update["e"], update["s"]) > (snapshot["epoch"], snapshot["seq"]):
            front.apply(update)
    assert front.text == task.text


def test_a_front_end_that_missed_something_gets_the_snapshot(kit: lt.Kit) -> None:
    output = show(kit.submit("Explain tides", model="demo-fast"))
    comm = recorded(output)

    def states() -> list[dict[str, Any]]:
        return [m["data"]["state"] for m in comm.published if "state" in (m.get("data") or {})]

    before = len(states())
    front = replay(output)
    output._receive(output, {"t": "sync", "e": front.epoch, "s": front.seq}, [])
    assert len(states()) == before, "it has everything"
    output._receive(output, {"t": "sync", "e": 0, "s": 0}, [])
    assert states()[-1]["snapshot"]["text"] == front.text
    output._receive(output, {"t": "lib"}, [])
    assert comm.published[-1]["data"]["content"]["t"] == "lib"
    output._receive(output, {"t": "nonsense"}, [])


def test_its_buttons_cancel_stop_watching_and_retry(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@30")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")
    output._receive(output, {"t": "unwatch"}, [])
    assert replay(output).meta["isWatching"] is output.is_watching is False
    assert task.status == "running"
    output.watch(task)
    assert output.is_watching
    output._receive(output, {"t": "cancel"}, [])
    wait_until(lambda: output.status == "cancelled")

    failing = kit.submit("Explain tides", model="demo-bad-key")
    shown = show(failing)
    front = replay(shown)
    assert front.meta["code"] == "invalid_api_key"
    assert "OPENAI_API_KEY" in front.meta["cure"]
    shown._receive(shown, {"t": "retry"}, [])
    wait_until(lambda: replay(shown).meta["attempt"] == 2 and shown.status == "failed")
    with pytest.raises(lt.TaskFailedError):
        failing.result(10)


def test_retry_runs_a_failed_task_again_and_only_a_failed_one(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    task.retry()
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    assert task.attempt == 2
    done = kit.submit("Explain tides", model="demo-fast")
    done.result(30)
    with pytest.raises(lt.SubmitError, match="Only a failed task"):
        done.retry()
    with lt.connect(settings.base_url, quiet=True) as remote:
        again = remote.attach(task.id)
        again.retry()
        with pytest.raises(lt.TaskFailedError):
            again.result(30)
        with pytest.raises(lt.SubmitError, match="Only a failed task"):
            remote.attach(done.id).retry()


def test_a_stream_that_breaks_is_shown_with_its_cure(kit: lt.Kit) -> None:
    task = kit.submit("x", model="demo-slow-start")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")
    task.delete()
    wait_until(lambda: replay(output).meta.get("code") == "stream")
    assert "submit it again" in replay(output).meta["error"]
