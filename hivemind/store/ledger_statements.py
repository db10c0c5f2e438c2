"""The SQL of the ledger, run as ``statements`` is: inside somebody else's transaction.

The balances follow the movements one by one, so that the database itself refuses a turn in which an
account would be below zero for a moment.
"""

from collections.abc import Iterable, Iterator

import apsw

from hivemind.core.ledger import Due, Escrow, Movement, MovementKind, is_escrow, sides
from hivemind.store.changes import Changes, MovementPage

_COLUMNS = (
    "at", "kind", "debit", "credit", "amount_ucpt", "task_id", "attempt", "memo", "key",
)  # fmt: skip
_MOVEMENT = ", ".join(("seq", *_COLUMNS))

INSERT_MOVEMENT = (
    f"INSERT INTO movement ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
)
OPEN_BALANCE = "INSERT INTO balance (account, ucpt) VALUES (?, 0) ON CONFLICT DO NOTHING"
CHANGE_BALANCE = "UPDATE balance SET ucpt = ucpt + ? WHERE account = ?"
DROP_BALANCE = "DELETE FROM balance WHERE account = ? AND ucpt = 0"
UPSERT_ESCROW = (
    "INSERT INTO escrow (task_id, account, held_ucpt, rate_ucpt) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (task_id) DO UPDATE SET (account, held_ucpt, rate_ucpt)"
    " = (excluded.account, excluded.held_ucpt, excluded.rate_ucpt)"
)
UPSERT_DUE = (
    "INSERT INTO due (task_id, place, attempt, account, amount_ucpt) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (task_id, place) DO UPDATE SET (attempt, account, amount_ucpt)"
    " = (excluded.attempt, excluded.account, excluded.amount_ucpt)"
)
CLOSE_ESCROW = "DELETE FROM escrow WHERE task_id = ?"
SELECT_BY_DEBIT = (
    f"SELECT {_MOVEMENT} FROM movement WHERE debit = ? AND seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
)
SELECT_BY_CREDIT = (
    f"SELECT {_MOVEMENT} FROM movement WHERE credit = ? AND seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
)
# "<> ''" lets the planner see that the partial index holds every row that can match.
SELECT_BY_KEY = f"SELECT {_MOVEMENT} FROM movement WHERE debit = ? AND key = ? AND key <> ''"  # noqa: S608

Row = tuple[object, ...]


def movement_row(movement: Movement) -> Row:
    """A movement's row, without its ``seq``."""
    return (
        movement.at, movement.kind.value, movement.debit, movement.credit, movement.amount_ucpt,
        movement.task_id, movement.attempt, movement.memo, movement.key,
    )  # fmt: skip


def escrow_rows(escrow: Escrow) -> tuple[Row, list[Row]]:
    """An escrow's row, and those of its dues."""
    dues: list[Row] = [
        (escrow.task_id, place, due.attempt, due.account, due.amount_ucpt)
        for place, due in enumerate(escrow.dues)
    ]
    return (escrow.task_id, escrow.account, escrow.held_ucpt, escrow.rate_ucpt), dues


def write(connection: apsw.Connection, changes: Changes) -> None:
    """Apply the ledger's part of a turn. Raises what APSW raises."""
    if changes.movements:
        connection.executemany(INSERT_MOVEMENT, map(movement_row, changes.movements))
        both = [side for movement in changes.movements for side in sides(movement)]
        connection.executemany(OPEN_BALANCE, {(account,) for account, _ in both})
        connection.executemany(CHANGE_BALANCE, ((change, account) for account, change in both))
        escrows = {(account,) for account, _ in both if is_escrow(account)}
        connection.executemany(DROP_BALANCE, escrows)
    for escrow in changes.escrows:
        row, dues = escrow_rows(escrow)
        connection.execute(UPSERT_ESCROW, row)
        connection.executemany(UPSERT_DUE, dues)
    if changes.closed_escrows:
        connection.executemany(CLOSE_ESCROW, ((id_,) for id_ in changes.closed_escrows))


def read_balances(connection: apsw.Connection) -> dict[str, int]:
    """Every balance by its ledger account."""
    return dict(connection.execute("SELECT account, ucpt FROM balance"))


def read_escrows(connection: apsw.Connection) -> tuple[Escrow, ...]:
    """Every open escrow."""
    dues: dict[str, list[Due]] = {}
    for task_id, attempt, account, amount in connection.execute(
        "SELECT task_id, attempt, account, amount_ucpt FROM due ORDER BY task_id, place"
    ):
        due = Due(attempt=attempt, account=account, amount_ucpt=amount)
        dues.setdefault(task_id, []).append(due)
    return tuple(
        Escrow(
            task_id=task_id,
            account=account,
            held_ucpt=held,
            rate_ucpt=rate,
            dues=tuple(dues.get(task_id, ())),
        )
        for task_id, account, held, rate in connection.execute(
            "SELECT task_id, account, held_ucpt, rate_ucpt FROM escrow ORDER BY task_id"
        )
    )


def read_history(
    connection: apsw.Connection, account: str, before_seq: int, limit: int
) -> MovementPage:
    """The newest entries of an account before a point: each side's from its index, merged."""
    keys = (account, before_seq, limit + 1)
    found = [
        *_movements(connection.execute(SELECT_BY_DEBIT, keys)),
        *_movements(connection.execute(SELECT_BY_CREDIT, keys)),
    ]
    return page_of(found, limit)


def page_of(found: Iterable[Movement], limit: int) -> MovementPage:
    """The newest of some entries, among which are the ``limit + 1`` newest of all."""
    newest = sorted(found, key=lambda movement: -movement.seq)
    shown = tuple(newest[:limit])
    return MovementPage(
        movements=shown, next_cursor=str(shown[-1].seq) if len(newest) > limit else None
    )


def find_movement(connection: apsw.Connection, debit: str, key: str) -> Movement | None:
    """The entry that took from an account under this key."""
    return next(_movements(connection.execute(SELECT_BY_KEY, (debit, key))), None)


def _movements(found: apsw.Cursor) -> Iterator[Movement]:
    """Raises ValueError where a kind is unknown."""
    for seq, at, kind, debit, credit, amount, task_id, attempt, memo, key in found:
        yield Movement(
            seq=seq,
            at=at,
            kind=MovementKind(kind),
            debit=debit,
            credit=credit,
            amount_ucpt=amount,
            task_id=task_id,
            attempt=attempt,
            memo=memo,
            key=key,
        )
