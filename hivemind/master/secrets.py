"""One-time secrets: join tokens for workers, invitations for people."""

import hashlib
from collections.abc import Callable

from hivemind.core.ids import make_secret_text
from hivemind.core.messages import Secret
from hivemind.core.records import JoinToken
from hivemind.master import commands
from hivemind.master.reactor import Reactor
from hivemind.rpc.contract.faults import invalid

_MOST_TTL_S = 30 * 86400.0


class OneTimeSecrets:
    """Makes them; only their digests are kept."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        default_ttl_s: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._random_bytes = random_bytes
        self._default_ttl_s = default_ttl_s

    async def create(self, account: str, purpose: str, ttl_s: float) -> Secret:
        """A new secret of this account's, for ``join`` or ``invite``; 0 is the pool's time.

        Raises CallRefused for a time that is negative or over thirty days.
        """
        if not 0 <= ttl_s <= _MOST_TTL_S:
            raise invalid("a secret may last up to 30 days; ask for a time between 1s and 30d")
        text = make_secret_text(self._random_bytes(20))
        token = JoinToken(
            digest=digest_of(text),
            account=account,
            purpose=purpose,
            expires_at=self._clock() + (ttl_s or self._default_ttl_s()),
        )
        await self._reactor.perform(lambda turn: commands.put_join_token(turn, token))
        return Secret(text=text, expires_at=token.expires_at)


def digest_of(text: str) -> bytes:
    """What the store keeps of a secret. It is random, so a plain hash cannot be guessed back."""
    return hashlib.sha256(text.encode()).digest()
