"""The gRPC server: listeners in, handlers run, and a drain that loses no call."""

import errno
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
import trio

from hivemind.rpc._call_stream import CallSetting
from hivemind.rpc._connection import ServerConnection
from hivemind.rpc._grpclib import (
    Handler,
    IServable,
    adopt_service,
)
from hivemind.rpc.admission import CallShares
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.errors import PortInUse
from hivemind.rpc.spool import Spool, SpooledField

BACKLOG = 256
FEW_CONNECTIONS = 8
"""So many are not too many for anybody."""
CUT_S = 3.0
"""After the grace of a drain: how long the calls that were cut off may take to clean up."""

log = structlog.get_logger(__name__)


class Server:
    """Serves generated services on Trio.

    `authenticator` is asked before every handler. Each connection and each call is a task of its
    own; what one of them does or suffers is not felt by another. `spooled` names unary methods (by
    path) whose one large bytes field goes to a file of `spool` as it arrives: the handler gets the
    message without it, and the file by `current_upload()`.
    """

    def __init__(
        self,
        services: Sequence[IServable],
        *,
        config: TransportConfig | None = None,
        authenticator: Authenticator,
        tls: ssl.SSLContext | None = None,
        spool: Spool | None = None,
        spooled: Mapping[str, SpooledField] | None = None,
    ) -> None:
        self._config = config or TransportConfig()
        self._tls = tls
        self._setting = CallSetting(
            handlers=_handlers(services),
            config=self._config,
            authenticator=authenticator,
            budget=ByteBudget(self._config.message_budget_bytes),
            reply_budget=ByteBudget(self._config.reply_budget_bytes),
            calls=CallShares(self._config.max_calls),
            open_calls=CallShares(self._config.max_all_open_calls),
            arrivals=CallShares(self._config.max_arrivals),
            spool=spool,
            spooled=spooled or {},
        )
        self._connections: dict[ServerConnection, None] = {}
        self.draining = trio.Event()
        """Set by `drain`; handlers that would go on for ever end themselves on it."""

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained; started once connections are accepted.

        Cancelling is the hard stop: handlers are cancelled and connections closed. The listeners
        are closed in any case.
        """
        async with trio.open_nursery() as turns, trio.open_nursery() as connections:
            turns.start_soon(self._setting.turns.run)
            turns.start_soon(self._recheck)
            async with trio.open_nursery() as accepting:
                await accepting.start(
                    partial(
                        trio.serve_listeners,
                        self._serve_connection,
                        list(listeners),
                        handler_nursery=connections,
                    )
                )
                task_status.started()
                await self.draining.wait()
                accepting.cancel_scope.cancel()
            connections.start_soon(self._finish_calls, turns.cancel_scope)

    async def _recheck(self) -> None:
        """End calls in flight whose tokens were revoked, a call at a time being cheap."""
        still_good = self._setting.authenticator.still_good
        while still_good is not None:
            await trio.sleep(self._config.recheck_s)
            for connection in list(self._connections):
                connection.recheck(still_good)
                await trio.lowlevel.checkpoint()

    def use_tls(self, tls: ssl.SSLContext | None) -> None:
        """Have the connections that come from now on use this; those that are there stay."""
        self._tls = tls

    def drain(self) -> None:
        """Take no new connection and no new call; `serve` returns when those in flight have ended,
        at the latest after `drain_grace_s`, when they are cut off with UNAVAILABLE.
        """
        self.draining.set()

    async def _finish_calls(self, all_connections: trio.CancelScope) -> None:
        for connection in list(self._connections):
            connection.link.go_away()
        with trio.move_on_after(self._config.drain_grace_s):
            await self._all_ended()
        for connection in list(self._connections):
            connection.cut_off()
        with trio.move_on_after(CUT_S):
            await self._all_ended()
        all_connections.cancel()

    async def _all_ended(self) -> None:
        while self._connections:
            await next(iter(self._connections)).ended.wait()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        if not self._make_room():
            log.warning("rpc_connection_refused", limit=self._config.max_connections)
            await trio.aclose_forcefully(stream)
            return
        connection = ServerConnection(self._setting, stream, self._tls)
        self._connections[connection] = None
        try:
            await connection.run(self.draining)
        except* Exception as fault:
            # Whatever it was, it is this connection's alone.
            log.error("rpc_connection_failed", peer=connection.link.peer_address, exc_info=fault)
        finally:
            del self._connections[connection]
            connection.ended.set()

    def _make_room(self) -> bool:
        """Whether one more connection fits, if need be in the place of another.

        The oldest idle one of a stranger goes first, then the oldest of one; where there is none,
        one of whoever has more than half of all connections.
        """
        staying = [one for one in self._connections if not one.is_evicted]
        if len(staying) < self._config.max_connections:
            return True
        dispensable = [one for one in staying if one.owner is None] or self._of_a_hog(staying)
        idle = [one for one in dispensable if not one.has_calls]
        for connection in (idle or dispensable)[:1]:
            connection.evict()
            return True
        return False

    def _of_a_hog(self, staying: list[ServerConnection]) -> list[ServerConnection]:
        owner, count = Counter(one.owner for one in staying).most_common(1)[0]
        if count <= max(FEW_CONNECTIONS, self._config.max_connections // 2):
            return []
        return [one for one in staying if one.owner == owner]


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on `host:port`; port 0 takes a free one, the same for every address of the host.

    Raises:
        PortInUse: the address is taken or not ours.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
        if port == 0 and len(listeners) > 1:
            chosen = listeners[0].socket.getsockname()[1]
            for listener in listeners:
                await listener.aclose()
            listeners = await trio.open_tcp_listeners(chosen, host=host, backlog=BACKLOG)
    except OSError as error:
        raise PortInUse(f"cannot listen on {host}:{port}: {_listen_reason(error)}") from error
    return listeners


def _listen_reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program uses this port; stop it or choose another with --listen"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root; choose a higher one with --listen"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; choose another with --listen"
    return error.strerror or str(error)


def _handlers(services: Sequence[IServable]) -> Mapping[str, Handler]:
    handlers: dict[str, Handler] = {}
    for service in services:
        adopt_service(service)
        handlers.update(service.__mapping__())
    return handlers
