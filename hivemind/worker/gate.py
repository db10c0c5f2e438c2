"""Who may call this worker directly. Default deny; nobody is asked while a caller waits.

Three tokens open the gate: one that the pool made for this very node, its owner's own, and the one
in this worker's home. Tokens of the pool are checked with the keys that the master last told.
"""

import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import trio
from nacl.signing import VerifyKey

from hivemind.core.ids import make_secret_text
from hivemind.core.messages import Keyring
from hivemind.rpc.auth import InvalidToken, Principal
from hivemind.rpc.tokens import (
    MASTER_AUDIENCE,
    Claims,
    WrongAudience,
    WrongKey,
    verify_token,
)
from hivemind.worker.durable import write_durably
from hivemind.worker.errors import WorkerError
from hivemind.worker.identity import IdentityFolder, Membership
from hivemind.worker.keyring import KeyringFile

LOCAL = "local"
"""The kind of caller that holds this home's own token; also whose task it is on a worker that
belongs to no pool."""

_LOCAL_TOKEN_BYTES = 32
_LOCAL_TOKEN_LEAST = 32
_FOREVER = 1e18


class BadLocalToken(WorkerError):
    """The home's own token cannot be used."""


class Gate:
    """Tells callers by their tokens; made by ``open_gate``."""

    def __init__(
        self,
        local_token: str,
        file: KeyringFile,
        membership: Membership | None,
        keyring: Keyring,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local_token = local_token.encode()
        self._file = file
        self._membership = membership
        self._clock = clock
        self._use(keyring)

    @property
    def owner(self) -> str:
        """The account whose machine this is, as far as is known."""
        return LOCAL if self._membership is None else self._membership.account

    def belong(self, membership: Membership) -> None:
        """Be that node from now on. What was known of another node's pool is forgotten."""
        known = self._membership
        self._membership = membership
        if known is None or known.node_id != membership.node_id:
            self._use(Keyring())

    def take(self, keyring: Keyring) -> None:
        """The master has told this: it counts from now on."""
        self._use(keyring)
        if self._membership is not None:
            self._file.keep(self._membership.node_id, keyring)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep on disk what the master tells, until cancelled."""
        await self._file.run(task_status=task_status)

    def is_owner(self, caller: Principal) -> bool:
        """Whether the caller is the machine's owner, or sits at the machine."""
        if caller.kind == LOCAL:
            return True
        return caller.kind in {"account", "direct"} and caller.account == self.owner

    async def verify(self, token: str, peer: str) -> Principal:
        """Whom the token stands for. Raises InvalidToken."""
        await trio.lowlevel.checkpoint()
        if hmac.compare_digest(token.encode(errors="replace"), self._local_token):
            return Principal(
                account=self.owner,
                role="provider",
                kind=LOCAL,
                token_id=LOCAL,
                expires_at=_FOREVER,
            )
        if self._membership is None or not self._keys:
            raise InvalidToken(
                "this worker knows no pool's keys yet; use the token in HOME/worker/local-token"
            )
        claims = self._claims(token, self._membership.node_id)
        if claims.token_id in self._revoked or claims.expires_at <= self._distrust_until:
            raise InvalidToken("this token was revoked; get another")
        self._check_meant(claims, self._membership)
        return claims.principal()

    def _use(self, keyring: Keyring) -> None:
        self._keys = tuple(VerifyKey(key) for key in keyring.verify_keys)
        self._revoked = {token.token_id for token in keyring.revoked}
        self._distrust_until = keyring.distrust_until

    def _claims(self, token: str, node_id: str) -> Claims:
        """What a genuine token says that is meant for this node, or for the master."""
        now = self._clock()
        for key in self._keys:
            try:
                return verify_token(token, key, audience=node_id, now=now)
            except WrongKey:
                continue
            except WrongAudience as error:
                if error.audience != MASTER_AUDIENCE:
                    raise InvalidToken("the token is meant for another node") from None
                return verify_token(token, key, audience=MASTER_AUDIENCE, now=now)
        raise InvalidToken("the token was not signed by this node's pool")

    def _check_meant(self, claims: Claims, membership: Membership) -> None:
        if claims.audience == MASTER_AUDIENCE:
            if claims.kind != "account" or claims.subject != membership.account:
                raise InvalidToken(
                    "this token is for the master, and no node but your own should see it; ask "
                    "this node's owner for one of `hivemind account token --node "
                    f"{membership.node_id}`"
                )
        elif claims.kind not in {"direct", "push"}:
            raise InvalidToken("this token opens nothing here")


async def open_gate(folder: Path) -> Gate:
    """The gate of the worker that lives in this folder; its own token is made where it is missing.

    Raises BadLocalToken, UnreadableIdentity, and OSError where the folder cannot be used.
    """
    membership = await trio.to_thread.run_sync(IdentityFolder(folder).load_membership)
    local_token = await trio.to_thread.run_sync(_load_or_make_token, folder / "local-token")
    file = KeyringFile(folder / "keyring.json")
    keyring = Keyring()
    if membership is not None:
        keyring = await trio.to_thread.run_sync(file.read, membership.node_id)
    return Gate(local_token, file, membership, keyring)


def _load_or_make_token(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except FileNotFoundError:
        text = make_secret_text(secrets.token_bytes(_LOCAL_TOKEN_BYTES))
        write_durably(path, text.encode() + b"\n")
        return text
    except (OSError, UnicodeDecodeError) as error:
        raise BadLocalToken(f"{path} cannot be read: remove it, and another is made") from error
    if len(text) < _LOCAL_TOKEN_LEAST or not text.isalnum():
        raise BadLocalToken(f"{path} holds no token: remove it, and another is made")
    if mode & 0o077:
        raise BadLocalToken(f"{path} can be read by others: remove it, and another is made")
    return text
