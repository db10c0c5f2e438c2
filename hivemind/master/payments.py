"""What accounts have, what they gave and got, and how they give."""

from collections.abc import Callable

import trio

from hivemind.core.cpt import MOST_UCPT, show_cpt
from hivemind.core.errors import CoreError
from hivemind.core.ids import check_idempotency_key, check_task_name
from hivemind.core.ledger import Movement, MovementKind, sides, user_account, user_of
from hivemind.core.messages import Balance, History, HistoryEntry, Transferred
from hivemind.core.records import Role
from hivemind.master.rates import RateLimiter
from hivemind.master.reactor import Reactor
from hivemind.master.turn import Turn
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid, taken
from hivemind.rpc.errors import ErrorCode
from hivemind.store.api import BadCursor, Store

_MOST_LISTED = 200


class Payments:
    """See ``rpc.contract.credits.CreditHandlers``."""

    def __init__(
        self, reactor: Reactor, store: Store, *, clock: Callable[[], float], rates: RateLimiter
    ) -> None:
        """``rates`` says how many transfers an account may make; each is kept for good."""
        self._reactor = reactor
        self._store = store
        self._clock = clock
        self._rates = rates
        self._paying: dict[str, _Counter] = {}
        """Of accounts whose transfers with a key are under way."""

    async def balance(self, caller: Principal, account: str) -> Balance:
        """What an account has. Raises NamedFault, or CallRefused where it is another's."""
        name = self._own_or_named(caller, account)
        cluster = self._reactor.cluster
        return Balance(
            account=name,
            balance_ucpt=cluster.balances.get(user_account(name), 0),
            held_ucpt=cluster.held_ucpt_of[name],
        )

    async def history(self, caller: Principal, account: str, cursor: str, limit: int) -> History:
        """A page of what an account gave and got, newest first. Raises as ``balance``."""
        name = self._own_or_named(caller, account)
        try:
            page = await self._store.movements(
                user_account(name), cursor=cursor or None, limit=max(1, min(limit, _MOST_LISTED))
            )
        except BadCursor as error:
            raise invalid("this cursor was not given out by a listing") from error
        return History(
            account=name,
            entries=tuple(_entry(movement, name) for movement in page.movements),
            next_cursor=page.next_cursor or "",
        )

    async def transfer(
        self, caller: Principal, receiver: str, amount_ucpt: int, *, key: str, memo: str
    ) -> Transferred:
        """Give some of the caller's; it is on disk when this returns. Raises CallRefused."""
        _check(amount_ucpt, key, memo)
        movement = Movement(
            at=self._clock(),
            kind=MovementKind.TRANSFER,
            debit=user_account(caller.account),
            credit=user_account(receiver),
            amount_ucpt=amount_ucpt,
            memo=memo,
            key=key,
        )
        if not key:
            self._rates.check("transfers of", caller.account)
            after = await self._reactor.perform(lambda turn: transfer(turn, movement))
            return Transferred(balance_ucpt=after)
        # One at a time of each account, so that what a look has not found is not made meanwhile.
        counter = self._paying.setdefault(caller.account, _Counter())
        counter.people += 1
        try:
            async with counter.lock:
                return await self._transfer_once(movement)
        finally:
            counter.people -= 1
            if not counter.people:
                del self._paying[caller.account]

    async def _transfer_once(self, movement: Movement) -> Transferred:
        known = await self._store.find_movement(movement.debit, movement.key)
        if known is None:
            self._rates.check("transfers of", user_of(movement.debit))
            # Not to be cancelled: whoever comes next must find it, or know that it is not there.
            after = await self._reactor.settle(lambda turn: transfer(turn, movement))
            return Transferred(balance_ucpt=after)
        if (known.credit, known.amount_ucpt) != (movement.credit, movement.amount_ucpt):
            raise taken(
                f"your transfer of {show_cpt(known.amount_ucpt)} to {user_of(known.credit)} has "
                f"the key {movement.key!a} already; choose another"
            )
        balance = self._reactor.cluster.balances.get(movement.debit, 0)
        return Transferred(balance_ucpt=balance, repeated=True)

    def _own_or_named(self, caller: Principal, account: str) -> str:
        name = account or caller.account
        if name != caller.account and caller.role != Role.ADMIN:
            raise denied("only an admin may see another account's CPT", ErrorCode.USER_NOT_FOUND)
        if name not in self._reactor.cluster.accounts:
            raise NamedFault(
                ErrorCode.USER_NOT_FOUND,
                f"no account {name[:32]!a} is in this pool; check its name",
            )
        return name


class _Counter:
    """A lock, and how many hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.people = 0


def transfer(turn: Turn, movement: Movement) -> int:
    """Move an amount from one account to another; what the giver has afterwards.

    Raises NamedFault for a receiver that is unknown, and a balance that is too small; CallRefused
    for a transfer to oneself.
    """
    giver, receiver = user_of(movement.debit), user_of(movement.credit)
    if turn.account(receiver) is None:
        raise NamedFault(
            ErrorCode.USER_NOT_FOUND,
            f"no account {receiver[:32]!a} is in this pool; check the name, nothing was moved",
        )
    if receiver == giver:
        raise invalid("a transfer to oneself moves nothing; name another account")
    has = turn.books.balance(movement.debit)
    if has < movement.amount_ucpt:
        raise NamedFault(
            ErrorCode.INSUFFICIENT_RESOURCES,
            f"{giver} has {show_cpt(has)} and {show_cpt(movement.amount_ucpt)} were to be moved; "
            "transfer less",
        )
    turn.books.post(movement)
    return turn.books.balance(movement.debit)


def _check(amount_ucpt: int, key: str, memo: str) -> None:
    if not 0 < amount_ucpt <= MOST_UCPT:
        raise invalid("the amount of a transfer is above 0, and a billion CPT at most")
    try:
        if key:
            check_idempotency_key(key)
        if memo:
            check_task_name(memo)
    except CoreError as error:
        raise invalid(str(error)) from error


def _entry(movement: Movement, name: str) -> HistoryEntry:
    changes = dict(sides(movement))
    mine = user_account(name)
    (other,) = changes.keys() - {mine}
    return HistoryEntry(
        seq=movement.seq,
        at=movement.at,
        kind=movement.kind,
        change_ucpt=changes[mine],
        other=user_of(other),
        task_id=movement.task_id,
        attempt=movement.attempt,
        memo=movement.memo,
    )
