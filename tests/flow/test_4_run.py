"""Stage 4: what the model does, and what becomes of the task."""

from collections.abc import Iterator

import pytest
from qstash import QStash
from qstash.dlq import DlqMessage
from upstash_redis import Redis

import longtask_kit as lt
from tests.wait import wait_until


@pytest.fixture
def queue(stack: lt.LocalStack) -> Iterator[QStash]:
    environment = stack.environment
    client = QStash(environment["QSTASH_TOKEN"], base_url=environment["QSTASH_URL"], retry=False)
    yield client
    client.http._client.close()  # the SDK offers no close


@pytest.fixture
def plain(kit: lt.Kit) -> str:
    """The text that an undisturbed run of the same prompt gives."""
    return kit.submit("Explain tides", model="demo-fast").result(30)


def wait_for_letters(queue: QStash, task: lt.Task) -> list[DlqMessage]:
    """Return a task's dead letters; the queue stores them just after it has the answer."""

    def find() -> list[DlqMessage]:
        return [m for m in queue.dlq.list().messages if m.body and task.id in m.body]

    wait_until(find)
    return find()


def statuses(task: lt.Task) -> list[str]:
    return [event.data for event in task.events() if event.type == "status"]


def test_a_completed_task_has_text_usage_and_history(kit: lt.Kit) -> None:
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=40)
    text = task.result(30)
    types = [event.type for event in task.events()]
    assert types[:3] == ["status", "status", "start"]
    assert types[-2:] == ["status", "end"]
    assert statuses(task) == ["pending", "running", "completed"]
    assert "".join(event.data for event in task.events() if event.type == "content") == text
    state = task.snapshot()
    assert (state.finish_reason, state.tokens) == ("length", 40)
    assert task.usage is not None
    assert task.usage.completion_tokens == 40


def test_multi_byte_text_arrives_whole(kit: lt.Kit) -> None:
    task = kit.submit("用中文写一首关于河流的诗 🏞️", model="demo@2000")
    text = task.result(30)
    assert any("\u4e00" <= character <= "\u9fff" for character in text)
    assert "�" not in text


def test_a_429_is_retried_after_what_the_model_asked_for(kit: lt.Kit, plain: str) -> None:
    task = kit.submit("Explain tides", model="demo-429-then-ok")
    assert task.result(30) == plain
    assert task.attempt == 2
    retrying = next(e for e in task.events() if e.data == "retrying")
    assert retrying.code == "rate_limit_exceeded"
    second = next(e for e in task.events() if e.type == "start" and e.data == "2")
    assert (second.time - retrying.time).total_seconds() >= 0.9  # Retry-After: 1


def test_a_cut_stream_starts_over_and_leaves_one_clean_text(kit: lt.Kit, plain: str) -> None:
    task = kit.submit("Explain tides", model="demo-cut-then-ok")
    assert task.result(30) == plain
    assert statuses(task) == ["pending", "running", "retrying", "running", "completed"]
    first = "".join(e.data for e in task.events() if e.type == "content" and e.cursor.attempt == 1)
    assert first, "the first attempt had streamed something"
    assert plain.startswith(first)
    restarts = [delta for delta in task if delta.is_restart]
    assert [(restart.attempt) for restart in restarts] == [2]


def test_a_bad_key_fails_at_once_and_goes_to_the_dead_letters(kit: lt.Kit, queue: QStash) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError, match="401") as caught:
        task.result(30)
    assert caught.value.code == "invalid_api_key"
    assert task.attempt == 1
    letters = wait_for_letters(queue, task)
    assert [letter.response_status for letter in letters] == [489]


def test_used_up_retries_end_in_failed_and_a_dead_letter(kit: lt.Kit, queue: QStash) -> None:
    task = kit.submit("Explain tides", model="demo-500")
    with pytest.raises(lt.TaskFailedError, match="All 4 deliveries failed") as caught:
        task.result(60)
    assert caught.value.code == "retries_exhausted"
    assert "500" in str(caught.value)
    assert statuses(task) == ["pending", *["running", "retrying"] * 4, "failed"]
    assert len(wait_for_letters(queue, task)) == 1


def test_a_dead_letter_that_is_retried_by_hand_runs_as_a_new_attempt(
    kit: lt.Kit, queue: QStash
) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    [letter] = wait_for_letters(queue, task)
    queue.http.request(path=f"/v2/dlq/retry/{letter.dlq_id}", method="POST")
    wait_until(lambda: kit.attach(task.id).snapshot().attempt == 2)
    again = kit.attach(task.id)
    with pytest.raises(lt.TaskFailedError):
        again.result(30)
    assert [e.data for e in again.events() if e.type == "start"] == ["1", "2"]
    assert [e.type for e in again.events()].count("error") == 1, "the superseded end is left out"


def test_an_unknown_model_and_an_unknown_handler_are_not_retried(kit: lt.Kit) -> None:
    for task, code, cure in (
        (kit.submit("x", model="gpt-unheard-of"), "model_not_found", "Choose a model"),
        (kit.submit("x", handler="nobody"), "unknown_handler", r"kit\.serve\({'nobody': …}\)"),
    ):
        with pytest.raises(lt.TaskFailedError, match=cure) as caught:
            task.result(30)
        assert caught.value.code == code
        assert task.attempt == 1


def test_no_key_of_the_model_service_reaches_the_log(
    settings: lt.Settings, redis: Redis, kit: lt.Kit
) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    assert settings.openai_api_key is not None
    stored = str(redis.xrange(f"longtask:{{{task.id}}}:log"))
    assert settings.openai_api_key.get_secret_value() not in stored
