"""A number of bytes that many calls share, handed out in turn."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from grpclib.const import Status

from hivemind.rpc.errors import fail


class ByteBudget:
    """What all uploads in flight may hold together.

    Whoever waits longest is served first, whatever its size, so that many small ones cannot keep a
    large one out. Waiting ends with RESOURCE_EXHAUSTED after `wait_s`; what limits how long the
    others may hold their share is the minimum rate that uploads are held to.
    """

    def __init__(self, limit_bytes: int, *, wait_s: float = 30.0) -> None:
        self.limit_bytes = limit_bytes
        self.wait_s = wait_s
        self.used_bytes = 0
        self._waiting: OrderedDict[trio.Event, int] = OrderedDict()

    @asynccontextmanager
    async def reserve(self, size_bytes: int = 0) -> AsyncIterator["Reservation"]:
        """Hold `size_bytes`, and what is added by `Reservation.grow`, until the block ends.

        Raises:
            CallRefused: more than the whole budget, or none free in `wait_s`; nothing is held.
        """
        reservation = Reservation(self)
        try:
            await reservation.grow(size_bytes)
            yield reservation
        finally:
            reservation.release()

    async def take(self, size_bytes: int) -> None:
        """Take `size_bytes` out of the budget; they come back by `give` alone."""
        if size_bytes > self.limit_bytes:
            raise self._exhausted(size_bytes, "is more than")
        if not self._waiting and self.used_bytes + size_bytes <= self.limit_bytes:
            self.used_bytes += size_bytes
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        turn = trio.Event()
        self._waiting[turn] = size_bytes
        try:
            with trio.move_on_after(self.wait_s):
                await turn.wait()
        except BaseException:
            if turn not in self._waiting:
                self.used_bytes -= size_bytes
            raise
        finally:
            self._waiting.pop(turn, None)
            self._serve()
        if not turn.is_set():
            raise self._exhausted(size_bytes, "did not become free within")

    def give(self, size_bytes: int) -> None:
        """Put bytes back that were taken."""
        self.used_bytes -= size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            turn, size_bytes = next(iter(self._waiting.items()))
            if self.used_bytes + size_bytes > self.limit_bytes:
                return
            del self._waiting[turn]
            self.used_bytes += size_bytes
            turn.set()

    def _exhausted(self, size_bytes: int, how: str) -> Exception:
        return fail(
            None,
            Status.RESOURCE_EXHAUSTED,
            f"{size_bytes} bytes {how} the {self.limit_bytes} bytes that all uploads share"
            + (f" ({self.wait_s:g} s waited); try again" if "free" in how else ""),
        )


class Reservation:
    """One call's share of a `ByteBudget`."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size_bytes = 0

    async def grow(self, more_bytes: int) -> None:
        """Hold `more_bytes` more; raises as `ByteBudget.reserve` does, and keeps what was held."""
        await self._budget.take(more_bytes)
        self.size_bytes += more_bytes

    def release(self) -> None:
        """Give everything back."""
        size_bytes, self.size_bytes = self.size_bytes, 0
        self._budget.give(size_bytes)
