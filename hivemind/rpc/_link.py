"""One HTTP/2 connection on Trio: reading, writing, keepalive, floods, GOAWAY, and its end.

Server and channel both run one `Link` per connection. Whatever the peer sends, the link ends
quietly, with its reason in `closed_because`: a connection's failure is never anyone else's.
"""

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import h2.events
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from hivemind.rpc._flow import Gate, TokenBucket
from hivemind.rpc._grpclib import (
    CallAcceptor,
    LinkConnection,
    LinkProcessor,
    is_hoarding,
    watch_goaway,
)
from hivemind.rpc.config import MIB, TransportConfig

if TYPE_CHECKING:
    import structlog

READ_BYTES = 64 * 1024
SUSPECT_READ_BYTES = 4096
SUSPECT_EVENTS = 256
"""A read that held more frames than this was made of tiny ones: the next read is small, so that
parsing such a stream never holds up the other connections for long."""
MAX_HEADER_TABLE_BYTES = 4096
MAX_CONTROL_BYTES = 2 * MIB
"""Acknowledgements that a peer provokes and does not read, beyond the send buffer."""
FLUSH_S = 2.0
"""How long a closing connection may take to get rid of what it still has to say."""
LINGER_S = 1.0
"""How long it then waits for the peer to hang up. Closing at once would reset the connection if
the peer still had something on the way, and take the last replies from it."""
CLOSE_S = 1.0

_IDLE_EVENTS = (
    h2.events.PingReceived,
    h2.events.PingAckReceived,
    h2.events.RemoteSettingsChanged,
    h2.events.SettingsAcknowledged,
    h2.events.PriorityUpdated,
    h2.events.StreamReset,
    h2.events.UnknownFrameReceived,
    h2.events.InformationalResponseReceived,
    h2.events.AlternativeServiceAvailable,
)
UPDATES_PER_WRITE = 4
BYTES_PER_UPDATE = 1024
MOST_UPDATES = 10_000
"""Window updates are owed for what was sent: so many for each write and for its bytes, and so many
at once. Any beyond are frames that carry nothing."""


class _Outbox:
    """The bytes to be written; grpclib writes to it as to an asyncio transport."""

    def __init__(self, link: "Link") -> None:
        self._link = link
        self.pending = bytearray()
        self.has_some = Gate()
        self.in_flight = 0
        self.updates_owed = MOST_UPDATES

    def write(self, data: bytes) -> None:
        if self._link.is_closed:
            return
        self.pending += data
        self.has_some.set()
        owed = self.updates_owed + UPDATES_PER_WRITE + len(data) // BYTES_PER_UPDATE
        self.updates_owed = min(MOST_UPDATES, owed)
        held = len(self.pending) + self.in_flight
        if held > self._link.config.send_buffer_bytes:
            self._link.connection.write_ready.clear()
            if held > self._link.max_unsent_bytes:
                self._link.close("the peer does not read what it asks for", flush=False)

    def is_closing(self) -> bool:
        return self._link.is_closed

    def close(self) -> None:
        self._link.close("closed")

    def get_extra_info(self, name: str) -> object:
        if name == "peername":
            return self._link.peer_address
        return self._link.ssl_object if name == "ssl_object" else None


class Link:
    """One connection; `run` owns everything that happens on it."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        is_client: bool,
        config: TransportConfig,
        acceptor: CallAcceptor,
        peer_address: tuple[Any, ...] | None,
    ) -> None:
        self.config = config
        self.peer_address = peer_address
        self.closed_because: str | None = None
        self.is_going_away = False
        self.ready = trio.Event()
        """The peer has sent its first SETTINGS: it speaks HTTP/2."""
        self._stream = stream
        self._closing = trio.Event()
        self._flushed = trio.Event()
        self._is_orderly = False
        self._may_flush = True
        self._activity = trio.Event()
        self._last_received_at = trio.current_time()
        self._flood = TokenBucket(config.flood_burst, config.flood_per_s)
        self.max_unsent_bytes = 2 * config.send_buffer_bytes + MAX_CONTROL_BYTES
        self._h2 = _h2_connection(is_client=is_client, config=config)
        self._outbox = _Outbox(self)
        self.connection = LinkConnection(self._h2, self._outbox)
        self.processor = LinkProcessor(acceptor, self.connection, self)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self.closed_because is not None

    @property
    def ssl_object(self) -> trio.SSLStream[trio.SocketStream] | None:
        """The TLS connection, for the peer's certificate; None without TLS."""
        return self._stream if isinstance(self._stream, trio.SSLStream) else None

    async def run(self) -> None:
        """Serve the connection until it is closed by either side; cancelling closes it at once."""
        try:
            self._start_h2()
            async with trio.open_nursery() as outbound:
                outbound.start_soon(self._write_all)
                async with trio.open_nursery() as inbound:
                    inbound.start_soon(self._read_all)
                    inbound.start_soon(self._keep_alive)
                    inbound.start_soon(self._await_ready)
                    await self._closing.wait()
                    inbound.cancel_scope.cancel()
                if self._may_flush:
                    with trio.move_on_after(FLUSH_S):
                        await self._flushed.wait()
                outbound.cancel_scope.cancel()
            if self._is_orderly:
                with trio.move_on_after(LINGER_S):
                    await self._linger()
        finally:
            self.close("connection closed", flush=False)
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.aclose_forcefully(self._stream)

    def close(self, reason: str, *, flush: bool = True, orderly: bool = False) -> None:
        """End every stream and the connection. `flush` lets what was written go out first;
        `orderly` also waits a moment for the peer to hang up.
        """
        if self.is_closed:
            return
        self.closed_because = reason
        self._may_flush = flush
        self._is_orderly = orderly
        self.processor.close(reason)
        self._outbox.has_some.set()
        self._closing.set()

    def go_away(self, error: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Announce that no new stream is taken; those in flight may end, then the link closes."""
        if self.is_closed or self.is_going_away:
            return
        self.is_going_away = True
        # h2's own close_connection() shuts its state machine, which the calls in flight still need.
        frame = GoAwayFrame(
            0, last_stream_id=self._h2.highest_inbound_stream_id, error_code=int(error)
        )
        self._outbox.write(frame.serialize())
        self.on_release()

    def on_release(self) -> None:
        """A stream was given back: a link that is going away ends with its last stream."""
        if self.is_going_away and not self.processor.streams:
            self.close("the connection was drained", orderly=True)

    def on_event(self, event: h2.events.Event) -> None:
        """Look at an event before its stream does."""
        if isinstance(event, h2.events.DataReceived):
            is_idle = not event.data and event.stream_ended is None
        elif isinstance(event, h2.events.WindowUpdated):
            is_idle = self._outbox.updates_owed < 1
            self._outbox.updates_owed = max(0, self._outbox.updates_owed - 1)
        else:
            is_idle = isinstance(event, _IDLE_EVENTS)
        if is_idle and not self._flood.take():
            _log().info("rpc_flood_cut_off", peer=self.peer_address, kind=type(event).__name__)
            self.go_away(ErrorCodes.ENHANCE_YOUR_CALM)
            self.close("the peer sends too many frames that carry nothing")
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            self.ready.set()
            # The peer may allow the encoder any size; what is kept for it would be kept by us.
            self._h2.encoder.header_table_size = min(
                self._h2.encoder.header_table_size, MAX_HEADER_TABLE_BYTES
            )
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._on_go_away(event)

    def _on_go_away(self, event: h2.events.ConnectionTerminated) -> None:
        reason = f"the peer is going away (code {int(event.error_code or 0)})"
        if event.error_code != ErrorCodes.NO_ERROR:
            self.close(reason, flush=False)
            return
        self.is_going_away = True
        self.connection.refusal = reason
        for stream_id, stream in list(self.processor.streams.items()):
            if stream_id > (event.last_stream_id or 0) and stream_id % 2 == 1:
                stream.__terminated__(reason)
        self.on_release()

    def _start_h2(self) -> None:
        self._h2.initiate_connection()
        extra = self.config.connection_window_bytes - self._h2.inbound_flow_control_window
        if extra > 0:
            self._h2.increment_flow_control_window(extra)
        self.connection.flush()

    async def _read_all(self) -> None:
        read_bytes = READ_BYTES
        while True:
            data = await self._read(read_bytes)
            if not data:
                self.close("the peer hung up")
                return
            self._last_received_at = trio.current_time()
            self._activity.set()
            count = self._receive(data)
            read_bytes = SUSPECT_READ_BYTES if count > SUSPECT_EVENTS else READ_BYTES

    async def _read(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(broken_reason(error), flush=False)
            return b""

    def _receive(self, data: bytes) -> int:
        try:
            events = self._h2.receive_data(data)
        except Exception as error:
            # Not only h2's own errors: hostile headers reach the codecs below it.
            _log().debug("rpc_protocol_error", peer=self.peer_address, error=repr(error))
            self.connection.flush()
            self.close("the peer broke the HTTP/2 protocol")
            return 0
        if is_hoarding(
            self._h2,
            max_frame_bytes=self.config.max_frame_bytes,
            max_header_bytes=self.config.max_header_bytes,
        ):
            self.close("the peer sends frames or headers that are too long")
            return 0
        for event in events:
            if self.is_closed:
                break
            self.processor.process(event)
        if not self.is_closed:
            self.connection.flush()
        return len(events)

    async def _write_all(self) -> None:
        outbox = self._outbox
        try:
            while True:
                await outbox.has_some.wait()
                outbox.has_some.clear()
                data, outbox.pending = outbox.pending, bytearray()
                if not data and self.is_closed:
                    return
                outbox.in_flight = len(data)
                await self._stream.send_all(data)
                outbox.in_flight = 0
                if len(outbox.pending) <= self.config.send_buffer_bytes:
                    self.connection.write_ready.set()
                if self.is_closed:
                    outbox.has_some.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(broken_reason(error), flush=False)
        finally:
            self._flushed.set()

    async def _keep_alive(self) -> None:
        if self.config.keepalive_s is None:
            return
        while True:
            due_at = self._last_received_at + self.config.keepalive_s
            if trio.current_time() < due_at:
                await trio.sleep_until(due_at)
                continue
            self._activity = trio.Event()
            self._h2.ping(b"hivemind")
            self.connection.flush()
            with trio.move_on_after(self.config.keepalive_timeout_s) as waiting:
                await self._activity.wait()
            if waiting.cancelled_caught:
                self.close("the peer no longer answers (keepalive)", flush=False)
                return

    async def _await_ready(self) -> None:
        with trio.move_on_after(self.config.handshake_s):
            await self.ready.wait()
            return
        self.close("the peer sent no HTTP/2 settings in time", flush=False)

    async def _linger(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
        while await self._read(READ_BYTES):
            pass


def _log() -> "structlog.stdlib.BoundLogger":
    # A client's command rarely has anything to log, and importing structlog takes a ninth of its
    # start.
    import structlog

    return structlog.get_logger(__name__)  # type: ignore[no-any-return]


def _h2_connection(*, is_client: bool, config: TransportConfig) -> H2Connection:
    connection = H2Connection(
        H2Configuration(
            client_side=is_client,
            header_encoding="ascii",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    # Every value is in the first SETTINGS: changed by a second one they would hold only after the
    # peer's acknowledgement, and h2 would cut off a peer that used them before.
    connection.local_settings = Settings(
        client=is_client,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: config.max_concurrent_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: config.stream_window_bytes,
            SettingCodes.MAX_FRAME_SIZE: config.max_frame_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: config.max_header_bytes,
        },
    )
    connection.max_inbound_frame_size = config.max_frame_bytes
    connection.decoder.max_header_list_size = config.max_header_bytes
    watch_goaway(connection)
    return connection


@attrs.frozen
class HandshakeRefusal:
    """Why TLS was not agreed on."""

    reason: str
    certificate_fault: str = ""
    """What is wrong with the peer's certificate, where it was that."""


async def handshake(stream: trio.abc.Stream, deadline_s: float) -> HandshakeRefusal | None:
    """Finish TLS where `stream` has it; why that failed, or None."""
    if not isinstance(stream, trio.SSLStream):
        return None
    with trio.move_on_after(deadline_s):
        return await _shake_hands(stream)
    return HandshakeRefusal("TLS was not finished in time")


async def _shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> HandshakeRefusal | None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        fault = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else ""
        return HandshakeRefusal(broken_reason(error), fault)
    if stream.selected_alpn_protocol() != "h2":
        return HandshakeRefusal("the peer does not offer HTTP/2 (ALPN h2)")
    return None


async def tell_alert(stream: trio.abc.Stream) -> None:
    """Send what TLS has to say to the peer of a handshake that failed, and hear it out a moment.

    Trio drops it, and the peer would not learn that it was its certificate that was refused.
    """
    if not isinstance(stream, trio.SSLStream):
        return
    raw = stream.transport_stream
    with (
        trio.move_on_after(LINGER_S),
        suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
    ):
        if alert := stream._outgoing.read():
            await raw.send_all(alert)
        await raw.send_eof()
        while await raw.receive_some(READ_BYTES):
            pass


def certificate_alert(reason: str) -> str:
    """The peer's word for what is wrong with our certificate, where ``reason`` holds one."""
    return next((said for alert, said in _CERTIFICATE_ALERTS.items() if alert in reason), "")


_CERTIFICATE_ALERTS = {
    "ALERT_CERTIFICATE_REQUIRED": "it wants one",
    "ALERT_UNKNOWN_CA": "another authority signed it",
    "ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "ALERT_BAD_CERTIFICATE": "it is not valid",
    "ALERT_UNSUPPORTED_CERTIFICATE": "it is not for clients",
    "ALERT_CERTIFICATE_UNKNOWN": "it is not accepted",
}
"""By OpenSSL's names of TLS's alerts (RFC 8446, section 6.2)."""


def broken_reason(error: BaseException) -> str:
    """What a broken connection has to say for itself, in one line."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    return "the connection broke"
