"""What this worker knows of the pool's tokens, kept so that it can check them while the master is
away.
"""

import json
from pathlib import Path

import attrs
import cattrs
import structlog
import trio

from hivemind.core.messages import Keyring
from hivemind.core.records import RevokedToken
from hivemind.supervision import Backoff
from hivemind.worker.durable import write_durably

_RETRY = Backoff(first_s=1.0, most_s=30.0)

log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class _Kept:
    """The file's content."""

    node_id: str
    verify_keys: list[str]
    revoked: dict[str, float]
    distrust_until: float


class KeyringFile:
    """The keyring of one node in a file.

    What was heard counts at once. A worker that is killed before it is on disk has the older one
    at its next start, until its master tells it again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due: tuple[str, Keyring] | None = None
        self._changed = trio.Event()

    def read(self, node_id: str) -> Keyring:
        """What was kept for this node; an empty one where there is nothing of use. Blocks."""
        try:
            kept = cattrs.structure(json.loads(self._path.read_bytes()), _Kept)
            keys = tuple(bytes.fromhex(key) for key in kept.verify_keys)
        except FileNotFoundError:
            return Keyring()
        except Exception as error:
            log.warning("keyring_unreadable", path=str(self._path), reason=str(error))
            return Keyring()
        if kept.node_id != node_id:
            return Keyring()
        return Keyring(
            verify_keys=keys,
            revoked=tuple(
                RevokedToken(token_id=token_id, expires_at=expires_at)
                for token_id, expires_at in kept.revoked.items()
            ),
            distrust_until=kept.distrust_until,
        )

    def keep(self, node_id: str, keyring: Keyring) -> None:
        """Have it on disk soon, in place of the one before."""
        self._due = node_id, keyring
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is to be kept, until cancelled. A disk that is full is waited for."""
        task_status.started()
        failures = 0
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self._due is None:
                continue
            node_id, keyring = self._due
            try:
                await trio.to_thread.run_sync(self._write, node_id, keyring)
                failures = 0
            except OSError as error:
                failures += 1
                log.warning("keyring_not_kept", path=str(self._path), reason=str(error))
                await trio.sleep(_RETRY.delay_s(failures, 0.5))
                self._changed.set()

    def _write(self, node_id: str, keyring: Keyring) -> None:
        kept = _Kept(
            node_id=node_id,
            verify_keys=[key.hex() for key in keyring.verify_keys],
            revoked={token.token_id: token.expires_at for token in keyring.revoked},
            distrust_until=keyring.distrust_until,
        )
        write_durably(self._path, json.dumps(cattrs.unstructure(kept), indent=1).encode() + b"\n")
