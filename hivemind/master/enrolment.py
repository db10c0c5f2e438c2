"""How a worker becomes a node of the pool, and proves later that it is still the same one."""

import hashlib
import hmac
import struct
from collections.abc import Callable

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from hivemind.core.errors import CoreError
from hivemind.core.ids import check_node_name, make_task_id
from hivemind.core.messages import Enrolled, Enrolment, NodeToken
from hivemind.core.policy import PoolRules
from hivemind.core.records import Node
from hivemind.master import commands
from hivemind.master.authority import Authority
from hivemind.master.reactor import Reactor
from hivemind.master.secrets import digest_of
from hivemind.rpc.auth import InvalidToken
from hivemind.rpc.contract.faults import NamedFault, denied, invalid, unauthenticated
from hivemind.rpc.errors import CallRefused, ErrorCode

ENROL_CONTEXT = b"hivemind enrol"
PROVE_CONTEXT = b"hivemind prove"

_NONCE_S = 60.0
_NONCE = struct.Struct("<dQ")
_MAC_BYTES = 32


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
    ) -> None:
        self._reactor = reactor
        self._authority = authority
        self._rules = rules
        self._clock = clock
        self._random_bytes = random_bytes
        self._nonce_key = random_bytes(32)
        self._serial = 0
        self._last_serials: dict[str, int] = {}

    async def enrol(self, peer: str, enrolment: Enrolment) -> Enrolled:
        """Take a node in, for the account whose join token, or whose own token, it shows.

        A key that is known is the node that it was: the answer may have been lost, and the join
        token with it. Tries are not counted, since a secret of 160 bits cannot be guessed, and a
        rack of workers may come from one address at once. Raises CallRefused.
        """
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
        try:
            account, digest = self._sponsor(enrolment.join_token)
        except CallRefused:
            known = self._holder_of(enrolment.public_key)
            if known is None:
                raise
            return Enrolled(node_id=known.id, account=known.account)
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

    def _holder_of(self, public_key: bytes) -> Node | None:
        nodes = self._reactor.cluster.nodes.values()
        return next((node for node in nodes if node.public_key == public_key), None)

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
        """A nonce for this node, good for a minute. One for an unknown node is as good as any.

        Nothing is kept of it: strangers may ask for as many as they like.
        """
        self._serial += 1
        stamp = _NONCE.pack(self._clock(), self._serial)
        return stamp + self._mac(node_id, stamp)

    def _mac(self, node_id: str, stamp: bytes) -> bytes:
        return hashlib.blake2b(
            stamp + node_id.encode(), key=self._nonce_key, digest_size=_MAC_BYTES
        ).digest()

    def prove(self, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        """A token for the node that signed its nonce. A nonce serves once, and none serves after
        a later one.
        """
        stamp, mac = nonce[: _NONCE.size], nonce[_NONCE.size :]
        if not hmac.compare_digest(mac, self._mac(node_id, stamp)):
            raise _bad_nonce()
        issued_at, serial = _NONCE.unpack(stamp)
        is_used = serial <= self._last_serials.get(node_id, 0)
        if is_used or not 0 <= self._clock() - issued_at < _NONCE_S:
            raise _bad_nonce()
        node = self._reactor.cluster.nodes.get(node_id)
        if node is None:
            raise NamedFault(
                ErrorCode.NODE_NOT_FOUND, f"node {node_id} is not of this pool; enrol it anew"
            )
        if not _is_signed(node.public_key, PROVE_CONTEXT + nonce, signature):
            raise unauthenticated(f"the signature is not node {node_id}'s")
        self._last_serials[node_id] = serial
        ttl_s = self._rules().node_token_ttl_s
        return NodeToken(text=self._authority.node_token(node, ttl_s), expires_in_s=ttl_s)


def _is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def _bad_nonce() -> CallRefused:
    return denied("this nonce is unknown, used or expired; ask for a new challenge")
