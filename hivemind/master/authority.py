"""Who is believed: the pool's signing key, the tokens it makes, and those it has taken back."""

from collections.abc import Callable

import attrs
from nacl.signing import VerifyKey

from hivemind.core.messages import Keyring
from hivemind.core.records import Account, Node
from hivemind.master import signing
from hivemind.master.keyrings import keyring_of, new_token_id, of_account, of_node
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import InvalidToken, Principal
from hivemind.rpc.tokens import (
    MASTER_AUDIENCE,
    Claims,
    WrongAudience,
    WrongKey,
    sign_token,
    verify_token,
)


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

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """What others need to check this pool's tokens: the newest key, then older ones whose
        tokens are still believed.
        """
        return signing.verify_keys(self._reactor.cluster.facts, self._clock())

    async def rotate(self, grace_s: float) -> float:
        """Sign with a new key from now on; until when tokens of the old one are believed.

        Raises CallRefused.
        """
        seed = self._random_bytes(32)
        return await self._reactor.perform(lambda turn: signing.rotate(turn, seed, grace_s))

    def _sign(self, claims: Claims) -> str:
        return sign_token(claims, signing.signing_key(self._reactor.cluster.facts))

    def account_token(self, account: Account, ttl_s: float) -> str:
        """A token that is the account, for the master, for so long."""
        now = self._clock()
        return self._sign(
            Claims(
                subject=account.name,
                role=account.role.value,
                kind="account",
                audience=MASTER_AUDIENCE,
                token_id=new_token_id(of_account(account.name), self._random_bytes),
                issued_at=now,
                expires_at=now + ttl_s,
            )
        )

    def direct_token(self, account: Account, node: Node, ttl_s: float) -> str:
        """A token with which the account may call the node's own services, and nothing else."""
        now = self._clock()
        return self._sign(
            Claims(
                subject=account.name,
                role=account.role.value,
                kind="direct",
                audience=node.id,
                token_id=new_token_id(of_node(node.id), self._random_bytes),
                issued_at=now,
                expires_at=now + ttl_s,
            )
        )

    def keyring(self, node_id: str) -> Keyring:
        """What the node needs to check by itself the tokens that it is called with."""
        cluster = self._reactor.cluster
        node = cluster.nodes.get(node_id)
        return keyring_of(
            () if node is None else (of_node(node.id), of_account(node.account)),
            keys=tuple(key.encode() for key in self.verify_keys()),
            revoked=cluster.revoked,
        )

    def node_token(self, node: Node, ttl_s: float) -> str:
        """A token that is the node: good for the link alone."""
        now = self._clock()
        return self._sign(
            Claims(
                subject=node.account,
                role="provider",
                kind="node",
                node_id=node.id,
                audience=MASTER_AUDIENCE,
                token_id=self._random_bytes(12).hex(),
                issued_at=now,
                expires_at=now + ttl_s,
            )
        )

    def claims_of(self, token: str) -> Claims:
        """What a token of this pool says, whomever it is meant for. Raises InvalidToken."""
        try:
            return self._claims(token)
        except WrongAudience as error:
            return self._claims(token, error.audience)

    def push_token(self, node: Node, ttl_s: float) -> str:
        """What the master shows to a node that it pushes to. Nobody but that node believes it, so
        that what a node holds opens nothing else.
        """
        if node.id == MASTER_AUDIENCE:
            raise ValueError("a node cannot be called what the master is")
        now = self._clock()
        return self._sign(
            Claims(
                subject=node.account,
                role="provider",
                kind="push",
                node_id=node.id,
                audience=node.id,
                token_id=self._random_bytes(12).hex(),
                issued_at=now,
                expires_at=now + ttl_s,
            )
        )

    async def verify(self, token: str, peer: str) -> Principal:
        """Whom the token stands for. Raises InvalidToken."""
        return self.principal(token)

    def still_good(self, principal: Principal) -> bool:
        """Whether its token was not revoked since."""
        return principal.token_id not in self._reactor.cluster.revoked

    def principal(self, token: str) -> Principal:
        """Whom the token stands for, as the account is now. Raises InvalidToken."""
        claims = self._claims(token)
        cluster = self._reactor.cluster
        if claims.kind not in {"account", "node"}:
            raise InvalidToken("the token is not one for the master; log in again")
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

    def _claims(self, token: str, audience: str = MASTER_AUDIENCE) -> Claims:
        """What the token says, by whichever key it was signed with. Raises InvalidToken."""
        now = self._clock()
        newest, *older = self.verify_keys()
        for key in (newest, *older):
            try:
                return verify_token(token, key, audience=audience, now=now)
            except WrongKey as error:
                refusal = error
        raise refusal
