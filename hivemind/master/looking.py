"""Work on strangers' bytes that keeps a thread busy, shared out so that nobody's keeps others
waiting.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Looks:
    """A few at once, of each account one at a time, and accounts in turn.

    So whoever hands in many that take long waits for them alone, and others wait for as many as
    there are such accounts at most, however many each hands in.
    """

    def __init__(self, most_at_once: int) -> None:
        self._free = most_at_once
        self._busy: set[str] = set()
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, account: str) -> AsyncIterator[None]:
        """The block runs when it is the account's turn; a cancelled wait leaves nothing behind."""
        called = trio.Event()
        self._waiting.setdefault(account, deque()).append(called)
        self._call_next()
        try:
            await called.wait()
            yield
        finally:
            if called.is_set():
                self._busy.discard(account)
                self._free += 1
                self._call_next()
            else:
                self._leave(account, called)

    def _call_next(self) -> None:
        while self._free:
            account = next((one for one in self._waiting if one not in self._busy), None)
            if account is None:
                return
            called = self._waiting[account][0]
            self._leave(account, called)
            if account in self._waiting:
                self._waiting.move_to_end(account)
            self._free -= 1
            self._busy.add(account)
            called.set()

    def _leave(self, account: str, called: trio.Event) -> None:
        waiting = self._waiting[account]
        waiting.remove(called)
        if not waiting:
            del self._waiting[account]
