"""A kernel that follows many tasks: `python -m tests.benchmarks.idle_followers SECONDS`.

Reads task ids, one a line, and follows them all. Says how many of them it had the first event of
within 30 s, its own private memory before and after, and which share of a core it used in the
seconds that followed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time

from longtask_kit import Settings, connect
from longtask_kit.client.task import Task
from tests.benchmarks.place import read_memory_bytes
from tests.local.processes import read_process_cpu_s
from tests.wait import wait_until

_PATIENCE_S = 30.0


def main(idle_s: float) -> None:
    """Follow, measure, say it."""
    ids = sys.stdin.read().split()
    with connect(settings=Settings(_env_file=None), quiet=True) as kit:
        first = Task(ids[0], door=kit._door)
        _follow(first)  # what the first one loads is not the others' cost
        wait_until(lambda: first._feed.transcript.updated)
        before = _read_memory()
        tasks = [Task(task_id, door=kit._door) for task_id in ids[1:]]
        for task in tasks:
            _follow(task)
        give_up_at = time.monotonic() + _PATIENCE_S
        while (followed := _count(tasks)) < len(tasks) and time.monotonic() < give_up_at:
            time.sleep(0.05)
        after = _read_memory()
        busy_s = read_process_cpu_s(os.getpid())
        time.sleep(idle_s)
        cpu_share = (read_process_cpu_s(os.getpid()) - busy_s) / idle_s
        sys.stdout.write(
            json.dumps(
                {"before": before, "after": after, "followed": followed, "cpu_share": cpu_share}
            )
        )


def _count(tasks: list[Task]) -> int:
    return sum(task._feed.transcript.updated is not None for task in tasks)


def _follow(task: Task) -> None:
    task._feed.listen(lambda _: None)
    task._feed.follow()


def _read_memory() -> int:
    gc.collect()
    return read_memory_bytes(os.getpid())


if __name__ == "__main__":
    main(float(sys.argv[1]))
