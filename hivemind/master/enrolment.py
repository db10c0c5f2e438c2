"""How a worker becomes a node of the pool, and proves later that it is still the same one."""

from collections.abc import Callable

import attrs
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from hivemind.core.errors import CoreError
from hivemind.core.ids import check_node_name, make_task_id
from hivemind.core.messages import Enrolled, Enrolment, NodeToken
from hivemind.core.policy import PoolRules
from hivemind.core.records import Node
from hivemind.master import commands
from hivemind.master.authority import Authority
from hivemind.master.rates import RateLimiter
from hivemind.master.reactor import Reactor
from hivemind.master.secrets import digest_of
from hivemind.rpc.auth import InvalidToken
from hivemind.rpc.contract.faults import NamedFault, denied, exhausted, invalid, unauthenticated
from hivemind.rpc.errors import ErrorCode

ENROL_CONTEXT = b"hivemind enrol"
PROVE_CONTEXT = b"hivemind prove"

_NONCE_S = 60.0
_MOST_NONCES = 10_000


@attrs.frozen
class _Nonce:
    node_id: str
    until: float


class Enroller:
    """Takes nodes in and gives them tokens."""

    def __init__(
        self,
        reactor: Reactor,
        authority: Authority,
        *,
        rules: Callable[[], PoolRules],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        rates: RateLimiter,
    ) -> None:
        self._reactor = reactor
        self._authority = authority
        self._rules = rules
        self._clock = clock
        self._random_bytes = random_bytes
        self._rates = rates
        self._nonces: dict[bytes, _Nonce] = {}

    async def enrol(self, peer: str, enrolment: Enrolment) -> Enrolled:
        """Take a node in, for the account whose join token, or whose own token, it shows.

        Raises CallRefused.
        """
        self._rates.check("enrol", _host(peer))
        if len(enrolment.public_key) != 32:
            raise invalid("a node's public key is 32 bytes of Ed25519")
        try:
            check_node_name(enrolment.name)
        except CoreError as error:
            raise invalid(str(error)) from error
        if not _is_signed(
            enrolment.public_key,
            ENROL_CONTEXT + enrolment.join_token.encode(),
            enrolment.signature,
        ):
            raise denied("the enrolment was not signed with the key that it names")
        account, digest = self._sponsor(enrolment.join_token)
        now = self._clock()
        node = Node(
            id=make_task_id(int(now * 1000), self._random_bytes(10)),
            account=account,
            name=enrolment.name,
            public_key=enrolment.public_key,
            enrolled_at=now,
        )
        node = await self._reactor.perform(lambda turn: commands.enrol(turn, node, digest))
        return Enrolled(node_id=node.id, account=node.account)

    def _sponsor(self, join_token: str) -> tuple[str, bytes | None]:
        """Whose node it will be, and the digest of the one-time secret that this uses up."""
        if join_token.count(".") == 2:
            try:
                principal = self._authority.principal(join_token)
            except InvalidToken as error:
                raise unauthenticated(str(error)) from error
            if principal.kind != "account":
                raise denied("a node's token cannot enrol another node; use a join token")
            return principal.account, None
        digest = digest_of(join_token)
        token = self._reactor.cluster.join_tokens.get(digest)
        if token is None or token.purpose != "join" or token.expires_at <= self._clock():
            raise denied(
                "this join token is unknown, used or expired; make one with `hivemind node token`"
            )
        return token.account, digest

    def challenge(self, node_id: str) -> bytes:
        """A nonce for this node, good for a minute. One for an unknown node is as good as any."""
        now = self._clock()
        for nonce, known in list(self._nonces.items())[:2]:
            if known.until <= now:
                del self._nonces[nonce]
        if len(self._nonces) >= _MOST_NONCES:
            raise exhausted("too many workers are proving themselves at once; try again")
        nonce = self._random_bytes(32)
        self._nonces[nonce] = _Nonce(node_id, now + _NONCE_S)
        return nonce

    def prove(self, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        """A token for the node that signed its nonce; a nonce serves once."""
        known = self._nonces.pop(nonce, None)
        if known is None or known.node_id != node_id or known.until <= self._clock():
            raise denied("this nonce is unknown, used or expired; ask for a new challenge")
        node = self._reactor.cluster.nodes.get(node_id)
        if node is None:
            raise NamedFault(
                ErrorCode.NODE_NOT_FOUND, f"node {node_id} is not of this pool; enrol it anew"
            )
        if not _is_signed(node.public_key, PROVE_CONTEXT + nonce, signature):
            raise unauthenticated(f"the signature is not node {node_id}'s")
        ttl_s = self._rules().node_token_ttl_s
        return NodeToken(text=self._authority.node_token(node, ttl_s), expires_in_s=ttl_s)


def _is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def _host(peer: str) -> str:
    return peer.rpartition(":")[0]
