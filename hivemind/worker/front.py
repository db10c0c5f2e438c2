"""What this worker serves on a port of its own, and where that is."""

import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.contract.direct import SPOOLED, serve_direct
from hivemind.rpc.contract.serving import with_reflection
from hivemind.rpc.health import Health
from hivemind.rpc.plaintext import check_listeners
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.spool import Spool
from hivemind.settings.daemon import format_address
from hivemind.worker.direct import DirectTasks
from hivemind.worker.gate import Gate

OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""What may be called without a token; everything else, and whatever is added, may not."""

MOST_TASK_BYTES = 100_000_000
_UPLOADS_BYTES = 1_000_000_000
"""What all tasks that are arriving may hold of the disk."""
_ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104


class Front:
    """The worker's own server. ``open_front`` makes one that listens already."""

    def __init__(
        self,
        listen: tuple[str, int],
        listeners: Sequence[trio.SocketListener],
        *,
        gate: Gate,
        direct: DirectTasks,
        folder: Path,
        tls: ssl.SSLContext | None,
    ) -> None:
        """The server takes the listeners over, and closes them."""
        self.health = Health()
        self.address = (listen[0], listeners[0].socket.getsockname()[1])
        """Host and port."""
        self._listeners = list(listeners)
        self._gate = gate
        self._direct = direct
        self._tls = tls
        self._server: Server | None = None
        self._drained = trio.Event()
        self._spool = Spool(
            folder=folder, budget=ByteBudget(_UPLOADS_BYTES), max_bytes=MOST_TASK_BYTES
        )

    @property
    def told(self) -> str:
        """``HOST:PORT`` for others: where it listens everywhere, by the machine's own name."""
        host, port = self.address
        return format_address(socket.gethostname() if host in _ANY_HOST else host, port)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained, and then wait to be cancelled."""
        await self._spool.sweep()
        listeners, self._listeners = self._listeners, []
        self._server = server = Server(
            with_reflection([*serve_direct(self._direct), self.health]),
            authenticator=Authenticator(open_methods=OPEN_METHODS, verify=self._gate.verify),
            tls=self._tls,
            spool=self._spool,
            spooled=SPOOLED,
        )
        await server.serve(
            listeners or await open_listeners(*self.address), task_status=task_status
        )
        self._drained.set()
        # Drained: nothing is left to serve, and the owner is about to leave.
        await trio.sleep_forever()

    @property
    def has_tls(self) -> bool:
        """Whether it speaks TLS alone."""
        return self._tls is not None

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Have the connections that come from now on use this."""
        self._tls = tls
        if self._server is not None:
            self._server.use_tls(tls)

    async def drain(self) -> None:
        """Take no new call, let those in flight end within the transport's grace, and return."""
        if self._server is not None:
            self._server.drain()
            await self._drained.wait()


@asynccontextmanager
async def open_front(
    listen: tuple[str, int],
    *,
    gate: Gate,
    direct: DirectTasks,
    folder: Path,
    tls: ssl.SSLContext | None,
    allow_plaintext: bool,
) -> AsyncIterator[Front]:
    """A front that listens, and whose address stands in ``folder/address`` for the block's length.

    Raises PortInUse, ListensInPlaintext, and OSError where the address cannot be written.
    """
    listeners = await open_listeners(*listen)
    try:
        if tls is None and not allow_plaintext:
            check_listeners(listeners)
        front = Front(
            listen, listeners, gate=gate, direct=direct, folder=folder / "uploads", tls=tls
        )
        path = folder / "address"
        _write(path, format_address(*front.address) + "\n")
        try:
            yield front
        finally:
            path.unlink(missing_ok=True)
    finally:
        with trio.move_on_after(1, shield=True):
            for listener in listeners:
                await listener.aclose()


def _write(path: Path, text: str) -> None:
    """Whole or not at all; for everybody who may look into the folder."""
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    Path(fresh).chmod(0o644)
    Path(fresh).replace(path)
