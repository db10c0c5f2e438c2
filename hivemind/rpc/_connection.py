"""One connection of the server, and the calls on it."""

import ssl
from collections.abc import Callable
from typing import Any

import structlog
import trio
from h2.errors import ErrorCodes

from hivemind.rpc._call import Call
from hivemind.rpc._call_stream import CallSetting
from hivemind.rpc._grpclib import Headers, LinkStream
from hivemind.rpc._link import CLOSE_S, Link, handshake, tell_alert

log = structlog.get_logger(__name__)


class ServerConnection:
    """Runs a link and starts a task for each call that comes in on it."""

    def __init__(
        self, setting: CallSetting, stream: trio.SocketStream, tls: ssl.SSLContext | None
    ) -> None:
        self._setting = setting
        self._calls: dict[LinkStream, Call] = {}
        self._strangers: set[Call] = set()
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self.owner: str | None = None
        """Whose good token a call on it has shown last; None: it is a stranger's."""
        self.is_evicted = False
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
    def has_calls(self) -> bool:
        """Whether a call is in flight."""
        return bool(self._calls)

    async def run(self, draining: trio.Event) -> None:
        """Serve until either side closes, or it is evicted."""
        try:
            with self._scope:
                refusal = await handshake(self._stream, self._setting.config.handshake_s)
                if refusal is not None:
                    log.info(
                        "rpc_handshake_failed", peer=self.link.peer_address, reason=refusal.reason
                    )
                    await tell_alert(self._stream)
                elif not draining.is_set():
                    await self._serve()
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.aclose_forcefully(self._stream)

    async def _serve(self) -> None:
        async with trio.open_nursery() as calls:
            self._nursery = calls
            await self.link.run()

    def accept(self, stream: LinkStream, headers: Headers, release: Callable[[], None]) -> None:
        """Start the call; a peer that resets calls faster than they clean up is told to wait."""
        limit = self._setting.config.max_concurrent_streams
        if self.link.is_going_away or len(self._calls) >= limit or self._nursery is None:
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            release()
            return
        call = self._calls[stream] = Call(self._setting, stream, headers, self)
        self._nursery.start_soon(self._run_call, call, stream, release)

    def admit(self, call: Call, *, owner: str | None) -> bool:
        """Whether the call may run: those without a token are few on one connection."""
        if owner is not None:
            self.owner = owner
            return True
        if len(self._strangers) >= self._setting.config.max_open_calls:
            return False
        self._strangers.add(call)
        return True

    def evict(self) -> None:
        """Close it at once, in favour of another connection."""
        self.is_evicted = True
        self._scope.cancel()

    def cut_off(self) -> None:
        """End every call with UNAVAILABLE."""
        if not self._calls:
            self.link.close("the server is shutting down")
        for call in list(self._calls.values()):
            call.shut_down()

    async def _run_call(self, call: Call, stream: LinkStream, release: Callable[[], None]) -> None:
        try:
            await call.run()
        except* Exception as fault:
            # A fault of this package, not of the handler: it ends one call and no other.
            log.error("rpc_call_failed", peer=self.link.peer_address, exc_info=fault)
            if stream.closable:
                stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)
        finally:
            self._strangers.discard(call)
            del self._calls[stream]
            release()


def _peer_address(stream: trio.SocketStream) -> tuple[Any, ...] | None:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return None
    return address if isinstance(address, tuple) else None
