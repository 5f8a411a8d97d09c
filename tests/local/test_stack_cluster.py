"""The whole stack on a Redis cluster: its tasks, its queue."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from qstash import QStash
from qstash.log import LogState

import longtask_kit as lt
from tests.contract.qstash.destination import sdk_for
from tests.contract.redis_rest.cluster import Node, run_cluster
from tests.wait import wait_until

# The second tier, for whoever brings a Redis of their own, is frozen.
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with run_cluster() as nodes:
        yield nodes


@pytest.fixture
def cluster_stack(nodes: list[Node], home: Path) -> Iterator[lt.LocalStack]:
    with lt.LocalStack.start(redis_url=nodes[0].url, time_scale=0.001) as stack:
        yield stack


def use_queue(stack: lt.LocalStack) -> AbstractContextManager[QStash]:
    environment = stack.environment
    return sdk_for(environment["QSTASH_URL"], environment["QSTASH_TOKEN"])


def test_tasks_run_stream_and_are_listed(cluster_stack: lt.LocalStack, nodes: list[Node]) -> None:
    with lt.connect(settings=cluster_stack.settings, quiet=True) as kit:
        tasks = [kit.submit(f"Explain tide {n}", model="demo-fast") for n in range(12)]
        texts = [task.result(30) for task in tasks]
        assert all(texts)
        assert ["".join(kit.attach(task.id)) for task in tasks] == texts
        assert {task.id for task in tasks} <= {found.id for found in kit.tasks()}
    assert all(node("DBSIZE") for node in nodes), "the tasks lie on all nodes"


def test_the_queue_retries_gives_up_and_schedules(cluster_stack: lt.LocalStack) -> None:
    with use_queue(cluster_stack) as queue:
        nowhere = "http://127.0.0.1:9/"
        sent: Any = queue.message.publish(url=nowhere, body="x", retries=2)
        wait_until(lambda: [d.message_id for d in queue.dlq.list().messages] == [sent.message_id])
        states = [
            event.state for event in queue.log.list().logs if event.message_id == sent.message_id
        ]
        assert states.count(LogState.RETRY) == 2
        first = queue.dlq.list().messages[0].dlq_id
        queue.http.request(path=f"/v2/dlq/retry/{first}", method="POST")
        wait_until(lambda: [d.dlq_id != first for d in queue.dlq.list().messages] == [True])
        queue.dlq.delete(queue.dlq.list().messages[0].dlq_id)
        assert queue.dlq.list().messages == []
        made = queue.schedule.create(destination=nowhere, cron="* * * * *")
        queue.schedule.pause(made)
        assert queue.schedule.get(made).paused
        queue.schedule.delete(made)
        queue.queue.upsert("line", parallelism=2)
        assert [found.name for found in queue.queue.list()] == ["line"]
        queue.url_group.upsert_endpoints("group", [{"url": nowhere}])
        assert [found.name for found in queue.url_group.list()] == ["group"]


def test_what_waits_is_there_after_a_restart(nodes: list[Node], home: Path) -> None:
    message_id = ""
    for _ in range(2):
        with (
            lt.LocalStack.start(home / "data", redis_url=nodes[1].url) as stack,
            use_queue(stack) as queue,
        ):
            if not message_id:
                sent: Any = queue.message.publish(
                    url="http://127.0.0.1:9/", body="later", not_before=int(time.time()) + 600
                )
                message_id = sent.message_id
            assert queue.message.get(message_id).body == "later"


@pytest.mark.parametrize("form", ["database", "socket"])
def test_a_url_that_no_cluster_can_have_is_refused_with_the_cure(
    nodes: list[Node], home: Path, form: str
) -> None:
    url = f"{nodes[0].url}/3" if form == "database" else f"unix://{nodes[0].socket_path}"
    with pytest.raises(lt.LocalStackError, match=r"cluster.*redis://host:port") as caught:
        lt.LocalStack.start(redis_url=url)
    assert "--redis-url" in str(caught.value)
