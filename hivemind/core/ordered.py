"""A set that is kept in order, for queues: the first item is always at hand."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Key = tuple[float | int | str, ...]

_SLACK = 16


class Ordered(Generic[T]):
    """Items in the order of their keys, smallest first.

    Adding, moving and discarding take O(log n) amortised: an item that went stays in the heap until
    it surfaces, or until such leftovers are the larger part, which are then swept out together.
    Items with the same key come in the order in which they were put.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, T]] = []
        self._live: dict[T, tuple[Key, int]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, item: object) -> bool:
        return item in self._live

    def put(self, item: T, key: Key) -> None:
        """Add an item, or move it if it is here under another key."""
        known = self._live.get(item)
        if known is not None and known[0] == key:
            return
        self._serial += 1
        self._live[item] = (key, self._serial)
        heapq.heappush(self._heap, (key, self._serial, item))
        self._sweep()

    def discard(self, item: T) -> None:
        """Remove an item if it is here."""
        if self._live.pop(item, None) is not None:
            self._sweep()

    def first(self) -> T | None:
        """The item with the smallest key; None if there is none."""
        heap = self._heap
        while heap and not self._is_live(heap[0]):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def key_of(self, item: T) -> Key:
        """The key under which the item is here. Raises ``KeyError`` if it is not."""
        return self._live[item][0]

    def in_order(self) -> Iterator[T]:
        """The items from the smallest key on, at O(log n) for each that is taken.

        Until the iterator has been given up nothing may be put, nor ``first`` be asked for.
        Discarding does no harm.
        """
        # What went from the front would be passed over by every iterator until it is swept out.
        self.first()
        heap = self._heap
        frontier = [(heap[0][0], heap[0][1], 0)] if heap else []
        while frontier:
            _, _, place = heapq.heappop(frontier)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(frontier, (heap[below][0], heap[below][1], below))
            if self._is_live(heap[place]):
                yield heap[place][2]

    def _is_live(self, entry: tuple[Key, int, T]) -> bool:
        known = self._live.get(entry[2])
        return known is not None and known[1] == entry[1]

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._live) + _SLACK:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)
