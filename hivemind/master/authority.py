"""Who is believed: the pool's signing key, the tokens it makes, and those it has taken back."""

from collections.abc import Callable

import attrs
from nacl.signing import SigningKey, VerifyKey

from hivemind.core.records import Account, Node
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import InvalidToken, Principal
from hivemind.rpc.tokens import MASTER_AUDIENCE, Claims, sign_token, verify_token

SIGNING_KEY_FACT = "signing_key"
"""The name under which the store keeps the key's 32-byte seed."""


class Authority:
    """Makes and checks tokens."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._random_bytes = random_bytes

    @property
    def _key(self) -> SigningKey:
        return SigningKey(self._reactor.cluster.facts[SIGNING_KEY_FACT])

    @property
    def verify_key(self) -> VerifyKey:
        """What others need to check this pool's tokens."""
        return self._key.verify_key

    def account_token(self, account: Account, ttl_s: float) -> str:
        """A token that is the account, for the master, for so long."""
        now = self._clock()
        return sign_token(
            Claims(
                subject=account.name,
                role=account.role.value,
                kind="account",
                audience=MASTER_AUDIENCE,
                token_id=self._random_bytes(12).hex(),
                issued_at=now,
                expires_at=now + ttl_s,
            ),
            self._key,
        )

    def node_token(self, node: Node, ttl_s: float) -> str:
        """A token that is the node: good for the link alone."""
        now = self._clock()
        return sign_token(
            Claims(
                subject=node.account,
                role="provider",
                kind="node",
                node_id=node.id,
                audience=MASTER_AUDIENCE,
                token_id=self._random_bytes(12).hex(),
                issued_at=now,
                expires_at=now + ttl_s,
            ),
            self._key,
        )

    def push_token(self, node: Node, ttl_s: float) -> str:
        """What the master shows to a node that it pushes to. Nobody but that node believes it, so
        that what a node holds opens nothing else.
        """
        if node.id == MASTER_AUDIENCE:
            raise ValueError("a node cannot be called what the master is")
        now = self._clock()
        return sign_token(
            Claims(
                subject=node.account,
                role="provider",
                kind="push",
                node_id=node.id,
                audience=node.id,
                token_id=self._random_bytes(12).hex(),
                issued_at=now,
                expires_at=now + ttl_s,
            ),
            self._key,
        )

    async def verify(self, token: str, peer: str) -> Principal:
        """Whom the token stands for. Raises InvalidToken."""
        return self.principal(token)

    def principal(self, token: str) -> Principal:
        """Whom the token stands for, as the account is now. Raises InvalidToken."""
        claims = verify_token(token, self.verify_key, audience=MASTER_AUDIENCE, now=self._clock())
        cluster = self._reactor.cluster
        if claims.kind not in {"account", "node"}:
            raise InvalidToken("this token is good for nothing here; log in")
        if claims.token_id in cluster.revoked:
            raise InvalidToken("this token was revoked; log in again")
        if claims.subject not in cluster.accounts:
            raise InvalidToken(f"account {claims.subject} is not of this pool; log in again")
        if claims.kind == "node" and claims.node_id not in cluster.nodes:
            raise InvalidToken(f"node {claims.node_id} was forgotten; enrol it anew")
        principal = claims.principal()
        if claims.kind == "account":
            return attrs.evolve(principal, role=cluster.accounts[claims.subject].role.value)
        return principal
