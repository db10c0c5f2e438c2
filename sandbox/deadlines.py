"""The time limits of all runs of a pool, kept by one task."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Callable

import trio

_FEW = 256


class Deadline:
    """One time limit; `cancel` makes it harmless."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Never call."""
        self._call = None

    def pass_(self) -> None:
        """Call, once, unless it was cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def is_dead(self) -> bool:
        """Whether it was cancelled, or has passed."""
        return self._call is None


class Deadlines:
    """Calls what is due. Starting a task for each run would cost more than the run's own start."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        self._most = _FEW
        self._sleep = trio.CancelScope()

    def call_at(self, time: float, call: Callable[[], None]) -> Deadline:
        """Call at this time of Trio's clock; at once where it has passed."""
        deadline = Deadline(call)
        if len(self._heap) >= self._most:
            self._drop_dead()
        heapq.heappush(self._heap, (time, next(self._order), deadline))
        if self._heap[0][2] is deadline:
            self._sleep.cancel()
        return deadline

    async def run(self) -> None:
        """Call what is due, until cancelled."""
        while True:
            self._sleep = trio.CancelScope()
            with self._sleep:
                await trio.sleep_until(self._heap[0][0] if self._heap else math.inf)
            self._call_due()

    def _drop_dead(self) -> None:
        """Runs end long before their time limit: what is left of those must not pile up."""
        self._heap = [entry for entry in self._heap if not entry[2].is_dead]
        heapq.heapify(self._heap)
        self._most = max(_FEW, 2 * len(self._heap))

    def _call_due(self) -> None:
        now = trio.current_time()
        with contextlib.suppress(IndexError):
            while self._heap[0][2].is_dead or self._heap[0][0] <= now:
                heapq.heappop(self._heap)[2].pass_()
