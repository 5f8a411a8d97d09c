"""Stage 1: a task is recorded, then queued; from then on it survives its submitter."""

import json

import httpx
import pytest
from pydantic import SecretStr
from upstash_redis import Redis

import longtask_kit as lt
from tests.proxy import proxy_to
from tests.serving import serve

HTTP = httpx.Client(timeout=30)


def test_a_submitted_task_is_recorded_before_it_is_queued(kit: lt.Kit, redis: Redis) -> None:
    task = kit.submit("Name three rivers", model="demo-fast", metadata={"lesson": 1})
    record = redis.hgetall(f"longtask:{{{task.id}}}")
    assert json.loads(record["brief"])["prompt"] == "Name three rivers"
    first_id, fields = redis.xrange(f"longtask:{{{task.id}}}:log", count=1)[0]
    assert (first_id, fields[:4]) == ("0-1", ["k", "status", "d", "pending"])
    task.result(30)


def test_ids_are_unguessable_and_url_safe(kit: lt.Kit) -> None:
    ids = {kit.submit("x", model="demo-fast").id for _ in range(3)}
    assert len(ids) == 3
    for task_id in ids:
        assert len(task_id) == len("task_") + 22  # 128 bits in base64url
        assert task_id.replace("-", "").replace("_", "").isalnum()


def test_the_start_endpoint_answers_as_the_seed_did(settings: lt.Settings) -> None:
    body = {
        "prompt": "写一个关于人工智能的短故事",
        "model": "demo-fast",
        "maxTokens": 1000,
        "temperature": 0.7,
    }
    response = HTTP.post(f"{settings.base_url}/api/tasks/start", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert answer["success"] is True
    assert answer["message"] == "Task queued successfully"
    assert answer["taskId"].startswith("task_")
    assert answer["messageId"].startswith("msg_")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body is empty"),
        (b"{", "not valid JSON"),
        (b"[]", "valid dictionary"),
        (b"{}", '"prompt" is missing'),
        (b'{"prompt": ""}', '"prompt"'),
        (b'{"prompt": "   "}', '"prompt" is empty'),
        (b'{"prompt": 7}', '"prompt"'),
        (b'{"prompt": "x", "maxTokens": 0}', '"maxTokens"'),
        (b'{"prompt": "x", "maxTokens": 10000000}', '"maxTokens"'),
        (b'{"prompt": "x", "maxTokens": "many"}', '"maxTokens"'),
        (b'{"prompt": "x", "temperature": 3}', '"temperature"'),
        (b'{"prompt": "x", "temperature": NaN}', "temperature"),
        (b'{"prompt": "x", "metadata": [1]}', '"metadata"'),
        (b'{"prompt": "\\ud800"}', "prompt"),
    ],
)
def test_bad_input_is_a_400_that_says_what_to_change(
    settings: lt.Settings, body: bytes, says: str
) -> None:
    url = f"{settings.base_url}/api/tasks/start"
    response = HTTP.post(url, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert says in response.json()["error"]


@pytest.mark.parametrize("call", ["cancel", "retry", "try-now"])
def test_an_id_that_is_half_a_surrogate_pair_is_no_tasks(settings: lt.Settings, call: str) -> None:
    url = f"{settings.base_url}/api/tasks/{call}"
    headers = {"Content-Type": "application/json"}
    response = HTTP.post(url, content=b'{"taskId": "\\ud800"}', headers=headers)
    assert response.status_code == 404, response.text
    assert "No task" in response.json()["error"]


def test_a_large_body_is_read_only_for_who_has_the_key(settings: lt.Settings) -> None:
    keyed = settings.model_copy(update={"api_key": SecretStr("the-key")})
    body = b'{"model": "demo-fast", "prompt": "' + b"x" * 5_000_000 + b'"}'
    with serve(lt.create_app(keyed)) as url:
        for key, status, says in (
            ("the-key", 200, "queued"),
            ("another", 413, "With the app's API key 30,000,000 bytes are taken"),
        ):
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            response = HTTP.post(f"{url}/api/tasks/start", content=body, headers=headers)
            assert response.status_code == status
            assert says in response.text
        headers["Authorization"] = "Bearer the-key"
        response = HTTP.post(f"{url}/api/tasks/start", content=body * 6, headers=headers)
        assert response.status_code == 413


def test_kit_submit_refuses_the_same_input_with_the_same_words(kit: lt.Kit) -> None:
    with pytest.raises(lt.SubmitError, match='"prompt" is empty'):
        kit.submit("  ")
    with pytest.raises(lt.SubmitError, match='"max_tokens" is 0'):
        kit.submit("x", max_tokens=0)


def test_a_queue_that_refuses_leaves_a_failed_task_not_a_pending_one(
    settings: lt.Settings, redis: Redis
) -> None:
    wrong = settings.model_copy(update={"qstash_token": settings.openai_api_key})
    with (
        lt.connect(settings=wrong, quiet=True) as kit,
        pytest.raises(lt.SubmitError, match="QSTASH_TOKEN") as caught,
    ):
        kit.submit("x")
    task_id = caught.value.task_id
    assert redis.hget(f"longtask:{{{task_id}}}", "status") == "failed"
    with lt.connect(settings=settings, quiet=True) as kit:
        with pytest.raises(lt.TaskFailedError) as failed:
            kit.attach(task_id or "").result(10)
        assert failed.value.code == "not_queued"
        # It was told that nothing runs; a retry makes it run.
        failed_task = kit.attach(task_id or "")
        failed_task.retry()
        assert failed_task.result(20)


def test_a_lost_publish_answer_runs_the_task_once(settings: lt.Settings, redis: Redis) -> None:
    with proxy_to(settings.qstash_url) as proxy:
        proxy.swallow_answers = 1  # the queue took the message; we never heard
        through = settings.model_copy(update={"qstash_url": proxy.url})
        with lt.connect(settings=through, quiet=True) as kit:
            task = kit.submit("Once only", model="demo-fast")
            assert task.result(30)
    assert redis.hget(f"longtask:{{{task.id}}}", "attempt") == "1"
    assert proxy.connections == 2


def test_a_redis_that_is_down_queues_nothing(settings: lt.Settings) -> None:
    with proxy_to(settings.upstash_redis_rest_url or "") as proxy:
        proxy.is_down = True
        through = settings.model_copy(update={"upstash_redis_rest_url": proxy.url})
        with (
            lt.connect(settings=through, quiet=True) as kit,
            pytest.raises(lt.SubmitError, match="not queued"),
        ):
            kit.submit("x")
