"""A database connection in a thread of its own, driven from Trio.

APSW keeps the thread; a whole function runs there in one hop, and sees an ordinary synchronous
connection.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

import apsw
import apsw.aio
import trio

OPEN_WITHIN_S = 60.0
CLOSE_WITHIN_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[apsw.Connection, P], T]


class DoubtfulCommit(Exception):
    """SQLite failed in the one step after which a crash can show a transaction as committed.

    The log was written whole and could not be synced: this process has rolled the transaction
    back, but whoever recovers the log may find it. The next commit writes over it.
    """


class ThreadedConnection:
    """Runs functions on a connection, one after another; made by ``connect``.

    What a function raises comes out. A cancelled call is skipped, or interrupted inside SQLite, or
    done and its result dropped: it is not waited for.
    """

    def __init__(self, connection: "apsw.AsyncConnection") -> None:
        # The name is quoted since it is the type stubs' alone.
        self._async = connection

    async def run(self, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``work(connection, ...)`` in the connection's thread."""
        return await self._call(lambda connection: work(connection, *args, **kwargs))

    async def read(self, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, all of whose queries see the database at one moment."""

        def read(connection: apsw.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(connection, *args, **kwargs)
            finally:
                _roll_back(connection)

        return await self._call(read)

    async def transact(self, work: Work[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same in a writing transaction: committed once this returns, else rolled back.

        Raises also DoubtfulCommit, or what APSW raises.
        """
        return await self._call(
            lambda connection: _transact(connection, lambda: work(connection, *args, **kwargs))
        )

    async def close(self) -> bool:
        """Close the connection and end its thread; whether that was done within a minute.

        May be called again. A connection left open would keep the process from exiting.
        """
        with trio.move_on_after(CLOSE_WITHIN_S, shield=True):
            await self._async.aclose()
            return True
        return False

    async def _call(self, work: Callable[[apsw.Connection], T]) -> T:
        # The caller's deadline must end this as a cancellation; left to itself APSW would also
        # measure it with a clock of its own, and now and then win the race with TooSlowError.
        token = apsw.aio.deadline.set(math.inf)
        try:
            # In its thread the asynchronous connection is a plain one.
            return cast("T", await self._async.async_run(work, self._async))
        finally:
            apsw.aio.deadline.reset(token)


async def connect(path: Path, *, flags: int) -> ThreadedConnection:
    """Open a database file; the caller closes the connection. Raises ``apsw.Error``."""
    # Shielded, because a connection that arrives after its caller has gone is never closed.
    with trio.fail_after(OPEN_WITHIN_S, shield=True):
        return ThreadedConnection(await apsw.Connection.as_async(str(path), flags=flags))


def _roll_back(connection: apsw.Connection) -> None:
    # After some errors SQLite has done so by itself, and then refuses to do it again.
    if not connection.get_autocommit():
        connection.execute("ROLLBACK")


def _transact(connection: apsw.Connection, work: Callable[[], T]) -> T:
    _roll_back(connection)  # what an earlier failure could not
    connection.execute("BEGIN IMMEDIATE")
    try:
        value = work()
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except apsw.IOError as error:
        _roll_back(connection)
        # Where a write to the log failed, the log lacks the transaction's last page.
        if getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_WRITE:
            raise
        raise DoubtfulCommit(str(error)) from error
    except BaseException:
        _roll_back(connection)
        raise
    return value
