"""A store whose commits fail where a test wants it: before they are applied, or right after."""

import enum
from collections.abc import Callable, Mapping, Sequence

import attrs

from hivemind.core.ledger import Movement
from hivemind.core.records import Attempt, Blob, Task, TaskState
from hivemind.store.api import CommitFailed, OutcomeUnknown, Store
from hivemind.store.changes import Changes, MovementPage, Snapshot, StoredSpec, TaskPage


class Moment(enum.Enum):
    """When a commit fails."""

    BEFORE = "before"
    """Nothing of it is stored."""
    AFTER = "after"
    """It is on disk, and whoever waits for it is not told."""


@attrs.frozen
class Fault:
    """How a commit fails; without an error of one's own, as a store would say it."""

    moment: Moment
    error: BaseException | None = None

    def raised(self) -> BaseException:
        """What the commit raises."""
        if self.error is not None:
            return self.error
        if self.moment is Moment.BEFORE:
            return CommitFailed("nothing was stored: the test wants it so")
        return OutcomeUnknown("the test wants the outcome unknown")


Plan = Callable[[int, Changes], Fault | None]
"""Judges a commit by its number, from 1, and what it would write."""


def always(fault: Fault) -> Plan:
    """Every commit fails."""
    return lambda _number, _changes: fault


def on_commits(faults: Mapping[int, Fault]) -> Plan:
    """The commits with these numbers fail."""
    return lambda number, _changes: faults.get(number)


class FailingStore:
    """Another store whose commits fail by plan; reads and everything else are its own."""

    def __init__(self, inner: Store, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan
        self.commits = 0
        """How many commits were asked for."""

    async def commit(self, changes: Changes) -> None:
        """See ``Store.commit``; raises what the plan says."""
        self.commits += 1
        fault = self._plan(self.commits, changes)
        if fault is None or fault.moment is Moment.AFTER:
            await self._inner.commit(changes)
        if fault is not None:
            raise fault.raised()

    async def load(self) -> Snapshot:
        """See ``Store.load``."""
        return await self._inner.load()

    async def spec(self, task_id: str) -> StoredSpec | None:
        """See ``Store.spec``."""
        return await self._inner.spec(task_id)

    async def task(self, task_id: str) -> Task | None:
        """See ``Store.task``."""
        return await self._inner.task(task_id)

    async def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """See ``Store.attempts``."""
        return await self._inner.attempts(task_id)

    async def newest_nodes(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """See ``Store.newest_nodes``."""
        return await self._inner.newest_nodes(task_ids)

    async def result(self, task_id: str, attempt: int) -> Blob | None:
        """See ``Store.result``."""
        return await self._inner.result(task_id, attempt)

    async def tasks(
        self,
        *,
        account: str | None = None,
        states: frozenset[TaskState] | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> TaskPage:
        """See ``Store.tasks``."""
        return await self._inner.tasks(account=account, states=states, cursor=cursor, limit=limit)

    async def ended_before(self, at: float, *, limit: int) -> tuple[Task, ...]:
        """See ``Store.ended_before``."""
        return await self._inner.ended_before(at, limit=limit)

    async def find_task(
        self, account: str, *, client_id: str | None = None, client_key: str | None = None
    ) -> Task | None:
        """See ``Store.find_task``."""
        return await self._inner.find_task(account, client_id=client_id, client_key=client_key)

    async def movements(
        self, account: str, *, cursor: str | None = None, limit: int
    ) -> MovementPage:
        """See ``Store.movements``."""
        return await self._inner.movements(account, cursor=cursor, limit=limit)

    async def find_movement(self, debit: str, key: str) -> Movement | None:
        """See ``Store.find_movement``."""
        return await self._inner.find_movement(debit, key)

    async def tasks_called(self, client_id: str) -> tuple[Task, ...]:
        """See ``Store.tasks_called``."""
        return await self._inner.tasks_called(client_id)

    async def kept_bytes(self, account: str) -> int:
        """See ``Store.kept_bytes``."""
        return await self._inner.kept_bytes(account)

    async def blob_files(self) -> frozenset[str]:
        """See ``Store.blob_files``."""
        return await self._inner.blob_files()

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._inner.close()
