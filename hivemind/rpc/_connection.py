"""One connection of the server, and the calls on it."""

import ssl
from collections.abc import Callable, Hashable
from typing import Any

import structlog
import trio
from h2.errors import ErrorCodes

from hivemind.rpc._call import Call
from hivemind.rpc._call_stream import CallSetting
from hivemind.rpc._grpclib import Headers, LinkStream
from hivemind.rpc._link import CLOSE_S, Link, handshake, tell_alert
from hivemind.rpc.admission import CallShares
from hivemind.rpc.auth import Principal

log = structlog.get_logger(__name__)


class ServerConnection:
    """Runs a link and starts a task for each call that comes in on it."""

    def __init__(
        self, setting: CallSetting, stream: trio.SocketStream, tls: ssl.SSLContext | None
    ) -> None:
        self._setting = setting
        self._calls: dict[LinkStream, Call] = {}
        self._places: dict[Call, tuple[CallShares, Hashable]] = {}
        self._strangers = 0
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
        arrivals = self._setting.arrivals
        if (
            self.link.is_going_away
            or len(self._calls) >= limit
            or self._nursery is None
            or not arrivals.take(self)
        ):
            stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
            release()
            return
        call = self._calls[stream] = Call(self._setting, stream, headers, self)
        self._places[call] = (arrivals, self)
        self._nursery.start_soon(self._run_call, call, stream, release)

    def admit(self, call: Call, *, owner: str | None) -> str | None:
        """Have the call counted as its owner's, None being a stranger; why it may not run, if so.

        Calls without a token are few on one connection.
        """
        self._give_place(call)
        if owner is not None:
            self.owner = owner
            if not self._setting.calls.take(owner):
                return "too many calls of yours are in flight; let some end, then try again"
            self._places[call] = (self._setting.calls, owner)
            return None
        if self._strangers >= self._setting.config.max_open_calls or not self._take_open():
            return "too many calls without a token on this connection; try again"
        self._strangers += 1
        self._places[call] = (self._setting.open_calls, self)
        return None

    def _take_open(self) -> bool:
        """Whether there is a place for a stranger's call, if need be in those of whoever has most.

        Anybody can fill them: who has none yet must get one all the same.
        """
        shares = self._setting.open_calls
        if shares.take(self):
            return True
        largest = shares.largest()
        if self._strangers or not isinstance(largest, ServerConnection):
            return False
        largest.evict()
        shares.take_anyway(self)
        return True

    def _give_place(self, call: Call) -> None:
        place = self._places.pop(call, None)
        if place is None:
            return
        shares, holder = place
        shares.give(holder)
        if shares is self._setting.open_calls:
            self._strangers -= 1

    def recheck(self, still_good: Callable[[Principal], bool]) -> None:
        """End the calls whose tokens are good no more."""
        for call in list(self._calls.values()):
            call.recheck(still_good)

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
            self._give_place(call)
            del self._calls[stream]
            release()


def _peer_address(stream: trio.SocketStream) -> tuple[Any, ...] | None:
    try:
        address = stream.socket.getpeername()
    except OSError:
        return None
    return address if isinstance(address, tuple) else None
