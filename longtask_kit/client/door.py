"""The kit's door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from longtask_kit.log.events import Status
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.subscribe import EventSource
    from longtask_kit.submit.spec import TaskSpec


class Backend(Protocol):
    """What a kit needs; every method runs on the kit's own event loop."""

    @property
    def source(self) -> EventSource:
        """Where events come from."""
        ...

    async def submit(self, spec: TaskSpec) -> tuple[str, str]:
        """Queue a task; returns its id and the queue's message id."""
        ...

    async def read_task(self, task_id: str) -> TaskRecord:
        """Return a task's record, or raise StreamExpiredError."""
        ...

    async def list_tasks(self, *, limit: int, status: Status | None) -> list[TaskRecord]:
        """Return tasks, newest first."""
        ...

    async def cancel(self, task_id: str) -> Status:
        """Cancel, and return the status it led to, or raise StreamExpiredError."""
        ...

    async def retry(self, task_id: str) -> None:
        """Run a failed task again, or raise SubmitError or StreamExpiredError."""
        ...

    async def delete(self, task_id: str) -> None:
        """Forget a task, or raise StreamExpiredError."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
