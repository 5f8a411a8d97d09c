"""What a kit's calls go to: the services themselves, or the HTTP API of an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from longtask_kit.log.many import ManyStore
from longtask_kit.log.subscribe import RedisSource
from longtask_kit.submit.asked import DEFAULT_TTL_S
from longtask_kit.submit.groups import Groups
from longtask_kit.submit.queue import Queue
from longtask_kit.submit.tasks import CancelAnswer, NextTry, Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from longtask_kit.log.archive import Archived
    from longtask_kit.log.changes import Change
    from longtask_kit.log.events import Status
    from longtask_kit.log.groups import GroupRecord
    from longtask_kit.log.record import TaskRecord
    from longtask_kit.log.subscribe import EventSource
    from longtask_kit.settings import Settings
    from longtask_kit.submit.asked import Asked, Mapped, Place
    from longtask_kit.submit.spec import TaskSpec


class GroupBackend(Protocol):
    """What a kit's calls about many tasks go to; `Groups` says what each does."""

    async def map(self, asked: Asked) -> Mapped:
        """Have a task for each row."""
        ...

    async def submit(self, spec: TaskSpec, *, place: Place, ttl_s: int = DEFAULT_TTL_S) -> str:
        """Return the task of a content."""
        ...

    async def read(self, group_id: str) -> GroupRecord:
        """Return a group."""
        ...

    async def list_groups(self, *, limit: int) -> list[GroupRecord]:
        """Return groups, those that ran last first."""
        ...

    async def look(self, task_ids: Sequence[str]) -> list[Change]:
        """Return where tasks stand."""
        ...

    async def read_tasks(self, task_ids: Sequence[str]) -> list[TaskRecord]:
        """Return the records of tasks that were submitted of late, as far as they are there."""
        ...

    async def read_changes(self, after: str | None) -> tuple[list[Change], str, bool]:
        """Return what has changed after a place, the new place, and whether some is missing."""
        ...

    async def read_texts(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the text of each that has completed."""
        ...

    async def retry(self, task_ids: Sequence[str], *, retry_id: str = "") -> None:
        """Run failed tasks again; twice with the same retry id is once."""
        ...

    async def cancel(self, task_ids: Sequence[str]) -> None:
        """Cancel tasks."""
        ...

    async def resume(
        self,
        group_id: str,
        *,
        budget_tokens: int | None = None,
        budget_cost: float | None = None,
    ) -> GroupRecord:
        """Go on with a group whose budget was spent."""
        ...

    async def vote(self, group_id: str, task_id: str, winner: str | None) -> None:
        """Note whose answer is the best of those to a prompt."""
        ...

    async def restore(
        self, tasks: Sequence[Archived], groups: Sequence[GroupRecord], *, ttl_s: int
    ) -> int:
        """Bring back what an archive holds."""
        ...


class Backend(Protocol):
    """What a kit's calls go to; every method runs on the kit's own event loop.

    Beside what each says, all raise StreamExpiredError for a task that is not there.
    """

    @property
    def source(self) -> EventSource:
        """Where events come from."""
        ...

    async def submit(self, spec: TaskSpec, *, task_id: str | None = None) -> tuple[str, str]:
        """Queue a task; returns its id and the queue's message id.

        Twice with the same id is once. An app behind the HTTP API chooses one by itself.
        """
        ...

    async def read(self, task_id: str) -> TaskRecord:
        """Return a task's record."""
        ...

    async def read_input(self, task_id: str) -> dict[str, Any]:
        """Return all of what a task asks."""
        ...

    async def list(self, *, limit: int, status: Status | None) -> Sequence[TaskRecord]:
        """Return tasks, newest first."""
        ...

    async def cancel(self, task_id: str) -> CancelAnswer:
        """Cancel, and return what it led to."""
        ...

    async def retry(self, task_id: str, *, retry_id: str = "") -> str:
        """Run a failed task again, or raise SubmitError; returns the queue's message id.

        Twice with the same retry id is once.
        """
        ...

    async def find_next_try(self, task_id: str) -> NextTry:
        """Return what is known of the next try of a task that waits for it."""
        ...

    async def try_now(self, task_id: str) -> bool:
        """Have a task that waits for its next try run at once; whether it does."""
        ...

    async def delete(self, task_id: str) -> None:
        """Forget a task."""
        ...

    @property
    def groups(self) -> GroupBackend:
        """What concerns many tasks at once."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class ServiceBackend(Tasks):
    """The services themselves: QStash and Redis, hosted or local."""

    def __init__(
        self,
        settings: Settings,
        store: ManyStore | None = None,
        *,
        queue: Queue | None = None,
        source: RedisSource | None = None,
    ) -> None:
        store, queue = store or ManyStore.open(settings), queue or Queue.open(settings)
        # On one machine all that they wait for is each other.
        super().__init__(store, queue, at_once=6 if settings.has_loopback_redis else 32)
        self.groups = Groups(self, store, queue)
        self.source = source or RedisSource(store, settings, has_message=queue.has)
        self._settings = settings

    @property
    def queue(self) -> Queue:
        """The queue itself."""
        return self._queue

    def lead_to(self, settings: Settings) -> Self | None:
        """Return one whose tasks run at another webhook, by the same connections.

        None when the settings differ in more than the webhook's URL.
        """
        if settings.model_copy(update={"base_url": self._settings.base_url}) != self._settings:
            return None
        queue = self._queue.lead_to(settings)
        return type(self)(settings, self.groups.store, queue=queue, source=self.source)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.source.aclose()
        await self._queue.aclose()
        await self._store.aclose()
