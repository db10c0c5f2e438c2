"""A store that forgets everything with the process: for tests, and the model for the real one."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from hivemind.core.ledger import Escrow, LedgerError, Movement, post
from hivemind.core.records import (
    Account,
    Attempt,
    Blob,
    JoinToken,
    Node,
    RevokedToken,
    Task,
    TaskState,
)
from hivemind.store import rows
from hivemind.store.api import (
    ROWS_BYTES,
    CommitFailed,
    DuplicateTask,
    check_limit,
    one_name,
    parse_cursor,
)
from hivemind.store.changes import (
    Changes,
    MovementPage,
    NewTask,
    Snapshot,
    StoredSpec,
    TaskPage,
)
from hivemind.store.ledger_statements import escrow_rows, movement_row, page_of


@attrs.define(kw_only=True)
class _Tables:
    tasks: dict[str, Task] = attrs.field(factory=dict)
    """In the order of submission: a later record of a task keeps its place."""
    seqs: dict[str, int] = attrs.field(factory=dict)
    """The place of every task in that order, of removed ones too: none is given out again."""
    specs: dict[str, StoredSpec] = attrs.field(factory=dict)
    attempts: dict[tuple[str, int], Attempt] = attrs.field(factory=dict)
    results: dict[tuple[str, int], Blob] = attrs.field(factory=dict)
    accounts: dict[str, Account] = attrs.field(factory=dict)
    nodes: dict[str, Node] = attrs.field(factory=dict)
    join_tokens: dict[bytes, JoinToken] = attrs.field(factory=dict)
    revoked_tokens: dict[str, RevokedToken] = attrs.field(factory=dict)
    facts: dict[str, bytes] = attrs.field(factory=dict)
    movements: dict[int, Movement] = attrs.field(factory=dict)
    balances: dict[str, int] = attrs.field(factory=dict)
    escrows: dict[str, Escrow] = attrs.field(factory=dict)

    def copy(self) -> "_Tables":
        return _Tables(
            **{field.name: dict(getattr(self, field.name)) for field in attrs.fields(_Tables)}
        )


class MemoryStore:
    """See ``Store`` for the promises, of which this one keeps all but that of the disk."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tables = _Tables()
        self._is_closed = False

    async def commit(self, changes: Changes) -> None:
        """See ``Store.commit``."""
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise CommitFailed("nothing was stored: the store is closed")
        tables = self._tables.copy()
        try:
            _apply(tables, changes)
        except (ArithmeticError, LedgerError, TypeError, ValueError) as error:
            raise CommitFailed(f"nothing was stored: {error}") from error
        self._tables = tables

    async def load(self) -> Snapshot:
        """See ``Store.load``."""
        await trio.lowlevel.checkpoint()
        tables, now = self._tables, self._clock()
        unfinished = tuple(task for task in tables.tasks.values() if not task.state.is_end)
        newest = (tables.attempts.get((task.id, task.attempt)) for task in unfinished)
        return Snapshot(
            tasks=unfinished,
            attempts=tuple(attempt for attempt in newest if attempt is not None),
            accounts=tuple(tables.accounts.values()),
            nodes=tuple(tables.nodes.values()),
            join_tokens=tuple(
                token
                for token in tables.join_tokens.values()
                if token.used_at is None and token.expires_at > now
            ),
            revoked_tokens=tuple(
                token for token in tables.revoked_tokens.values() if token.expires_at > now
            ),
            facts=dict(tables.facts),
            balances=dict(tables.balances),
            escrows=tuple(escrow for _, escrow in sorted(tables.escrows.items())),
        )

    async def spec(self, task_id: str) -> StoredSpec | None:
        """See ``Store.spec``."""
        await trio.lowlevel.checkpoint()
        return self._tables.specs.get(task_id)

    async def task(self, task_id: str) -> Task | None:
        """See ``Store.task``."""
        await trio.lowlevel.checkpoint()
        return self._tables.tasks.get(task_id)

    async def attempts(self, task_id: str) -> tuple[Attempt, ...]:
        """See ``Store.attempts``."""
        await trio.lowlevel.checkpoint()
        found = (
            attempt for attempt in self._tables.attempts.values() if attempt.task_id == task_id
        )
        return tuple(sorted(found, key=lambda attempt: attempt.number))

    async def newest_nodes(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """See ``Store.newest_nodes``."""
        await trio.lowlevel.checkpoint()
        found = {}
        for id_ in task_ids:
            numbers = [number for task_id, number in self._tables.attempts if task_id == id_]
            if numbers:
                found[id_] = self._tables.attempts[id_, max(numbers)].node_id
        return found

    async def result(self, task_id: str, attempt: int) -> Blob | None:
        """See ``Store.result``."""
        await trio.lowlevel.checkpoint()
        return self._tables.results.get((task_id, attempt))

    async def tasks(
        self,
        *,
        account: str | None = None,
        states: frozenset[TaskState] | None = None,
        cursor: str | None = None,
        limit: int,
    ) -> TaskPage:
        """See ``Store.tasks``."""
        await trio.lowlevel.checkpoint()
        before = parse_cursor(cursor)
        check_limit(limit)
        tables = self._tables
        found = [
            (number, task)
            for number, task in (
                (tables.seqs[id_], task) for id_, task in reversed(tables.tasks.items())
            )
            if number < before
            and (account is None or task.account == account)
            and (states is None or task.state in states)
        ]
        return TaskPage(
            tasks=tuple(task for _, task in found[:limit]),
            next_cursor=str(found[limit - 1][0]) if len(found) > limit else None,
        )

    async def ended_before(self, at: float, *, limit: int) -> tuple[Task, ...]:
        """See ``Store.ended_before``."""
        await trio.lowlevel.checkpoint()
        check_limit(limit)
        ended = [
            (task.finished_at, task)
            for task in self._tables.tasks.values()
            if task.finished_at is not None and task.finished_at < at
        ]
        ended.sort(key=lambda pair: pair[0])
        return tuple(task for _, task in ended[:limit])

    async def find_task(
        self, account: str, *, client_id: str | None = None, client_key: str | None = None
    ) -> Task | None:
        """See ``Store.find_task``."""
        await trio.lowlevel.checkpoint()
        field, value = one_name(client_id, client_key)
        return _find(self._tables, account, field, value)

    async def movements(
        self, account: str, *, cursor: str | None = None, limit: int
    ) -> MovementPage:
        """See ``Store.movements``."""
        await trio.lowlevel.checkpoint()
        before = parse_cursor(cursor)
        check_limit(limit)
        return page_of(
            (
                movement
                for movement in self._tables.movements.values()
                if movement.seq < before and account in {movement.debit, movement.credit}
            ),
            limit,
        )

    async def find_movement(self, debit: str, key: str) -> Movement | None:
        """See ``Store.find_movement``."""
        await trio.lowlevel.checkpoint()
        return _keyed(self._tables, debit, key)

    async def tasks_called(self, client_id: str) -> tuple[Task, ...]:
        """See ``Store.tasks_called``."""
        await trio.lowlevel.checkpoint()
        known = reversed(self._tables.tasks.values())
        return tuple(task for task in known if client_id and task.client_id == client_id)[:2]

    async def kept_bytes(self, account: str) -> int:
        """See ``Store.kept_bytes``."""
        await trio.lowlevel.checkpoint()
        tables = self._tables
        mine = {id_ for id_, task in tables.tasks.items() if task.account == account}
        blobs: list[Blob | None] = [
            blob for (id_, _), blob in tables.results.items() if id_ in mine
        ]
        total = 0
        for id_ in mine & tables.specs.keys():
            stored = tables.specs[id_]
            blobs += [stored.payload, stored.stdin]
            total += ROWS_BYTES + len(stored.spec)
        return total + sum(blob.size for blob in blobs if blob is not None)

    async def blob_files(self) -> frozenset[str]:
        """See ``Store.blob_files``."""
        await trio.lowlevel.checkpoint()
        blobs = list(self._tables.results.values())
        for stored in self._tables.specs.values():
            blobs += [blob for blob in (stored.payload, stored.stdin) if blob is not None]
        return frozenset(blob.file for blob in blobs if blob.file is not None)

    async def close(self) -> None:
        """See ``Store.close``."""
        await trio.lowlevel.checkpoint()
        self._is_closed = True


def _apply(tables: _Tables, changes: Changes) -> None:
    for new in changes.new_tasks:
        _insert_task(tables, new)
    for task in changes.tasks:
        _check(rows.task_row(task))
        known = tables.tasks.get(task.id)
        if known is None:
            raise CommitFailed(f"there is no task {task.id} to update")
        key = rows.TASK_KEY_COLUMNS
        if rows.task_row(known)[:key] != rows.task_row(task)[:key]:
            raise CommitFailed(f"an update of task {task.id} would change what is its for good")
        tables.tasks[task.id] = task
    for attempt in changes.attempts:
        _check(rows.attempt_row(attempt))
        if attempt.task_id not in tables.tasks or attempt.number < 1:
            raise CommitFailed(f"there is no task {attempt.task_id} for an attempt")
        tables.attempts[attempt.task_id, attempt.number] = attempt
    for result in changes.results:
        _check(rows.blob_row(result.blob))
        if (result.task_id, result.attempt) not in tables.attempts:
            raise CommitFailed(f"there is no attempt {result.attempt} at task {result.task_id}")
        tables.results[result.task_id, result.attempt] = result.blob
    for account in changes.accounts:
        _check(rows.account_row(account))
        tables.accounts[account.name] = account
    for node in changes.nodes:
        _check(rows.node_row(node))
        tables.nodes[node.id] = node
    for id_ in changes.forgotten_nodes:
        tables.nodes.pop(id_, None)
    for join_token in changes.join_tokens:
        _check(rows.join_token_row(join_token))
        tables.join_tokens[join_token.digest] = join_token
    for revoked_token in changes.revoked_tokens:
        _check(rows.revoked_token_row(revoked_token))
        tables.revoked_tokens[revoked_token.token_id] = revoked_token
    for name, value in changes.facts.items():
        _check((name, value))
        tables.facts[name] = value
    for movement in changes.movements:
        _enter(tables, movement)
    for escrow in changes.escrows:
        row, dues = escrow_rows(escrow)
        _check((*row, *(value for due in dues for value in due)))
        if escrow.task_id not in tables.tasks or escrow.held_ucpt <= 0:
            raise CommitFailed(f"there is nothing to hold for task {escrow.task_id}")
        tables.escrows[escrow.task_id] = escrow
    for id_ in changes.closed_escrows:
        tables.escrows.pop(id_, None)
    for id_ in changes.removed_tasks:
        known = tables.tasks.get(id_)
        if known is not None and known.state.is_end:
            _remove_task(tables, id_)
    _remove_stale(tables, changes.stale_before)


def _remove_task(tables: _Tables, id_: str) -> None:
    del tables.tasks[id_]
    tables.specs.pop(id_, None)
    tables.attempts = {key: one for key, one in tables.attempts.items() if key[0] != id_}
    tables.results = {key: one for key, one in tables.results.items() if key[0] != id_}


def _remove_stale(tables: _Tables, before: float) -> None:
    tables.join_tokens = {
        key: one for key, one in tables.join_tokens.items() if one.expires_at >= before
    }
    tables.revoked_tokens = {
        key: one for key, one in tables.revoked_tokens.items() if one.expires_at >= before
    }


def _enter(tables: _Tables, movement: Movement) -> None:
    _check(movement_row(movement))
    if _keyed(tables, movement.debit, movement.key) is not None:
        raise CommitFailed(f"{movement.debit} has a movement with the key {movement.key!r} already")
    post(tables.balances, movement)
    seq = len(tables.movements) + 1
    tables.movements[seq] = attrs.evolve(movement, seq=seq)


def _keyed(tables: _Tables, debit: str, key: str) -> Movement | None:
    for movement in tables.movements.values() if key else ():
        if (movement.debit, movement.key) == (debit, key):
            return movement
    return None


def _insert_task(tables: _Tables, new: NewTask) -> None:
    task = new.task
    _check(rows.task_row(task))
    _check((new.spec, *rows.blob_row(new.payload), *rows.blob_row(new.stdin)))
    by_id = tables.tasks.get(task.id)
    by_client_id = _find(tables, task.account, "client_id", task.client_id)
    by_client_key = _find(tables, task.account, "client_key", task.client_key)
    for field, value, existing in (
        ("id", task.id, by_id),
        ("client_id", task.client_id, by_client_id),
        ("client_key", task.client_key, by_client_key),
    ):
        if existing is not None:
            raise DuplicateTask(
                field=field,
                value=value,
                account=task.account,
                task_id=task.id,
                existing=existing.id,
            )
    tables.tasks[task.id] = task
    tables.seqs[task.id] = len(tables.seqs) + 1
    tables.specs[task.id] = StoredSpec(spec=new.spec, payload=new.payload, stdin=new.stdin)


def _find(tables: _Tables, account: str, field: str, value: str) -> Task | None:
    if not value:
        return None
    for task in tables.tasks.values():
        if task.account == account and getattr(task, field) == value:
            return task
    return None


def _check(values: Iterable[object]) -> None:
    """Raise for what a database could not hold: broken Unicode, numbers beyond 64 bits."""
    for value in values:
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(f"{value} is beyond 64 bits")
