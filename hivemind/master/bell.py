"""One thing to wait for, however many may ring."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Bell:
    """Rung by anybody, waited for by one task. A ring between two waits is not lost."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake whoever waits, or the next one who will."""
        self._rung.set()

    async def wait(self) -> None:
        """Return at the first ring since the last return."""
        await self._rung.wait()
        self._rung = trio.Event()


class Bells:
    """Bells by a key, such as a task's id."""

    def __init__(self) -> None:
        self._bells: dict[str, dict[Bell, None]] = {}

    @contextmanager
    def hung(self, key: str, bell: Bell) -> Iterator[None]:
        """While the block runs, ``ring(key)`` rings the bell."""
        self._bells.setdefault(key, {})[bell] = None
        try:
            yield
        finally:
            del self._bells[key][bell]
            if not self._bells[key]:
                del self._bells[key]

    def ring(self, key: str) -> None:
        """Ring every bell of this key."""
        for bell in self._bells.get(key, ()):
            bell.ring()

    def ring_all(self) -> None:
        """Ring every bell there is."""
        for key in self._bells:
            self.ring(key)
