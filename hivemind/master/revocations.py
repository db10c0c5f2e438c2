"""The tokens that are believed no more, kept so that one more costs the same however many there
are: an account may revoke as many as it likes, and everybody's calls come in between.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping

from hivemind.core.records import RevokedToken


class Revocations(Mapping[str, float]):
    """When each of them would have expired anyway, by token id; and whose concern it is."""

    def __init__(self, tokens: Iterable[RevokedToken] = ()) -> None:
        self._until: dict[str, float] = {}
        self._by_whose: dict[str, dict[str, RevokedToken]] = {}
        self._ends: list[tuple[float, str]] = []
        for token in tokens:
            self._add(token)

    def put(self, tokens: Iterable[RevokedToken], now: float) -> None:
        """Add some, and let go of those that have expired by now."""
        while self._ends and self._ends[0][0] <= now:
            _, token_id = heapq.heappop(self._ends)
            del self._until[token_id]
            whose = _whose(token_id)
            theirs = self._by_whose[whose]
            del theirs[token_id]
            if not theirs:
                del self._by_whose[whose]
        for token in tokens:
            self._add(token)

    def of(self, whose: str) -> Iterable[RevokedToken]:
        """Those whose ids say that they are theirs; see ``keyrings.new_token_id``."""
        return self._by_whose.get(whose, {}).values()

    def _add(self, token: RevokedToken) -> None:
        if token.token_id in self._until:
            return
        self._until[token.token_id] = token.expires_at
        self._by_whose.setdefault(_whose(token.token_id), {})[token.token_id] = token
        heapq.heappush(self._ends, (token.expires_at, token.token_id))

    def __getitem__(self, token_id: str) -> float:
        return self._until[token_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._until)

    def __len__(self) -> int:
        return len(self._until)


def _whose(token_id: str) -> str:
    return token_id.rpartition(".")[0]
