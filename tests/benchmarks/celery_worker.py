"""A celery worker, started as `celery -A tests.benchmarks.celery_worker worker`.

It sends the number of each task and the moment its handler began to the UDP port of BENCH_PORT;
that clock is the machine's, the same in every process.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
from typing import Any

celery: Any = importlib.import_module("celery")  # in the extra `bench` only

app = celery.Celery("bench", broker=os.environ.get("BENCH_BROKER"), set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue="bench:celery")
_reports = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@app.task(name="begin")  # type: ignore[untyped-decorator]
def begin(number: int) -> None:
    """Report that the handler of a number starts."""
    report = f"{number} {time.perf_counter()!r}".encode()
    _reports.sendto(report, ("127.0.0.1", int(os.environ["BENCH_PORT"])))
