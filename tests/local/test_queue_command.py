"""`longtask queue`, as a person types it."""

import base64
import json
import urllib.parse
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from longtask_kit import LocalStack
from longtask_kit.cli.queue import describe_facts, find_task_id, latest_events
from longtask_kit.log.keys import new_task_id
from tests import command
from tests.contract.qstash.destination import wait_until
from tests.serving import serve


def longtask(stack: LocalStack, *arguments: str) -> command.Done:
    return command.longtask("queue", *arguments, **stack.environment, COLUMNS="160")


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack.start(data=None, time_scale=0.001) as stack:
        yield stack


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("the database\x1b[2J is full", 503)

    with serve(Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])) as url:
        yield url


def ask(stack: LocalStack, method: str, path: str, **headers: str) -> httpx.Response:
    answer = httpx.request(
        method,
        stack.environment["QSTASH_URL"] + path,
        headers=headers | {"Authorization": f"Bearer {stack.environment['QSTASH_TOKEN']}"},
        trust_env=False,
    )
    answer.raise_for_status()
    return answer


def make_dead_letter(stack: LocalStack, receiver: str) -> tuple[str, str]:
    """Return the ids of a message that was given up and of its dead letter."""
    sent = ask(stack, "POST", f"/v2/publish/{receiver}/hook", **{"Upstash-Retries": "1"}).json()
    message_id: str = sent["messageId"]
    path = f"/v2/dlq?{urllib.parse.urlencode({'messageId': message_id})}"
    (dead,) = wait_until(lambda: ask(stack, "GET", path).json()["messages"])
    return message_id, dead["dlqId"]


def test_a_failure_is_listed_shown_and_sent_again(stack: LocalStack, receiver: str) -> None:
    message_id, dead_id = make_dead_letter(stack, receiver)
    listed = longtask(stack, "list", "--state", "FAILED").stdout
    for part in (message_id, dead_id, "FAILED", "status 503", "the database"):
        assert part in listed
    assert "\x1b" not in listed
    for one in (message_id, dead_id):
        shown = longtask(stack, "show", one).stdout
        for part in (message_id, dead_id, "503", "CREATED", "RETRY", "next at", "FAILED"):
            assert part in shown
    again = longtask(stack, "retry", dead_id)
    assert again.returncode == 0
    new_id = again.stdout.split()[-1]
    assert new_id.startswith("msg_")
    assert new_id != message_id
    refused = longtask(stack, "retry", dead_id)
    assert refused.returncode == 1
    assert "is no dead letter" in refused.stderr


def test_a_dead_letter_is_deleted_and_a_waiting_message_cancelled(
    stack: LocalStack, receiver: str
) -> None:
    _, dead_id = make_dead_letter(stack, receiver)
    assert longtask(stack, "delete", dead_id).stdout == "dead letter deleted\n"
    sent = ask(stack, "POST", f"/v2/publish/{receiver}/later", **{"Upstash-Delay": "1h"}).json()
    assert longtask(stack, "delete", sent["messageId"]).stdout == "message cancelled\n"
    gone = longtask(stack, "delete", sent["messageId"])
    assert gone.returncode == 1
    assert "not found" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_a_queue_is_paused_and_resumed(stack: LocalStack, receiver: str) -> None:
    ask(stack, "POST", f"/v2/enqueue/mine/{receiver}/q")
    assert "mine is paused" in longtask(stack, "pause", "mine").stdout
    lines = longtask(stack, "list", "--json").stdout.splitlines()
    queues = [found for line in lines if (found := json.loads(line))["kind"] == "queue"]
    assert [(queue["name"], queue["paused"]) for queue in queues] == [("mine", True)]
    assert "paused" in longtask(stack, "list").stdout
    assert "delivers again" in longtask(stack, "resume", "mine").stdout
    unknown = longtask(stack, "pause", "no/such?queue")
    assert (unknown.returncode, "404" in unknown.stderr) == (1, True)
    assert "knows nothing" in longtask(stack, "show", "msg_unknown").stderr


def test_the_newest_event_of_each_message_counts() -> None:
    events = [
        {"messageId": "a", "state": "RETRY"},
        {"messageId": "b", "state": "DELIVERED"},
        {"messageId": "a", "state": "CREATED"},
    ]
    assert latest_events(events) == events[:2]


def encode(body: object) -> str:
    return base64.b64encode(json.dumps(body).encode()).decode()


def test_a_message_is_listed_with_its_task() -> None:
    task = {"taskId": new_task_id()}
    assert find_task_id({"body": encode(task)}) == task["taskId"]
    assert find_task_id({"body": encode({"sourceBody": encode(task)})}) == task["taskId"]
    for other in ({}, {"body": "?"}, {"body": encode([1])}, {"body": encode({"taskId": "x y"})}):
        assert find_task_id(other) == ""


def test_ids_are_whole_and_a_reason_is_one_line_at_80_columns(
    stack: LocalStack, receiver: str
) -> None:
    message_id, dead_id = make_dead_letter(stack, receiver)
    listed = command.longtask("queue", "list", **stack.environment, COLUMNS="80").stdout
    lines = listed.splitlines()
    assert max(map(len, lines)) <= 80
    at = next(at for at, line in enumerate(lines) if message_id in line)
    assert lines[at].endswith("  /hook"), "the URL's path alone"
    assert lines[at + 1].startswith("    status 503: the database")
    assert dead_id in listed


def test_facts_leave_out_what_is_not_set() -> None:
    facts = {"messageId": "m", "url": "http://x", "method": "PUT", "maxRetries": 0, "labels": ["a"]}
    assert describe_facts(facts) == [
        ("message", "m"),
        ("to", "PUT http://x"),
        ("labels", "a"),
        ("retries", "0"),
    ]
