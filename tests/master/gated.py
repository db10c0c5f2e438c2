"""A store that a test holds up, or lets fail, at the commit that it chooses."""

from collections.abc import Callable
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.master.reactor import Reactor
from hivemind.master.turn import Turn
from hivemind.store.api import Store
from hivemind.store.changes import Changes
from hivemind.store.failing import FailingStore, Fault, Moment

BEFORE, AFTER = Fault(Moment.BEFORE), Fault(Moment.AFTER)


class GatedStore(FailingStore):
    """Commits wait while there is a gate, and then fail as ``faults`` says, one for each."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, self._judge)
        self.gate: trio.Event | None = None
        self.is_held = False
        self.faults: list[Fault | None] = []
        self.seen: list[Changes] = []

    def _judge(self, number: int, changes: Changes) -> Fault | None:
        self.seen.append(changes)
        return self.faults.pop(0) if self.faults else None

    async def commit(self, changes: Changes) -> None:
        if self.gate is not None:
            self.is_held = True
            await self.gate.wait()
            self.is_held = False
        await super().commit(changes)


async def together(
    reactor: Reactor,
    store: GatedStore,
    *orders: Callable[[Turn], Any],
    fault: Fault | None = None,
) -> list[Any]:
    """What becomes of commands that are applied in one turn, in this order; its commit may fail.

    While a turn commits, what comes in waits, and goes into the next turn together.
    """
    got: list[Any] = [None] * len(orders)

    async def ask(number: int) -> None:
        try:
            got[number] = await reactor.perform(orders[number])
        except Exception as error:
            got[number] = error

    store.gate = trio.Event()
    async with trio.open_nursery() as callers:
        callers.start_soon(reactor.perform, lambda turn: turn.put_fact("plug", b"in"))
        await wait_all_tasks_blocked()
        for number in range(len(orders)):
            callers.start_soon(ask, number)
            await wait_all_tasks_blocked()
        store.faults = [None, fault]
        store.gate.set()
    store.gate = None
    return got
