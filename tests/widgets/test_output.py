"""`TaskOutput`: what reaches the front end, and what its messages do."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import longtask_kit as lt
from longtask_kit.widgets import TaskOutput
from longtask_kit.widgets.keeper import describe_now, make_frame
from tests.wait import wait_until
from tests.widgets.conftest import RecordingComm


def recorded(output: TaskOutput) -> RecordingComm:
    assert isinstance(output.comm, RecordingComm)
    return output.comm


class FrontEnd:
    """The protocol's other half, as `js/src/buffer.js` has it."""

    def __init__(self) -> None:
        self.epoch, self.seq, self.text, self.reasoning = 0, 0, "", ""
        self.meta: dict[str, Any] = {}

    def apply(self, update: dict[str, Any]) -> None:
        if update["e"] > self.epoch:
            assert update["s"] == 0, "a new text begins with its first update"
            self.epoch, self.seq, self.text, self.reasoning = update["e"], -1, "", ""
            self.meta = {}
        assert (update["e"], update["s"]) == (self.epoch, self.seq + 1), "nothing is missing"
        self.seq = update["s"]
        self.text += update.get("d", "")
        self.reasoning += update.get("r", "")
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
    assert (front.meta["word"], front.meta["kind"]) == ("stopped at max_tokens (120)", "warn")
    assert front.meta["prompt"] == "“Explain tides”"
    for update in recorded(output).updates()[1:]:
        told = [update.get("d"), *update["m"].values()]
        assert any(value is not None for value in told), "no message without news"
    assert repr(output) == "TaskOutput(completed, 120 tokens)"


def test_what_comes_beside_the_text_reaches_the_card(kit: lt.Kit) -> None:
    async def think(
        _: lt.TaskContext,
    ) -> AsyncIterator[str | lt.Delta | lt.Progress | lt.DataEvent]:
        yield lt.Delta("reasoning", "Six times ")
        yield lt.Delta("reasoning", "seven …")
        yield lt.Progress(1, 2)
        yield lt.DataEvent("rows", [1, 2])
        yield "It is **42**."

    kit.serve(handlers={"think": think})
    output = show(kit.submit("6 x 7?", handler="think"))
    front = replay(output)
    assert (front.text, front.reasoning) == ("It is **42**.", "Six times seven …")
    assert front.meta["progress"] == {"done": 1, "total": 2}
    assert front.meta["data"] == {"rows": [1, 2]}
    snapshot = output.get_state()["snapshot"]
    assert snapshot["reasoning"] == front.reasoning, "a reloaded page has it, too"


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
    assert replay(output).meta.get("notice") is None, "the next task is not told of it"


def test_an_attempt_that_goes_on_is_the_same_text_and_says_so_live_and_saved(kit: lt.Kit) -> None:
    @lt.handler(continues=True)
    async def count(context: lt.TaskContext) -> AsyncIterator[str]:
        for number in range(len(context.text.split()), 20):
            if number == 10 and context.attempt == 1:
                raise lt.RetryableError("cut")
            yield f"{number} "

    kit.serve(handlers={"count": count})
    output = show(task := kit.submit("count", handler="count"))
    front = replay(output)
    assert front.text == "".join(f"{number} " for number in range(20))
    assert front.epoch == 1, "no text began anew"
    assert (front.meta["attempt"], front.meta["continued"]) == (2, 1)
    assert repr(output) == "TaskOutput(completed, 20 pieces)", "a handler gives no tokens"
    saved = describe_now(task)
    assert saved["text/plain"].strip() == front.text.strip()
    assert "continued <b>once</b>" in saved["text/html"]
    assert "<b>20</b> pieces" in saved["text/html"]


def test_marimo_gets_an_output_of_its_own_for_each_cell_since_it_closes_it_with_the_cell(
    kit: lt.Kit,
) -> None:
    task = kit.submit("Explain tides", model="demo-fast")
    one, other = task._display_(), task._display_()
    assert one is not other
    assert one.task is other.task is task


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
    for name in ("markdown", "math"):
        output._receive(output, {"t": "lib", "name": name}, [])
        sent = comm.published[-1]["data"]["content"]
        assert (sent["t"], sent["name"], bool(sent["src"])) == ("lib", name, True)
    output._receive(output, {"t": "lib", "name": "../output"}, [])
    assert comm.published[-1]["data"]["content"] == sent, "nothing else is handed out"
    output._receive(output, {"t": "nonsense"}, [])


@pytest.mark.parametrize("how", ["by its id", "by another card's button"])
def test_a_card_goes_on_when_its_task_is_tried_again_elsewhere(kit: lt.Kit, how: str) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    output, other = TaskOutput(task), TaskOutput(kit.attach(task.id))
    wait_until(lambda: {output.status, other.status} == {"failed"})
    other.retry() if how == "by another card's button" else kit.attach(task.id).retry()
    wait_until(lambda: output._meta["attempt"] == 2 and output.status == "failed")
    wait_until(lambda: other._meta["attempt"] == 2)


@pytest.mark.parametrize("prices", [(1.0, 10_000.0), {"demo-fast": (1.0, 10_000.0)}])
def test_a_card_says_what_an_answer_cost_where_the_price_is_known(
    settings: lt.Settings, prices: tuple[float, float] | dict[str, tuple[float, float]]
) -> None:
    with lt.connect(settings=settings, prices=prices, quiet=True) as kit:
        task = kit.submit("Explain tides", model="demo-fast", max_tokens=20)
        meta = replay(show(task)).meta
        assert task.usage is not None
        assert meta["costUsd"] == (task.usage.prompt_tokens + 200_000) / 1_000_000
        assert "<b>$0.20</b>" in describe_now(task)["text/html"]
        assert "<b>$0.20</b>" in make_frame(task)["data"]["text/html"], "as a page has it"
        group = kit.map(["tides"], model="demo-fast", max_tokens=20)
        group.results()
        assert group.cost == pytest.approx(0.2, abs=0.01), "the kit's price is its groups'"
    with pytest.raises(lt.ConfigError, match=r"\(in, out\) of a million"):
        lt.connect(settings=settings, prices={"demo": "cheap"}, quiet=True)  # type: ignore[dict-item]


def test_a_page_that_asks_what_it_missed_is_answered_though_it_missed_nothing(
    kit: lt.Kit,
) -> None:
    output = show(kit.submit("Explain tides", model="demo-fast"))
    before = len(recorded(output).published)
    output._receive(output, {"t": "sync", "e": output._epoch, "s": output._seq}, [])
    [answer] = recorded(output).published[before:]
    assert answer["data"]["content"] == {"t": "pong"}, "its kernel is there, and costs a few bytes"


def test_its_buttons_cancel_stop_watching_and_retry(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@30")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")
    output._receive(output, {"t": "unwatch"}, [])
    assert replay(output).meta["isWatching"] is output.is_watching is False
    assert task.status == "running"
    output._receive(output, {"t": "watch"}, [])
    assert output.is_watching, "what was stopped can be taken up again"
    output._receive(output, {"t": "cancel"}, [])
    wait_until(lambda: output.status == "cancelled")
    output._receive(output, {"t": "retry"}, [])
    wait_until(lambda: output.status == "running")
    assert output.is_watching, "it runs again, and is watched again"
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
    with pytest.raises(lt.SubmitError, match="Only a failed or cancelled task"):
        done.retry()
    with lt.connect(settings.base_url, quiet=True) as remote:
        again = remote.attach(task.id)
        again.retry()
        with pytest.raises(lt.TaskFailedError):
            again.result(30)
        with pytest.raises(lt.SubmitError, match="Only a failed or cancelled task"):
            remote.attach(done.id).retry()


def test_a_stream_that_breaks_is_shown_with_its_cure(kit: lt.Kit) -> None:
    task = kit.submit("x", model="demo-slow-start")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")
    task.delete()
    wait_until(lambda: replay(output).meta.get("code") == "stream")
    meta = replay(output).meta
    assert "submit it again" in meta["error"]
    assert (meta["word"], meta["cure"]) == ("not there any more", ""), "nobody can attach to it"
    saved = describe_now(task)
    assert saved["text/plain"] == "[not there any more]"
    assert "kit.attach" not in saved["text/html"]


@pytest.mark.parametrize("way", ["services", "http"])
def test_a_retry_tells_when_it_is_due_and_can_be_had_now(kit: lt.Kit, way: str) -> None:
    async def fail_once(context: lt.TaskContext) -> AsyncIterator[str]:
        if context.attempt == 1:
            raise lt.RetryableError("the model service answered 500", retry_after_s=600)
        yield "done"

    app = kit.serve(handlers={"fail_once": fail_once})
    task = kit.submit("x", handler="fail_once", retries=2)
    with lt.connect(app.url, quiet=True) as remote:
        check_next_try(remote.attach(task.id) if way == "http" else task)


def check_next_try(task: lt.Task) -> None:
    output = TaskOutput(task)
    wait_until(lambda: replay(output).meta.get("canTryNow"), timeout_s=30)
    meta = replay(output).meta
    assert (meta["word"], meta["attempt"], meta["maxAttempts"]) == ("retrying", 1, 3)
    assert 500_000 < meta["nextTryMs"] <= 600_000
    left_ms = output.get_state()["snapshot"]["meta"]["nextTryMs"]
    wait_until(lambda: output.get_state()["snapshot"]["meta"]["nextTryMs"] < left_ms)
    output._receive(output, {"t": "now"}, [])
    assert task.result(30) == "done"
    wait_until(lambda: output.status == "completed")
    meta = replay(output).meta
    assert (meta["attempt"], meta.get("nextTryMs"), meta.get("canTryNow")) == (2, None, None)


def test_a_cancelled_task_can_be_retried_from_its_card(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo@30")
    output = TaskOutput(task)
    wait_until(lambda: output.status == "running")
    output._receive(output, {"t": "cancel"}, [])
    wait_until(lambda: output.status == "cancelled")
    output._receive(output, {"t": "retry"}, [])
    wait_until(lambda: output.status == "running" and replay(output).meta["attempt"] == 2)
    task.cancel()


def test_what_a_button_could_not_do_is_said_until_it_is_pressed_again(
    kit: lt.Kit, settings: lt.Settings
) -> None:
    failed = kit.submit("Explain tides", model="demo-bad-key")
    with lt.connect(settings=settings, quiet=True) as brief:
        closed, gone = show(brief.attach(failed.id)), show(kit.attach(failed.id))
    closed._receive(None, {"t": "retry"}, [])
    assert "closed" in replay(closed).meta["problem"]

    failed.delete()
    gone._receive(None, {"t": "retry"}, [])
    wait_until(lambda: failed.id in (replay(gone).meta.get("problem") or ""))
    assert replay(gone).meta["status"] == "failed"
    gone.watch(kit.submit("Explain tides", model="demo-fast"))
    assert replay(gone).meta.get("problem") is None
