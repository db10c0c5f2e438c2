"""The Credits service of hivemind.v1: balances, history and transfers."""

from typing import Protocol

from hivemind._pb.hivemind import v1
from hivemind.core.ledger import MovementKind
from hivemind.core.messages import Balance, History, HistoryEntry, Transferred
from hivemind.rpc.auth import Principal
from hivemind.rpc.channel import Channel
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.reply import PAGE_BYTES, hold_reply
from hivemind.rpc.stubs import bind


class CreditHandlers(Protocol):
    """What the master does for accounts' money. A fault of the table is raised as NamedFault."""

    async def balance(self, caller: Principal, account: str) -> Balance:
        """What an account has; empty: the caller's."""
        ...

    async def history(self, caller: Principal, account: str, cursor: str, limit: int) -> History:
        """A page of what an account gave and got, newest first; empty: the caller's."""
        ...

    async def transfer(
        self, caller: Principal, receiver: str, amount_ucpt: int, *, key: str, memo: str
    ) -> Transferred:
        """Give some of the caller's to another account."""
        ...


class _CreditsService(v1.CreditsBase):
    def __init__(self, handlers: CreditHandlers) -> None:
        self._handlers = handlers

    async def balance(self, message: v1.BalanceRequest) -> v1.BalanceResponse:
        balance = await self._handlers.balance(current_account(), message.account)
        return v1.BalanceResponse(
            account=balance.account,
            balance_ucpt=balance.balance_ucpt,
            held_ucpt=balance.held_ucpt,
        )

    async def history(self, message: v1.HistoryRequest) -> v1.HistoryResponse:
        await hold_reply(PAGE_BYTES)
        history = await self._handlers.history(
            current_account(), message.account, message.cursor, message.limit or 100
        )
        return v1.HistoryResponse(
            account=history.account,
            movements=[_entry_to_wire(entry) for entry in history.entries],
            next_cursor=history.next_cursor,
        )

    async def transfer(self, message: v1.TransferRequest) -> v1.TransferResponse:
        done = await self._handlers.transfer(
            current_account(),
            message.receiver,
            message.amount_ucpt,
            key=message.key,
            memo=message.memo,
        )
        return v1.TransferResponse(balance_ucpt=done.balance_ucpt, repeated_transfer=done.repeated)


def _entry_to_wire(entry: HistoryEntry) -> v1.Movement:
    return v1.Movement(
        seq=entry.seq,
        at=entry.at,
        kind=entry.kind.value,
        change_ucpt=entry.change_ucpt,
        other=entry.other,
        task_id=entry.task_id,
        attempt=entry.attempt,
        memo=entry.memo,
    )


def _entry_from_wire(wire: v1.Movement) -> HistoryEntry:
    try:
        kind = MovementKind(wire.kind)
    except ValueError as error:
        raise MalformedMessage(
            f"a movement of kind {wire.kind!r} is unknown; is this client too old?"
        ) from error
    return HistoryEntry(
        seq=wire.seq,
        at=wire.at,
        kind=kind,
        change_ucpt=wire.change_ucpt,
        other=wire.other,
        task_id=wire.task_id,
        attempt=wire.attempt,
        memo=wire.memo,
    )


def serve_credits(handlers: CreditHandlers) -> v1.CreditsBase:
    """The service to hand to ``rpc.server``."""
    return _CreditsService(handlers)


class CreditsClient:
    """The Credits service from the client's side. Every call raises the RpcError family."""

    def __init__(self, channel: Channel) -> None:
        self._stub = bind(v1.CreditsStub, channel)

    async def balance(self, account: str = "") -> Balance:
        """What an account has; empty: one's own."""
        reply = await self._stub.balance(v1.BalanceRequest(account=account))
        return Balance(
            account=reply.account, balance_ucpt=reply.balance_ucpt, held_ucpt=reply.held_ucpt
        )

    async def history(self, account: str = "", cursor: str = "", limit: int = 100) -> History:
        """A page of what an account gave and got, newest first."""
        reply = await self._stub.history(
            v1.HistoryRequest(account=account, cursor=cursor, limit=limit)
        )
        return History(
            account=reply.account,
            entries=tuple(_entry_from_wire(wire) for wire in reply.movements),
            next_cursor=reply.next_cursor,
        )

    async def transfer(
        self, receiver: str, amount_ucpt: int, *, key: str = "", memo: str = ""
    ) -> Transferred:
        """Give some of one's own. With a key it may be repeated, and is made once."""
        reply = await self._stub.transfer(
            v1.TransferRequest(receiver=receiver, amount_ucpt=amount_ucpt, key=key, memo=memo)
        )
        return Transferred(balance_ucpt=reply.balance_ucpt, repeated=reply.repeated_transfer)
