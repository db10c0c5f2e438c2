"""How many calls may be in flight: a number that callers share."""

from collections import Counter
from collections.abc import Hashable


class CallShares:
    """Places for calls, none of which is waited for: a call that waits costs as much as it runs.

    Nobody gets all of them: a holder of some gets another only while it holds no more than what
    would still be free afterwards, so that one alone gets half, two get a third each, and something
    is always left for the next.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Counter[Hashable] = Counter()
        self._total = 0

    def take(self, holder: Hashable) -> bool:
        """Take a place, where the holder may have one more; to be given back by `give`."""
        free = self.limit - self._total
        held = self._held[holder]
        if free <= 0 or (held and held >= free):
            return False
        self.take_anyway(holder)
        return True

    def take_anyway(self, holder: Hashable) -> None:
        """Take a place although there may be none."""
        self._held[holder] += 1
        self._total += 1

    def give(self, holder: Hashable) -> None:
        """Give a place back."""
        self._total -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    def largest(self) -> Hashable | None:
        """Who holds most; None where nobody holds any."""
        return max(self._held, key=self._held.__getitem__, default=None)
