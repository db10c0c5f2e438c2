"""A number of bytes that many calls share, handed out in turn."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from grpclib.const import Status

from hivemind.rpc.errors import fail


@attrs.define(eq=False)
class _Owner:
    """What one caller holds and waits for, all its calls together."""

    used_bytes: int = 0
    waiting: OrderedDict[trio.Event, int] = attrs.field(factory=OrderedDict)


class ByteBudget:
    """What all uploads in flight may hold together.

    Nobody gets all of it: an owner who holds some already may hold no more than what is still free,
    so that one alone gets half, two get a third each, and something is always left for the next.
    Owners are served in turn, and within one whoever waits longest, whatever its size, so that many
    small ones cannot keep a large one out. Waiting ends with RESOURCE_EXHAUSTED after `wait_s`;
    what limits how long the others may hold their share is the minimum rate that uploads are held
    to.
    """

    def __init__(self, limit_bytes: int, *, wait_s: float = 30.0) -> None:
        self.limit_bytes = limit_bytes
        self.wait_s = wait_s
        self.used_bytes = 0
        # In the order of their turns; only those that hold something or wait for it.
        self._owners: OrderedDict[str | None, _Owner] = OrderedDict()

    @asynccontextmanager
    async def reserve(
        self, size_bytes: int = 0, *, owner: str | None = None
    ) -> AsyncIterator["Reservation"]:
        """Hold `size_bytes`, and what is added by `Reservation.grow`, until the block ends.

        Args:
            size_bytes: how much at first.
            owner: on whose account; those without one have no share to keep to.

        Raises:
            CallRefused: more than the whole budget, or none free in `wait_s`; nothing is held.
        """
        reservation = Reservation(self, owner)
        try:
            await reservation.grow(size_bytes)
            yield reservation
        finally:
            reservation.release()

    async def take(self, size_bytes: int, owner: str | None = None) -> None:
        """Take `size_bytes` out of the budget; they come back by `give` alone."""
        if size_bytes > self.limit_bytes:
            raise self._exhausted(size_bytes, "is more than")
        if not size_bytes:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        mine = self._owners.setdefault(owner, _Owner())
        turn = trio.Event()
        mine.waiting[turn] = size_bytes
        self._serve()
        if turn.is_set():
            await self._take_at_once(size_bytes, owner)
            return
        try:
            with trio.move_on_after(self.wait_s):
                await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give(size_bytes, owner)
            raise
        finally:
            mine.waiting.pop(turn, None)
            self._forget(owner)
            self._serve()
        if not turn.is_set():
            raise self._exhausted(size_bytes, "did not become free within")

    async def _take_at_once(self, size_bytes: int, owner: str | None) -> None:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self.give(size_bytes, owner)
            raise

    def give(self, size_bytes: int, owner: str | None = None) -> None:
        """Put bytes back that were taken on this owner's account."""
        if not size_bytes:
            return
        self.used_bytes -= size_bytes
        self._owners[owner].used_bytes -= size_bytes
        self._forget(owner)
        self._serve()

    def _serve(self) -> None:
        """Hand out what is free, until whoever's turn it is needs more than that."""
        served = True
        while served:
            served = False
            for name, owner in tuple(self._owners.items()):
                if not owner.waiting:
                    continue
                turn, size_bytes = next(iter(owner.waiting.items()))
                free = self.limit_bytes - self.used_bytes
                if name is not None and owner.used_bytes and owner.used_bytes + size_bytes > free:
                    continue  # it has its share, and keeps nobody else waiting
                if size_bytes > free:
                    return
                del owner.waiting[turn]
                owner.used_bytes += size_bytes
                self.used_bytes += size_bytes
                self._owners.move_to_end(name)
                turn.set()
                served = True

    def _forget(self, owner: str | None) -> None:
        known = self._owners.get(owner)
        if known is not None and not known.used_bytes and not known.waiting:
            del self._owners[owner]

    def _exhausted(self, size_bytes: int, how: str) -> Exception:
        return fail(
            None,
            Status.RESOURCE_EXHAUSTED,
            f"{size_bytes} bytes {how} the {self.limit_bytes} bytes that all calls share"
            + (f" ({self.wait_s:g} s waited); try again" if "free" in how else ""),
        )


class Reservation:
    """One call's share of a `ByteBudget`."""

    def __init__(self, budget: ByteBudget, owner: str | None = None) -> None:
        self._budget = budget
        self._owner = owner
        self.size_bytes = 0

    async def grow(self, more_bytes: int) -> None:
        """Hold `more_bytes` more; raises as `ByteBudget.reserve` does, and keeps what was held."""
        await self._budget.take(more_bytes, self._owner)
        self.size_bytes += more_bytes

    def shrink(self, less_bytes: int) -> None:
        """Give some of it back."""
        self.size_bytes -= less_bytes
        self._budget.give(less_bytes, self._owner)

    def release(self) -> None:
        """Give everything back."""
        size_bytes, self.size_bytes = self.size_bytes, 0
        self._budget.give(size_bytes, self._owner)
