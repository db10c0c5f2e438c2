"""The SQL of the store, and the functions that run it inside somebody else's transaction.

All of this runs in a connection's own thread, so it is plain synchronous code.
"""

from typing import Literal

import apsw

from hivemind.core.records import Attempt, Blob, Task, TaskState
from hivemind.store import ledger_statements, rows
from hivemind.store.api import CommitFailed, DuplicateTask
from hivemind.store.changes import Changes, NewTask, ResultBlob, Snapshot, StoredSpec, TaskPage

UNFINISHED = tuple(state for state in TaskState if not state.is_end)


def _insert(table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608


def _upsert(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"{_insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}"


_TASK_KEY = rows.TASK_COLUMNS[: rows.TASK_KEY_COLUMNS]
_TASK_REST = rows.TASK_COLUMNS[rows.TASK_KEY_COLUMNS :]

INSERT_TASK = _insert("task", rows.TASK_COLUMNS)
UPDATE_TASK = (
    f"UPDATE task SET ({', '.join(_TASK_REST)}) = ({', '.join('?' * len(_TASK_REST))})"  # noqa: S608
    f" WHERE {' AND '.join(f'{name} = ?' for name in _TASK_KEY)}"
)
INSERT_INPUT = _insert(
    "task_input",
    (
        "task_id", "spec", "payload_size", "payload_inline", "payload_file",
        "stdin_size", "stdin_inline", "stdin_file",
    ),
)  # fmt: skip
UPSERT_ATTEMPT = _upsert("attempt", rows.ATTEMPT_COLUMNS, ("task_id", "number"))
UPSERT_RESULT = _upsert(
    "result", ("task_id", "attempt", "size", "inline", "file"), ("task_id", "attempt")
)
UPSERT_ACCOUNT = _upsert("account", rows.ACCOUNT_COLUMNS, ("name",))
UPSERT_NODE = _upsert("node", rows.NODE_COLUMNS, ("id",))
UPSERT_JOIN_TOKEN = _upsert("join_token", rows.JOIN_TOKEN_COLUMNS, ("digest",))
UPSERT_REVOKED_TOKEN = _upsert("revoked_token", rows.REVOKED_TOKEN_COLUMNS, ("token_id",))
UPSERT_FACT = _upsert("fact", ("name", "value"), ("name",))

_TASK = ", ".join(rows.TASK_COLUMNS)
_UNFINISHED = ", ".join(f"'{state.value}'" for state in UNFINISHED)
SELECT_UNFINISHED = f"SELECT {_TASK} FROM task WHERE state IN ({_UNFINISHED}) ORDER BY seq"  # noqa: S608
# CROSS JOIN keeps the order: from the few unfinished tasks to the attempt of each.
SELECT_NEWEST_ATTEMPTS = (
    f"SELECT {', '.join(f'attempt.{name}' for name in rows.ATTEMPT_COLUMNS)}"  # noqa: S608
    " FROM task CROSS JOIN attempt ON attempt.task_id = task.id AND attempt.number = task.attempt"
    f" WHERE task.state IN ({_UNFINISHED}) ORDER BY task.seq"
)
SELECT_TASK = f"SELECT {_TASK} FROM task WHERE id = ?"  # noqa: S608
SELECT_TASK_BY_SEQ = f"SELECT {_TASK} FROM task WHERE seq = ?"  # noqa: S608
# "<> ''" lets the planner see that the partial index holds every row that can match.
SELECT_BY_CLIENT_ID = (
    f"SELECT {_TASK} FROM task WHERE account = ? AND client_id = ? AND client_id <> ''"  # noqa: S608
)
SELECT_CALLED = (
    f"SELECT {_TASK} FROM task WHERE client_id = ? AND client_id <> '' ORDER BY seq DESC LIMIT 2"  # noqa: S608
)
SELECT_BY_CLIENT_KEY = (
    f"SELECT {_TASK} FROM task WHERE account = ? AND client_key = ? AND client_key <> ''"  # noqa: S608
)
SELECT_ENDED_BEFORE = (
    f"SELECT {_TASK} FROM task WHERE finished_at IS NOT NULL AND finished_at < ?"  # noqa: S608
    " ORDER BY finished_at LIMIT ?"
)
_IF_ENDED = f"IN (SELECT id FROM task WHERE id = ? AND state NOT IN ({_UNFINISHED}))"  # noqa: S608
REMOVE_TASK = (
    f"DELETE FROM result WHERE task_id {_IF_ENDED}",  # noqa: S608
    f"DELETE FROM attempt WHERE task_id {_IF_ENDED}",  # noqa: S608
    f"DELETE FROM task_input WHERE task_id {_IF_ENDED}",  # noqa: S608
    f"DELETE FROM task WHERE id {_IF_ENDED}",  # noqa: S608
)
"""What hangs on a task goes before it."""
SELECT_ATTEMPTS = (
    f"SELECT {', '.join(rows.ATTEMPT_COLUMNS)} FROM attempt WHERE task_id = ? ORDER BY number"  # noqa: S608
)
SELECT_NEWEST_NODE = "SELECT node_id FROM attempt WHERE task_id = ? ORDER BY number DESC LIMIT 1"
SELECT_INPUT = (
    "SELECT spec, payload_size, payload_inline, payload_file, stdin_size, stdin_inline, stdin_file"
    " FROM task_input WHERE task_id = ?"
)
SELECT_RESULT = "SELECT size, inline, file FROM result WHERE task_id = ? AND attempt = ?"
SELECT_KEPT = "SELECT bytes FROM kept WHERE account = ?"
SELECT_FILES = (
    "SELECT payload_file FROM task_input WHERE payload_file IS NOT NULL"
    " UNION ALL SELECT stdin_file FROM task_input WHERE stdin_file IS NOT NULL"
    " UNION ALL SELECT file FROM result WHERE file IS NOT NULL"
)
SELECT_SEQS = "SELECT seq FROM task WHERE seq < ? ORDER BY seq DESC LIMIT ?"
SELECT_SEQS_BY_STATE = "SELECT seq FROM task WHERE state = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
SELECT_SEQS_BY_ACCOUNT_AND_STATE = (
    "SELECT seq FROM task WHERE account = ? AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
)


def write(connection: apsw.Connection, changes: Changes) -> None:
    """Apply one turn's writes.

    Raises DuplicateTask, CommitFailed, or what APSW or the conversion of a value raises.
    """
    for new in changes.new_tasks:
        _insert_task(connection, new)
    if changes.tasks:
        _update_tasks(connection, changes.tasks)
    if changes.attempts:
        connection.executemany(UPSERT_ATTEMPT, map(rows.attempt_row, changes.attempts))
    if changes.results:
        connection.executemany(UPSERT_RESULT, map(_result_row, changes.results))
    if changes.accounts:
        connection.executemany(UPSERT_ACCOUNT, map(rows.account_row, changes.accounts))
    if changes.nodes:
        connection.executemany(UPSERT_NODE, map(rows.node_row, changes.nodes))
    if changes.forgotten_nodes:
        forgotten = ((id_,) for id_ in changes.forgotten_nodes)
        connection.executemany("DELETE FROM node WHERE id = ?", forgotten)
    if changes.join_tokens:
        connection.executemany(UPSERT_JOIN_TOKEN, map(rows.join_token_row, changes.join_tokens))
    if changes.revoked_tokens:
        connection.executemany(
            UPSERT_REVOKED_TOKEN, map(rows.revoked_token_row, changes.revoked_tokens)
        )
    if changes.facts:
        connection.executemany(UPSERT_FACT, changes.facts.items())
    ledger_statements.write(connection, changes)
    if changes.removed_tasks:
        for statement in REMOVE_TASK:
            connection.executemany(statement, ((id_,) for id_ in changes.removed_tasks))
    if changes.stale_before:
        for table in ("join_token", "revoked_token"):
            connection.execute(
                f"DELETE FROM {table} WHERE expires_at < ?",  # noqa: S608
                (changes.stale_before,),
            )


def _insert_task(connection: apsw.Connection, new: NewTask) -> None:
    try:
        connection.execute(INSERT_TASK, rows.task_row(new.task))
    except apsw.ConstraintError:
        _refuse_duplicate(connection, new.task)
        raise
    connection.execute(
        INSERT_INPUT,
        (new.task.id, new.spec, *rows.blob_row(new.payload), *rows.blob_row(new.stdin)),
    )


def _refuse_duplicate(connection: apsw.Connection, task: Task) -> None:
    """Raise DuplicateTask for the first key of the task that is taken, if one is."""
    for field, value, query, keys in (
        ("id", task.id, SELECT_TASK, (task.id,)),
        ("client_id", task.client_id, SELECT_BY_CLIENT_ID, (task.account, task.client_id)),
        ("client_key", task.client_key, SELECT_BY_CLIENT_KEY, (task.account, task.client_key)),
    ):
        row = connection.execute(query, keys).fetchone()
        if row is not None:
            raise DuplicateTask(
                field=field, value=value, account=task.account, task_id=task.id, existing=row[0]
            )


def _update_tasks(connection: apsw.Connection, tasks: tuple[Task, ...]) -> None:
    before = connection.total_changes()
    key = rows.TASK_KEY_COLUMNS
    task_rows = [rows.task_row(task) for task in tasks]
    connection.executemany(UPDATE_TASK, (row[key:] + row[:key] for row in task_rows))
    if connection.total_changes() - before == len(tasks):
        return
    for row in task_rows:
        found = connection.execute(SELECT_TASK, row[:1]).fetchone()
        if found is None:
            raise CommitFailed(f"there is no task {row[0]} to update")
        if found[:key] != row[:key]:
            raise CommitFailed(f"an update of task {row[0]} would change what is its for good")
    raise CommitFailed("the tasks to update were not found")


def _result_row(result: ResultBlob) -> rows.Row:
    return (result.task_id, result.attempt, *rows.blob_row(result.blob))


def read_snapshot(connection: apsw.Connection, now: float) -> Snapshot:
    """What a master that starts must know; token lifetimes are judged at ``now``."""

    def select(table: str, columns: tuple[str, ...], where: str = "") -> apsw.Cursor:
        return connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} {where}",  # noqa: S608
            (now,) if where else None,
        )

    live = "WHERE expires_at > ?"
    return Snapshot(
        tasks=tuple(map(rows.task_of, connection.execute(SELECT_UNFINISHED))),
        attempts=tuple(map(rows.attempt_of, connection.execute(SELECT_NEWEST_ATTEMPTS))),
        accounts=tuple(map(rows.account_of, select("account", rows.ACCOUNT_COLUMNS))),
        nodes=tuple(map(rows.node_of, select("node", rows.NODE_COLUMNS))),
        join_tokens=tuple(
            map(
                rows.join_token_of,
                select("join_token", rows.JOIN_TOKEN_COLUMNS, f"{live} AND used_at IS NULL"),
            )
        ),
        revoked_tokens=tuple(
            map(
                rows.revoked_token_of,
                select("revoked_token", rows.REVOKED_TOKEN_COLUMNS, live),
            )
        ),
        facts=dict(select("fact", ("name", "value"))),
        balances=ledger_statements.read_balances(connection),
        escrows=ledger_statements.read_escrows(connection),
    )


def read_spec(connection: apsw.Connection, task_id: str) -> StoredSpec | None:
    """What a task was submitted with."""
    row = connection.execute(SELECT_INPUT, (task_id,)).fetchone()
    if row is None:
        return None
    return StoredSpec(spec=row[0], payload=rows.blob_of(row[1:4]), stdin=rows.blob_of(row[4:7]))


def read_task(connection: apsw.Connection, task_id: str) -> Task | None:
    """A task by its id."""
    return _one_task(connection, SELECT_TASK, (task_id,))


def read_ended_before(connection: apsw.Connection, at: float, limit: int) -> tuple[Task, ...]:
    """The tasks that ended longest ago; see ``Store.ended_before``."""
    return tuple(map(rows.task_of, connection.execute(SELECT_ENDED_BEFORE, (at, limit))))


def find_task(
    connection: apsw.Connection, account: str, field: Literal["client_id", "client_key"], value: str
) -> Task | None:
    """An account's task by a name that its client gave it."""
    query = SELECT_BY_CLIENT_ID if field == "client_id" else SELECT_BY_CLIENT_KEY
    return _one_task(connection, query, (account, value))


def find_called(connection: apsw.Connection, client_id: str) -> tuple[Task, ...]:
    """The newest tasks of any account that their clients call so."""
    return tuple(map(rows.task_of, connection.execute(SELECT_CALLED, (client_id,))))


def _one_task(connection: apsw.Connection, query: str, keys: rows.Row) -> Task | None:
    row = connection.execute(query, keys).fetchone()
    return None if row is None else rows.task_of(row)


def read_attempts(connection: apsw.Connection, task_id: str) -> tuple[Attempt, ...]:
    """Every attempt at a task, the first one first."""
    return tuple(map(rows.attempt_of, connection.execute(SELECT_ATTEMPTS, (task_id,))))


def read_newest_nodes(connection: apsw.Connection, task_ids: tuple[str, ...]) -> dict[str, str]:
    """The node of each task's newest attempt."""
    found = {}
    for id_ in task_ids:
        row = connection.execute(SELECT_NEWEST_NODE, (id_,)).fetchone()
        if row is not None:
            found[id_] = row[0]
    return found


def read_files(connection: apsw.Connection) -> frozenset[str]:
    """The name of every file that a row names."""
    return frozenset(file for (file,) in connection.execute(SELECT_FILES))


def read_kept_bytes(connection: apsw.Connection, account: str) -> int:
    """How much the account's tasks take."""
    row = connection.execute(SELECT_KEPT, (account,)).fetchone()
    return 0 if row is None else int(row[0])


def read_result(connection: apsw.Connection, task_id: str, attempt: int) -> Blob | None:
    """What an attempt left."""
    row = connection.execute(SELECT_RESULT, (task_id, attempt)).fetchone()
    return None if row is None else rows.blob_of(row)


def read_page(
    connection: apsw.Connection,
    account: str | None,
    states: frozenset[TaskState] | None,
    before_seq: int,
    limit: int,
) -> TaskPage:
    """The newest tasks before a point; see ``Store.tasks``.

    Each state's newest come out of an index, and are merged here: one query for several states
    would have SQLite sort or skip rows that the page does not show.
    """
    newest: list[int] = []
    if account is None and states is None:
        newest.extend(_seqs(connection, SELECT_SEQS, (before_seq, limit + 1)))
    else:
        for state in TaskState if states is None else states:
            keys: rows.Row = (state.value, before_seq, limit + 1)
            if account is None:
                newest.extend(_seqs(connection, SELECT_SEQS_BY_STATE, keys))
            else:
                query = SELECT_SEQS_BY_ACCOUNT_AND_STATE
                newest.extend(_seqs(connection, query, (account, *keys)))
    seqs = sorted(newest, reverse=True)[: limit + 1]
    tasks = tuple(
        rows.task_of(row)
        for seq in seqs[:limit]
        for row in connection.execute(SELECT_TASK_BY_SEQ, (seq,))
    )
    return TaskPage(tasks=tasks, next_cursor=str(seqs[limit - 1]) if len(seqs) > limit else None)


def _seqs(connection: apsw.Connection, query: str, keys: rows.Row) -> list[int]:
    return [seq for (seq,) in connection.execute(query, keys)]
