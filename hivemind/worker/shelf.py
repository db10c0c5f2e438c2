"""Direct tasks by name: those that run, and as many of those that have ended as there is room for.

Pure. Where there are too many, the oldest ended one goes of whoever has most of what is short, so
that nobody's tasks push out another's.
"""

from collections import Counter
from collections.abc import Iterator

from hivemind.worker.direct_task import Direct

MOST_ENDED = 1000
MOST_ENDED_BYTES = 512 * 1024 * 1024


class Shelf:
    """Tasks by account and by the id that the account chose."""

    def __init__(self, *, most_ended: int = MOST_ENDED, most_bytes: int = MOST_ENDED_BYTES) -> None:
        self._most_ended = most_ended
        self._most_bytes = most_bytes
        self._by_key: dict[tuple[str, str], Direct] = {}
        # In the order in which they ended.
        self._ended: dict[tuple[str, str], Direct] = {}

    def __iter__(self) -> Iterator[Direct]:
        return iter(tuple(self._by_key.values()))

    def get(self, account: str, task_id: str) -> Direct | None:
        """The account's own task of that id."""
        return self._by_key.get((account, task_id))

    def of_anybody(self, task_id: str) -> Direct | None:
        """The newest task of that id, whoever's it is."""
        found = (one for one in reversed(self._by_key.values()) if one.task_id == task_id)
        return next(found, None)

    def put(self, direct: Direct) -> None:
        """Hold a task that begins."""
        self._by_key[direct.account, direct.task_id] = direct

    def note_end(self, direct: Direct) -> list[Direct]:
        """A task has ended; those that must go for it, which are held no longer."""
        key = (direct.account, direct.task_id)
        self._ended[key] = direct
        dropped: list[Direct] = []
        while (surplus := self._surplus()) is not None:
            del self._ended[surplus.account, surplus.task_id]
            del self._by_key[surplus.account, surplus.task_id]
            dropped.append(surplus)
        return dropped

    def _surplus(self) -> Direct | None:
        weights: Counter[str] = Counter()
        if sum(one.file_bytes for one in self._ended.values()) > self._most_bytes:
            for one in self._ended.values():
                weights[one.account] += one.file_bytes
        elif len(self._ended) > self._most_ended:
            weights.update(one.account for one in self._ended.values())
        else:
            return None
        largest = weights.most_common(1)[0][0]
        return next(one for one in self._ended.values() if one.account == largest)
