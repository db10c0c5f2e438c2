"""Who of many callers may use the processor next.

Starting a call and decoding a message take this process's one thread for up to some tens of
milliseconds, in which nothing else runs. Trio lets every task that can run do so in each of its
rounds; so thousands of messages that have arrived together would be decoded in one round, however
long it takes, and heartbeats would come too late. Such work therefore asks here first. Where little
is going on, it may begin at once.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import trio

SLICE_S = 0.01
"""What may be used up before others get a round."""
MOST_AT_ONCE = 16
"""How many may begin in one round while there are more who wait: what they cost is not known
before, so this bounds how long a round of expensive ones after many cheap ones takes."""


class Turns:
    """Hands out turns, to each caller in turn; `run` must be running for anybody to wait."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Hashable, OrderedDict[trio.Event, None]] = OrderedDict()
        self._has_some = trio.Event()
        self._called = 0
        self._spent_s = 0.0
        self._at_once = 1

    async def take(self, caller: Hashable) -> None:
        """Return when it is this caller's turn; what then takes long goes into `working`."""
        if not self._waiting and not self._called and self._spent_s < SLICE_S:
            return
        turn = trio.Event()
        mine = self._waiting.setdefault(caller, OrderedDict())
        mine[turn] = None
        self._has_some.set()
        try:
            await turn.wait()
        finally:
            if turn.is_set():
                self._called -= 1
            else:
                del mine[turn]
                if not mine:
                    del self._waiting[caller]

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time that the block takes, which should hardly wait for anything."""
        began_at = self._clock()
        try:
            yield
        finally:
            self._spent_s += self._clock() - began_at

    async def run(self) -> None:
        """Let those who wait begin, a few in each of Trio's rounds."""
        while True:
            if not self._waiting:
                self._has_some, self._at_once = trio.Event(), 1
                await self._has_some.wait()
            began_at = self._clock()
            # In the first, those who were let begin may come after this task; in the second,
            # everybody else does.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            round_s = self._clock() - began_at
            if round_s > SLICE_S:
                self._at_once = 1
            elif round_s < SLICE_S / 2:
                self._at_once = min(2 * self._at_once, MOST_AT_ONCE)
            self._spent_s = 0.0
            for _ in range(self._at_once):
                if self._waiting:
                    self._grant_next()

    def _grant_next(self) -> None:
        caller, turns = self._waiting.popitem(last=False)
        turn, _ = turns.popitem(last=False)
        if turns:
            self._waiting[caller] = turns
        # Nobody who comes now begins before those who were called.
        self._called += 1
        turn.set()
