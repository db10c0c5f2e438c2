"""Who this worker is: a key of its own, and the node that the pool knows it as.

The key is made once and never leaves its home. With it and a join token the worker enrols; from
then on it proves itself by signing what the master asks, and gets tokens that are good for minutes.
"""

import json
from pathlib import Path

import attrs
import cattrs
import trio
from nacl.signing import SigningKey

from hivemind.core.messages import Enrolment
from hivemind.core.wording import one_line
from hivemind.rpc.errors import RemoteError, Status
from hivemind.worker.dial import Dial
from hivemind.worker.durable import write_durably
from hivemind.worker.errors import WorkerError

_ENROL_PREFIX = b"hivemind enrol"
_PROVE_PREFIX = b"hivemind prove"
_RENEW_AT = 0.3
"""What part of a token's life is left when a new one is fetched."""

_UNKNOWN_NODE = frozenset({Status.NOT_FOUND, Status.UNAUTHENTICATED, Status.UNIMPLEMENTED})
"""Answers to a proof that will be the same however often one tries. A nonce that has expired, or
that the master forgot in a restart, is not among them."""

_REFUSALS = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.NOT_FOUND,
        Status.ALREADY_EXISTS,
        Status.PERMISSION_DENIED,
        Status.FAILED_PRECONDITION,
        Status.UNAUTHENTICATED,
        Status.UNIMPLEMENTED,
    }
)
"""Answers to an enrolment that will be the same however often one asks."""


class IdentityError(WorkerError):
    """The worker cannot show who it is."""


class UnreadableIdentity(IdentityError):
    """What the home keeps of the identity is damaged."""


class NotEnrolled(IdentityError):
    """The worker belongs to no pool yet, and was given nothing to join one with."""


class EnrolmentRefused(IdentityError):
    """The master will not take this worker, now or later."""


class NotAccepted(IdentityError):
    """The master does not take this worker for the node that it says it is."""


@attrs.frozen(kw_only=True)
class Membership:
    """What the pool calls this worker."""

    node_id: str
    account: str
    master: str
    """Where the master was when it was last spoken to."""


@attrs.frozen
class IdentityFolder:
    """Where a worker's identity is kept."""

    path: Path

    @property
    def key_path(self) -> Path:
        """The private key, as hexadecimal digits."""
        return self.path / "node.key"

    @property
    def membership_path(self) -> Path:
        """The node's id and where its master is."""
        return self.path / "node.json"

    def load_or_make_key(self) -> SigningKey:
        """The worker's key, made on the first call; blocks.

        Raises UnreadableIdentity for a file that holds no key, OSError where it cannot be used.
        """
        try:
            text = self.key_path.read_text(encoding="ascii")
        except FileNotFoundError:
            key = SigningKey.generate()
            write_durably(self.key_path, key.encode().hex().encode() + b"\n")
            return key
        except UnicodeDecodeError:
            text = ""
        try:
            return SigningKey(bytes.fromhex(text))
        except ValueError:
            raise UnreadableIdentity(
                f"{self.key_path} holds no key: bring it back from a backup, or remove {self.path} "
                "and enrol anew"
            ) from None

    def load_membership(self) -> Membership | None:
        """The node that this worker is; None before it enrolled. Blocks; raises as the key does."""
        try:
            document = self.membership_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return cattrs.structure(json.loads(document), Membership)
        except Exception as error:
            raise UnreadableIdentity(
                f"{self.membership_path} cannot be read: bring it back from a backup, or remove "
                f"{self.path} and enrol anew"
            ) from error

    def save_membership(self, membership: Membership) -> None:
        """Keep it durably; blocks."""
        document = json.dumps(cattrs.unstructure(membership), indent=1)
        write_durably(self.membership_path, document.encode() + b"\n")


class Identity:
    """The worker, as its master knows it; made by ``join``."""

    def __init__(self, dial: Dial, key: SigningKey, membership: Membership) -> None:
        self._dial = dial
        self._key = key
        self.membership = membership
        self._lock = trio.Lock()
        self._token = ""
        self._renew_at = 0.0

    async def token(self) -> str:
        """A node token that is good for a while yet; a new one is fetched before the old expires.

        Raises:
            NotAccepted: the master does not know the node, or not by this key.
            RpcError: it could not be asked.
        """
        async with self._lock:
            if trio.current_time() >= self._renew_at:
                await self._prove()
            return self._token

    def forget_token(self) -> None:
        """The master did not take the token: get another before the next call."""
        self._renew_at = 0.0

    async def _prove(self) -> None:
        asked_at = trio.current_time()
        node_id = self.membership.node_id
        try:
            async with self._dial.open() as master:
                nonce = await master.challenge(node_id)
                signature = self._key.sign(_PROVE_PREFIX + nonce).signature
                token = await master.prove(node_id, nonce, signature)
        except RemoteError as error:
            if error.status not in _UNKNOWN_NODE:
                raise
            raise NotAccepted(
                f"the master at {self._dial.address} does not accept node {node_id}: "
                f"{one_line(str(error))}"
            ) from error
        self._token = token.text
        self._renew_at = asked_at + (1 - _RENEW_AT) * token.expires_in_s


async def join(
    dial: Dial, folder: IdentityFolder, *, name: str, join_token: str | None
) -> Identity:
    """The worker's identity with this master: enrols where it has none yet, then proves it.

    A home that was enrolled keeps its node; the master may have moved to another address since,
    which shows by its accepting the node there. Call it again after an RpcError.

    Raises:
        NotEnrolled: there is no identity yet, and no token to get one with.
        EnrolmentRefused: the master will not take the worker.
        NotAccepted: the home is enrolled with another master, or forgotten by this one.
        UnreadableIdentity: the home's files are damaged.
        RpcError: the master could not be asked.
    """
    key = await trio.to_thread.run_sync(folder.load_or_make_key)
    membership = await trio.to_thread.run_sync(folder.load_membership)
    if membership is None:
        membership = await _enrol(dial, key, name, join_token)
        await trio.to_thread.run_sync(folder.save_membership, membership)
    identity = Identity(dial, key, membership)
    try:
        await identity.token()
    except NotAccepted as error:
        raise NotAccepted(_how_to_mend(folder, membership, dial, error)) from error
    if membership.master != dial.address:
        identity.membership = attrs.evolve(membership, master=dial.address)
        await trio.to_thread.run_sync(folder.save_membership, identity.membership)
    return identity


def _how_to_mend(
    folder: IdentityFolder, membership: Membership, dial: Dial, error: NotAccepted
) -> str:
    if membership.master != dial.address:
        return (
            f"this worker is enrolled with the master at {membership.master} and the one at "
            f"{dial.address} does not know it: give it a home of its own with --home and --join, "
            f"or use --master {membership.master}"
        )
    return f"{error}: if it was removed from the pool, remove {folder.path} and enrol with --join"


async def _enrol(dial: Dial, key: SigningKey, name: str, join_token: str | None) -> Membership:
    if not join_token:
        raise NotEnrolled(
            f"this worker is not enrolled with the master at {dial.address}: start it with --join "
            "TOKEN, which `hivemind node token` prints"
        )
    enrolment = Enrolment(
        join_token=join_token,
        public_key=key.verify_key.encode(),
        name=name,
        signature=key.sign(_ENROL_PREFIX + join_token.encode()).signature,
    )
    try:
        async with dial.open() as master:
            enrolled = await master.enrol(enrolment)
    except RemoteError as error:
        if error.status not in _REFUSALS:
            raise
        raise EnrolmentRefused(
            f"the master at {dial.address} did not take this worker: {one_line(str(error))}"
        ) from error
    return Membership(node_id=enrolled.node_id, account=enrolled.account, master=dial.address)
