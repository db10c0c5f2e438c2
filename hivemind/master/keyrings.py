"""What nodes are told of tokens: a node's share of all that is revoked, and nothing of others'."""

import heapq
from collections.abc import Callable, Iterable

from hivemind.core.messages import MOST_REVOKED, Keyring
from hivemind.master.revocations import Revocations

_RANDOM_BYTES = 12


def of_account(name: str) -> str:
    """Whose tokens an account's are; no node's name looks like it."""
    return f"account/{name}"


def of_node(node_id: str) -> str:
    """Whose tokens those are that were made for one node."""
    return f"node/{node_id}"


def new_token_id(whose: str, random_bytes: Callable[[int], bytes]) -> str:
    """An id that tells who must hear of it when it is revoked: an account's nodes, or one node."""
    return f"{whose}.{random_bytes(_RANDOM_BYTES).hex()}"


def keyring_of(whose: Iterable[str], *, keys: tuple[bytes, ...], revoked: Revocations) -> Keyring:
    """The keyring of whoever believes the tokens of ``whose``.

    A node believes tokens of its owner's and those that were made for the node itself, so nobody
    else's are its concern, and nobody else can fill its share.

    Args:
        whose: as ``of_node`` and ``of_account`` say it.
        keys: what the pool's tokens are signed with.
        revoked: everybody's.
    """
    mine = [token for one in whose for token in revoked.of(one)]
    kept = mine
    distrust_until = 0.0
    if len(mine) > MOST_REVOKED:
        longest = heapq.nlargest(MOST_REVOKED + 1, mine, key=lambda token: token.expires_at)
        kept, distrust_until = longest[:-1], longest[-1].expires_at
    return Keyring(
        verify_keys=keys,
        revoked=tuple(sorted(kept, key=lambda token: token.token_id)),
        distrust_until=distrust_until,
    )
