"""The gRPC server: listeners in, handlers run, and a drain that loses no call."""

import errno
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
import trio
from h2.errors import ErrorCodes

from hivemind.rpc._call import Call, CallSetting
from hivemind.rpc._grpclib import (
    Handler,
    Headers,
    IServable,
    LinkStream,
    adopt_service,
)
from hivemind.rpc._link import Link, handshake
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.errors import PortInUse
from hivemind.rpc.spool import Spool, SpooledField

BACKLOG = 256
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
            spool=spool,
            spooled=spooled or {},
        )
        self._connections: dict[_Connection, None] = {}
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
        async with trio.open_nursery() as connections:
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
            connections.start_soon(self._finish_calls, connections.cancel_scope)

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

    async def _serve_connection(self, socket_stream: trio.SocketStream) -> None:
        if not self._make_room():
            log.warning("rpc_connection_refused", limit=self._config.max_connections)
            await trio.aclose_forcefully(socket_stream)
            return
        connection = _Connection(self._setting, socket_stream, self._tls)
        self._connections[connection] = None
        try:
            await connection.run(self.draining)
        finally:
            del self._connections[connection]
            connection.ended.set()

    def _make_room(self) -> bool:
        """Whether one more connection fits, if need be in the place of the oldest idle one."""
        if len(self._connections) < self._config.max_connections:
            return True
        for connection in self._connections:
            if connection.is_disposable:
                connection.link.close("the server needs the room")
                return True
        return False


class _Connection:
    """One connection of the server, and the calls on it."""

    def __init__(
        self, setting: CallSetting, stream: trio.SocketStream, tls: ssl.SSLContext | None
    ) -> None:
        self._setting = setting
        self._calls: dict[LinkStream, Call] = {}
        self._nursery: trio.Nursery | None = None
        self._has_served = False
        self.ended = trio.Event()
        self._stream: trio.abc.Stream = stream
        if tls is not None:
            self._stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        self.link = Link(
            self._stream,
            is_client=False,
            config=setting.config,
            acceptor=self,
            peer_address=_peer_address(stream),
        )

    @property
    def is_disposable(self) -> bool:
        """Whether it is idle and never made a call: closing it loses nothing."""
        return not self._calls and not self._has_served

    async def run(self, draining: trio.Event) -> None:
        """Serve until either side closes."""
        try:
            refusal = await handshake(self._stream, self._setting.config.handshake_s)
            if refusal is not None or draining.is_set():
                log.info("rpc_handshake_failed", peer=self.link.peer_address, reason=refusal)
                return
            async with trio.open_nursery() as calls:
                self._nursery = calls
                await self.link.run()
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.aclose_forcefully(self._stream)

    def accept(self, stream: LinkStream, headers: Headers, release: Callable[[], None]) -> None:
        """Start the call; a peer that resets calls faster than they clean up is told to wait."""
        limit = self._setting.config.max_concurrent_streams
        if self.link.is_going_away or len(self._calls) >= limit or self._nursery is None:
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            release()
            return
        self._has_served = True
        call = self._calls[stream] = Call(self._setting, stream, headers)
        self._nursery.start_soon(self._run_call, call, stream, release)

    def cut_off(self) -> None:
        """End every call with UNAVAILABLE."""
        if not self._calls:
            self.link.close("the server is shutting down")
        for call in list(self._calls.values()):
            call.shut_down()

    async def _run_call(self, call: Call, stream: LinkStream, release: Callable[[], None]) -> None:
        try:
            await call.run()
        finally:
            del self._calls[stream]
            release()


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


def _peer_address(stream: trio.SocketStream) -> tuple[Any, ...] | None:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return None
    return address if isinstance(address, tuple) else None


def _handlers(services: Sequence[IServable]) -> Mapping[str, Handler]:
    handlers: dict[str, Handler] = {}
    for service in services:
        adopt_service(service)
        handlers.update(service.__mapping__())
    return handlers
