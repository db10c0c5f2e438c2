"""What every store promises, and the errors that it raises."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from hivemind.core.ledger import Movement
from hivemind.core.records import Attempt, Blob, Task, TaskState
from hivemind.store.changes import Changes, MovementPage, Snapshot, StoredSpec, TaskPage

MOST_PER_PAGE = 10_000
ROWS_BYTES = 1024
"""What a task counts for beside its blobs, so that even many empty ones count."""
_AFTER_ALL = 2**63 - 1


class StoreError(Exception):
    """The store could not do what it was asked."""


class CommitFailed(StoreError):
    """A commit was surely not applied, neither now nor after a crash; the store can be used on."""


class DuplicateTask(CommitFailed):
    """A new task has an id, or with its account a client id or key, that is taken already."""

    def __init__(
        self, *, field: str, value: str, account: str, task_id: str, existing: str
    ) -> None:
        whose = f" of account {account}" if field != "id" else ""
        super().__init__(f"a task{whose} has the {field.replace('_', ' ')} {value!r} already")
        self.field = field
        """``id``, ``client_id`` or ``client_key``."""
        self.value = value
        self.account = account
        self.task_id = task_id
        """The id of the new task."""
        self.existing = existing
        """The id of the task that has the value, which may be one of the same changes."""


class OutcomeUnknown(StoreError):
    """It cannot be known now whether a commit was applied. ``load`` tells what is the case."""


class ReadFailed(StoreError):
    """The store could not be read; trying again may help."""


class Corrupt(StoreError):
    """The database is damaged."""

    @classmethod
    def at(cls, path: Path, finding: str) -> "Corrupt":
        """With the one line that people see."""
        line = " ".join(finding.split())
        return cls(f"{path} is damaged ({line}): restore a copy, or move it away to begin anew")


class BadCursor(StoreError):
    """A cursor that no page gave out."""


class Store(Protocol):
    """The durable store of one master. Tasks may call it side by side; commits are applied in turn.

    Any read may raise ReadFailed or Corrupt. Reads see every commit that has returned, and may be
    cancelled at any point.
    """

    async def commit(self, changes: Changes) -> None:
        """Apply one turn's writes, all or none; they are on disk when this returns.

        Raises CommitFailed (DuplicateTask where a new task's key is taken), or OutcomeUnknown. A
        cancelled caller is cancelled before the commit begins or, else, learns its outcome.
        """
        ...

    async def load(self) -> Snapshot:
        """What a master that starts must know; settles the outcome of every commit before it."""
        ...

    async def spec(self, task_id: str) -> StoredSpec | None:
        """A task's spec, payload and standard input; None if there is no such task."""
        ...

    async def task(self, task_id: str) -> Task | None:
        """A task, finished or not."""
        ...

    async def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """Every attempt at a task, the first one first."""
        ...

    async def newest_nodes(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """The node of each task's newest attempt, for those that have one; at most 10 000 ids."""
        ...

    async def result(self, task_id: str, attempt: int) -> Blob | None:
        """What an attempt left in its output folder; None where it left nothing."""
        ...

    async def tasks(
        self,
        *,
        account: str | None = None,
        states: frozenset[TaskState] | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> TaskPage:
        """At most ``limit`` (1 to 10 000) tasks, newest first, of an account and in some states.

        None stands for every account, or every state. The work depends on the limit, not on how
        many tasks there are. Raises BadCursor.
        """
        ...

    async def ended_before(self, at: float, *, limit: int) -> tuple[Task, ...]:
        """At most ``limit`` (1 to 10 000) tasks that had ended by then, the longest ago first."""
        ...

    async def find_task(
        self, account: str, *, client_id: str | None = None, client_key: str | None = None
    ) -> Task | None:
        """An account's task by exactly one of the two names that a client may give it.

        The empty string, which stands for none given, finds nothing.
        """
        ...

    async def movements(
        self, account: str, *, cursor: str | None = None, limit: int
    ) -> MovementPage:
        """At most ``limit`` entries on either side of a ledger account, newest first.

        As ``tasks`` otherwise.
        """
        ...

    async def find_movement(self, debit: str, key: str) -> Movement | None:
        """The entry with this key that took from this ledger account; none for an empty key."""
        ...

    async def tasks_called(self, client_id: str) -> tuple[Task, ...]:
        """The tasks that their clients call so, of any account; the newest two at most.

        The empty string, which stands for none given, finds nothing.
        """
        ...

    async def kept_bytes(self, account: str) -> int:
        """How much of the disk the account's tasks take, ended ones included: their specs, payloads
        and results, and ``ROWS_BYTES`` for each task.
        """
        ...

    async def blob_files(self) -> frozenset[str]:
        """The name of every file that a row names; see ``BlobFolder.sweep``."""
        ...

    async def close(self) -> None:
        """End its use; once it returns another master may open it. May be called again."""
        ...


def parse_cursor(cursor: str | None) -> int:
    """The place in the order of submission before which a page's tasks lie. Raises BadCursor."""
    if cursor is None:
        return _AFTER_ALL
    # Clients hand cursors back, so this may be anything.
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < len(str(_AFTER_ALL))):
        raise BadCursor("the cursor is not one that a listing gave out: list from the start")
    return int(cursor)


def check_limit(limit: int) -> None:
    """Raise ValueError for a page's size that no caller should let through."""
    if not 1 <= limit <= MOST_PER_PAGE:
        raise ValueError(f"a page holds 1 to {MOST_PER_PAGE} entries, not {limit}")


def one_name(
    client_id: str | None, client_key: str | None
) -> tuple[Literal["client_id", "client_key"], str]:
    """Which of the two names a client gave, and its value. Raises ValueError if not exactly one."""
    if client_id is not None and client_key is None:
        return "client_id", client_id
    if client_key is not None and client_id is None:
        return "client_key", client_key
    raise ValueError("a task is found by either its client id or its client key")
