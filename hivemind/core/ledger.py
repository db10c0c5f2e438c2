"""The ledger: who has how many CPT, by double entry.

A movement takes an amount from one ledger account and gives it to another, and is never changed. So
the sum over all accounts is 0 for ever, and replaying the movements gives every balance. Only the
issuer, from whom grants come, is ever below zero.

A task that costs something has an **escrow**: what it can cost at most is moved there at its
submit, every attempt that ran on somebody else's node adds a **due**, and at its end the escrow is
emptied: providers are paid and the rest goes back. An escrow that is empty is gone, so that none is
settled twice.
"""

import enum
from collections.abc import Iterable

import attrs

from hivemind.core.errors import CoreError
from hivemind.core.prices import MINUTE_S, cost_ucpt
from hivemind.core.records import Attempt, Outcome, Reason

ISSUER = "issuer"
_USER = "user/"
_ESCROW = "escrow/"


class LedgerError(CoreError):
    """A movement that cannot be; nothing was changed."""


class Overdrawn(LedgerError):
    """The account has less than was to be taken from it."""


class MovementKind(enum.StrEnum):
    """Why an amount moved."""

    GRANT = "grant"
    """From the issuer to a new account."""
    TRANSFER = "transfer"
    """From one account to another."""
    HOLD = "hold"
    """From an account to its task's escrow, at the submit."""
    PAY = "pay"
    """From a task's escrow to the owner of the node that ran it."""
    REFUND = "refund"
    """From a task's escrow back to its account."""


@attrs.frozen(kw_only=True)
class Movement:
    """One entry of the ledger, with its two sides."""

    seq: int = 0
    """Its place in the ledger, from 1; given by the store."""
    at: float
    kind: MovementKind
    debit: str
    """The ledger account that it is taken from."""
    credit: str
    """The ledger account that it is given to."""
    amount_ucpt: int
    task_id: str = ""
    attempt: int = 0
    """For a payment, the attempt that it is for."""
    memo: str = ""
    key: str = ""
    """What makes a repeated transfer the same one, unique for whom it is taken from."""


@attrs.frozen(kw_only=True)
class Due:
    """What an attempt has earned for the owner of its node."""

    attempt: int
    account: str
    amount_ucpt: int


@attrs.frozen(kw_only=True)
class Escrow:
    """What is held for a task, and who will have what of it."""

    task_id: str
    account: str
    """Who pays, and gets back what is left."""
    held_ucpt: int
    rate_ucpt: int
    """For a minute, as it was at the submit."""
    dues: tuple[Due, ...] = ()
    """In the order in which the attempts ended; one for each at most."""


def user_account(name: str) -> str:
    """The ledger account of a user."""
    return _USER + name


def escrow_account(task_id: str) -> str:
    """The ledger account of a task's escrow."""
    return _ESCROW + task_id


def is_escrow(account: str) -> bool:
    """Whether it is one that ceases to be when it is empty."""
    return account.startswith(_ESCROW)


def user_of(account: str) -> str:
    """The user whose ledger account it is; empty for the issuer and for escrows."""
    return account.removeprefix(_USER) if account.startswith(_USER) else ""


# --- posting ---


def check_movement(movement: Movement, debit_ucpt: int) -> None:
    """Whether it can be posted while its debit side has so much.

    Raises:
        Overdrawn: it has too little.
        LedgerError: it moves nothing, or from an account to itself.
    """
    if movement.amount_ucpt <= 0:
        raise LedgerError(f"a movement of {movement.amount_ucpt} millionths moves nothing")
    if movement.debit == movement.credit:
        raise LedgerError(f"a movement from {movement.debit} to itself moves nothing")
    if movement.debit != ISSUER and debit_ucpt < movement.amount_ucpt:
        raise Overdrawn(
            f"{movement.debit} has {debit_ucpt} millionths of a CPT and "
            f"{movement.amount_ucpt} were to be taken from it"
        )


def replay(movements: Iterable[Movement]) -> dict[str, int]:
    """The balances after these movements, from nothing; escrows that are empty are gone.

    Raises LedgerError for one that could not be posted.
    """
    balances: dict[str, int] = {}
    for movement in movements:
        post(balances, movement)
    return balances


def post(balances: dict[str, int], movement: Movement) -> None:
    """Change the balances as the movement says. Raises LedgerError, and changes nothing then."""
    check_movement(movement, balances.get(movement.debit, 0))
    for account, change in sides(movement):
        balances[account] = balances.get(account, 0) + change
        if not balances[account] and is_escrow(account):
            del balances[account]


def sides(movement: Movement) -> tuple[tuple[str, int], tuple[str, int]]:
    """Both ledger accounts, and by how much each changes."""
    return (
        (movement.debit, -movement.amount_ucpt),
        (movement.credit, movement.amount_ucpt),
    )


# --- a task's money ---


def grant(name: str, amount_ucpt: int, at: float) -> Movement:
    """What a new account gets."""
    return Movement(
        at=at,
        kind=MovementKind.GRANT,
        debit=ISSUER,
        credit=user_account(name),
        amount_ucpt=amount_ucpt,
        memo="for a new account",
    )


def hold(escrow: Escrow, at: float) -> Movement:
    """What fills a new escrow."""
    return Movement(
        at=at,
        kind=MovementKind.HOLD,
        debit=user_account(escrow.account),
        credit=escrow_account(escrow.task_id),
        amount_ucpt=escrow.held_ucpt,
        task_id=escrow.task_id,
    )


def earned_ucpt(
    escrow: Escrow | None, attempt: Attempt, provider: str, *, wall_s: float, now: float
) -> int:
    """What an attempt has earned for its node's owner until ``now``, or until it ended.

    Nothing on one's own node, without an escrow, before it runs, where it was refused, and where
    the machine could not set up its sandbox. A lost attempt earns its whole minutes alone. Never
    more than the time limit's worth, nor than what is held.

    Args:
        escrow: the task's; None for one that costs nothing.
        attempt: under way or over.
        provider: the account that owns its node; empty if nobody does any more.
        wall_s: the task's time limit.
        now: seconds since the epoch.
    """
    if escrow is None or attempt.started_at is None or provider in {"", escrow.account}:
        return 0
    if attempt.outcome is Outcome.REFUSED or attempt.reason is Reason.SANDBOX_FAILED:
        return 0
    until = now if attempt.ended_at is None else attempt.ended_at
    # The clock of the wall may have been set meanwhile, either way.
    ran_s = min(max(0.0, until - attempt.started_at), wall_s)
    if attempt.outcome is Outcome.LOST:
        ran_s = ran_s // MINUTE_S * MINUTE_S
    return min(cost_ucpt(escrow.rate_ucpt, ran_s), escrow.held_ucpt)


def with_due(escrow: Escrow, due: Due) -> Escrow:
    """The escrow with what one more attempt has earned; the same one if that is known."""
    if not due.amount_ucpt or any(known.attempt == due.attempt for known in escrow.dues):
        return escrow
    return attrs.evolve(escrow, dues=(*escrow.dues, due))


def settle(escrow: Escrow, at: float) -> tuple[Movement, ...]:
    """What empties an escrow: the newest due first, then the others in order, never more than is
    held; the rest goes back.
    """
    movements: list[Movement] = []
    left = escrow.held_ucpt
    for due in (*escrow.dues[-1:], *escrow.dues[:-1]):
        amount = min(due.amount_ucpt, left)
        if amount > 0:
            left -= amount
            movements.append(_out_of(escrow, MovementKind.PAY, due.account, amount, at, due))
    if left > 0:
        movements.append(_out_of(escrow, MovementKind.REFUND, escrow.account, left, at))
    return tuple(movements)


def _out_of(
    escrow: Escrow,
    kind: MovementKind,
    to: str,
    amount_ucpt: int,
    at: float,
    due: Due | None = None,
) -> Movement:
    return Movement(
        at=at,
        kind=kind,
        debit=escrow_account(escrow.task_id),
        credit=user_account(to),
        amount_ucpt=amount_ucpt,
        task_id=escrow.task_id,
        attempt=0 if due is None else due.attempt,
    )
