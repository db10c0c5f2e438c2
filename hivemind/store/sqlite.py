"""The store that daemons use: SQLite in WAL mode, with one connection to write and one to read.

Each has a thread of its own. Commits queue at the writer; a listing never waits for a commit, nor
a commit for a listing.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import apsw
import trio

from hivemind.core.ledger import Movement
from hivemind.core.records import Attempt, Blob, Task, TaskState
from hivemind.store import ledger_statements, statements
from hivemind.store.api import (
    CommitFailed,
    Corrupt,
    OutcomeUnknown,
    ReadFailed,
    check_limit,
    one_name,
    parse_cursor,
)
from hivemind.store.changes import Changes, MovementPage, Snapshot, StoredSpec, TaskPage
from hivemind.store.connection import DoubtfulCommit, ThreadedConnection, connect
from hivemind.store.lock import Locked, hold_lock
from hivemind.store.opening import Unusable, prepare_file, prepare_reader, prepare_writer
from hivemind.store.schema import rewrite_version

COMMIT_WITHIN_S = 60.0


class SqliteStore:
    """See ``Store`` for the promises; made by ``open_sqlite_store``."""

    def __init__(
        self,
        writer: ThreadedConnection,
        reader: ThreadedConnection,
        *,
        clock: Callable[[], float],
        lock: contextlib.ExitStack,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._lock = lock
        self._is_doubtful = False

    async def commit(self, changes: Changes) -> None:
        """See ``Store.commit``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if changes.is_empty:
            return
        # Shielded, because a transaction whose caller is cancelled may be applied all the same.
        with trio.move_on_after(COMMIT_WITHIN_S, shield=True):
            try:
                await self._writer.transact(statements.write, changes)
            except DoubtfulCommit as error:
                self._is_doubtful = True
                raise OutcomeUnknown(f"the disk failed during a commit: {error}") from error
            except (apsw.Error, ArithmeticError, TypeError, ValueError) as error:
                raise CommitFailed(f"nothing was stored: {error}") from error
            return
        self._is_doubtful = True
        raise OutcomeUnknown(f"a commit was not done after {COMMIT_WITHIN_S:g} s")

    async def load(self) -> Snapshot:
        """See ``Store.load``."""
        # All on the writer, behind every commit that is still at work there.
        now = self._clock()
        with _reading():
            if self._is_doubtful:
                await self._writer.transact(rewrite_version)
                self._is_doubtful = False
            return await self._writer.read(statements.read_snapshot, now)

    async def spec(self, task_id: str) -> StoredSpec | None:
        """See ``Store.spec``."""
        with _reading():
            return await self._reader.run(statements.read_spec, task_id)

    async def task(self, task_id: str) -> Task | None:
        """See ``Store.task``."""
        with _reading():
            return await self._reader.run(statements.read_task, task_id)

    async def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """See ``Store.attempts``."""
        with _reading():
            return await self._reader.run(statements.read_attempts, task_id)

    async def newest_nodes(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """See ``Store.newest_nodes``."""
        with _reading():
            return await self._reader.run(statements.read_newest_nodes, tuple(task_ids))

    async def result(self, task_id: str, attempt: int) -> Blob | None:
        """See ``Store.result``."""
        with _reading():
            return await self._reader.run(statements.read_result, task_id, attempt)

    async def tasks(
        self,
        *,
        account: str | None = None,
        states: frozenset[TaskState] | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> TaskPage:
        """See ``Store.tasks``."""
        before_seq = parse_cursor(cursor)
        check_limit(limit)
        with _reading():
            return await self._reader.read(statements.read_page, account, states, before_seq, limit)

    async def ended_before(self, at: float, *, limit: int) -> tuple[Task, ...]:
        """See ``Store.ended_before``."""
        check_limit(limit)
        with _reading():
            return await self._reader.run(statements.read_ended_before, at, limit)

    async def find_task(
        self, account: str, *, client_id: str | None = None, client_key: str | None = None
    ) -> Task | None:
        """See ``Store.find_task``."""
        field, value = one_name(client_id, client_key)
        with _reading():
            return await self._reader.run(statements.find_task, account, field, value)

    async def movements(
        self, account: str, *, cursor: str | None = None, limit: int
    ) -> MovementPage:
        """See ``Store.movements``."""
        before_seq = parse_cursor(cursor)
        check_limit(limit)
        with _reading():
            return await self._reader.read(
                ledger_statements.read_history, account, before_seq, limit
            )

    async def find_movement(self, debit: str, key: str) -> Movement | None:
        """See ``Store.find_movement``."""
        with _reading():
            return await self._reader.run(ledger_statements.find_movement, debit, key)

    async def tasks_called(self, client_id: str) -> tuple[Task, ...]:
        """See ``Store.tasks_called``."""
        with _reading():
            return await self._reader.run(statements.find_called, client_id)

    async def kept_bytes(self, account: str) -> int:
        """See ``Store.kept_bytes``."""
        with _reading():
            return await self._reader.run(statements.read_kept_bytes, account)

    async def blob_files(self) -> frozenset[str]:
        """See ``Store.blob_files``."""
        with _reading():
            return await self._reader.read(statements.read_files)

    async def close(self) -> None:
        """See ``Store.close``."""
        is_closed = await self._reader.close()
        is_closed = await self._writer.close() and is_closed
        # A thread that is stuck in the disk may still write: nobody else may come in then.
        if is_closed:
            self._lock.close()


@contextlib.asynccontextmanager
async def open_sqlite_store(
    path: Path, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[SqliteStore]:
    """The store in a database file, which is made where there is none; closed with the block.

    ``clock`` gives the seconds since the epoch by which tokens expire.

    Raises Locked, Unusable, NotOurs, NewerSchema, Corrupt or MigrationFailed; the database is then
    as it was.
    """
    async with contextlib.AsyncExitStack() as stack:
        lock = stack.enter_context(contextlib.ExitStack())
        try:
            lock.enter_context(hold_lock(path.with_name(path.name + ".lock")))
        except OSError as error:
            raise Unusable.because(path, error.strerror) from error
        prepare_file(path)
        try:
            writer = await connect(path, flags=apsw.SQLITE_OPEN_READWRITE)
            stack.push_async_callback(writer.close)
            await writer.run(prepare_writer, path)
            reader = await connect(path, flags=apsw.SQLITE_OPEN_READONLY)
            stack.push_async_callback(reader.close)
            await reader.run(prepare_reader)
        except apsw.BusyError as error:
            raise Locked(path, None) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise Corrupt.at(path, str(error)) from error
        except apsw.Error as error:
            raise Unusable.because(path, str(error)) from error
        store = SqliteStore(writer, reader, clock=clock, lock=lock.pop_all())
        stack.push_async_callback(store.close)
        yield store


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What goes wrong in a read becomes ReadFailed or Corrupt."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"the database is damaged ({error}): stop, and restore a copy") from error
    except (apsw.Error, DoubtfulCommit) as error:
        raise ReadFailed(f"the database could not be read: {error}") from error
    except (ArithmeticError, UnicodeError) as error:
        raise ReadFailed(f"the database cannot be asked for that: {error}") from error
    except ValueError as error:
        raise Corrupt(f"the database holds a word that nobody wrote: {error}") from error
