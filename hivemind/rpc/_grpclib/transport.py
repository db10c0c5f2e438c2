# ruff: noqa: ANN401 - grpclib says Any where it means a message
"""grpclib's connection, stream and events processor on Trio's events."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import trio
from grpclib.config import Configuration
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import Connection, EventsProcessor, Stream
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.events import Event as H2Event
from h2.events import StreamReset as H2StreamReset
from h2.exceptions import StreamClosedError
from hyperframe.frame import GoAwayFrame

from hivemind.rpc._flow import Buffer, Gate

Headers = list[tuple[str, str]]

MAX_SENT_FRAME_BYTES = 64 * 1024
"""However large a frame the peer would take, so much is sent before others have their turn."""
SENDS_BEFORE_YIELD = 16
"""A sender whose peer keeps up lets the other tasks run after this many messages."""


class Transport(Protocol):
    """What grpclib asks of an asyncio transport."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def get_extra_info(self, name: str) -> object: ...


class LinkOwner(Protocol):
    """What the processor tells the connection that owns it."""

    def on_event(self, event: H2Event) -> None: ...
    def on_release(self) -> None: ...


class CallAcceptor(Protocol):
    """Who is told of a call that the peer starts."""

    def accept(
        self, stream: "LinkStream", headers: Headers, release: Callable[[], None]
    ) -> None: ...


class StreamReset(StreamTerminatedError):
    """The peer ended one stream, for a reason that it gave as an HTTP/2 error code."""

    def __init__(self, code: int) -> None:
        try:
            name = ErrorCodes(code).name
        except ValueError:
            name = str(code)
        super().__init__(f"the peer reset the stream ({name})")
        self.code = code


class LinkConnection(Connection):
    """grpclib's connection on Trio's events."""

    def __init__(self, h2: H2Connection, transport: Transport) -> None:
        super().__init__(h2, cast("Any", transport), config=Configuration())
        self.h2 = h2
        self.write_ready: Gate = Gate(is_open=True)  # type: ignore[assignment]
        self.stream_close_waiter: Gate = Gate()  # type: ignore[assignment]
        self.window_waiters: set[LinkStream] = set()
        self.refusal: str | None = None
        """Why no new stream may be opened here."""

    def ack(self, stream_id: int, size: int) -> None:
        """Give the peer room for `size` more bytes."""
        if size and not self.is_closing():
            self.h2.acknowledge_received_data(size, stream_id)
            self.flush()

    def flush(self) -> None:
        """Pass what h2 wants to send to the writer."""
        data = self.h2.data_to_send()
        if data:
            self._transport.write(data)

    def create_stream(self, *, stream_id: int | None = None, wrapper: Any = None) -> "LinkStream":
        """A stream of this connection.

        Raises:
            StreamTerminatedError: the connection takes no new ones.
        """
        if self.refusal is not None and stream_id is None:
            raise StreamTerminatedError(self.refusal)
        return LinkStream(self, self.h2, self._transport, stream_id=stream_id, wrapper=wrapper)

    def close(self) -> None:
        """Close the transport; grpclib's own would also take the attributes away."""
        self._transport.close()

    def fail(self, reason: str) -> None:
        """Make everyone who waits to send, now and later, raise StreamTerminatedError."""
        self.refusal = self.refusal or reason
        self.write_ready.fail(StreamTerminatedError(reason))
        self.stream_close_waiter.fail(StreamTerminatedError(reason))


class LinkStream(Stream):
    """grpclib's HTTP/2 stream on Trio's events."""

    id: int
    connection: LinkConnection
    buffer: Buffer  # type: ignore[assignment]

    def __init__(
        self,
        connection: LinkConnection,
        h2: H2Connection,
        transport: Any,
        *,
        stream_id: int | None = None,
        wrapper: Any = None,
    ) -> None:
        self.connection = connection
        self._h2_connection = h2
        self._transport = transport
        self.wrapper = wrapper
        self.window_updated: Gate = Gate()  # type: ignore[assignment]
        self.headers: Headers | None = None
        self.headers_received: Gate = Gate()  # type: ignore[assignment]
        self.trailers: Headers | None = None
        self.trailers_received: Gate = Gate()  # type: ignore[assignment]
        self.extra_trailers: Headers = []
        """Headers of gRPC's own that grpclib has no way to send, added to the last block."""
        self.terminated: StreamTerminatedError | None = None
        self.ended = False
        self._sends = 0
        if stream_id is not None:
            self.init_stream(stream_id, connection)

    def init_stream(self, stream_id: int, connection: Connection) -> None:
        """Take the number of the stream."""
        self.id = stream_id
        self.buffer = Buffer(partial(connection.ack, stream_id))

    async def send_headers(self, headers: Headers, end_stream: bool = False) -> None:
        """Send a block of headers; the last one does not wait behind unsent data of others."""
        if not end_stream:
            await self.connection.write_ready.wait()
        self._check()
        if end_stream:
            headers = [*headers, *self.extra_trailers]
        self._h2_connection.send_headers(self.id, headers, end_stream=end_stream)
        self.connection.flush()

    async def send_data(self, data: bytes, end_stream: bool = False) -> None:
        """Send `data` as the peer's window and the writer's buffer have room for it.

        Raises:
            StreamTerminatedError: the peer reset the stream, or the connection is gone.
        """
        h2, sent, total = self._h2_connection, 0, len(data)
        self._sends += 1
        if self._sends % SENDS_BEFORE_YIELD == 0:
            await trio.lowlevel.checkpoint()
        while True:
            await self.connection.write_ready.wait()
            self._check()
            window = h2.local_flow_control_window(self.id)
            if window <= 0 < total - sent:
                await self._wait_for_window()
                continue
            piece = data[
                sent : sent + min(window, h2.max_outbound_frame_size, MAX_SENT_FRAME_BYTES)
            ]
            sent += len(piece)
            is_last = sent == total
            h2.send_data(self.id, piece, end_stream=end_stream and is_last)
            self.connection.flush()
            if is_last:
                return

    def has_room_for(self, size: int) -> bool:
        """Whether so much would be sent at once."""
        return (
            size <= MAX_SENT_FRAME_BYTES
            and self.connection.write_ready.is_set()
            and self.terminated is None
            and self.id in self._h2_connection.streams
            and size <= self._h2_connection.local_flow_control_window(self.id)
        )

    async def _wait_for_window(self) -> None:
        self.window_updated.clear()
        self.connection.window_waiters.add(self)
        try:
            await self.window_updated.wait()
        finally:
            self.connection.window_waiters.discard(self)

    def _check(self) -> None:
        if self.terminated is not None:
            raise self.terminated
        if self.id not in self._h2_connection.streams:
            raise StreamClosedError(self.id)

    def reset_nowait(self, error_code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Reset the stream at once."""
        self._h2_connection.reset_stream(self.id, error_code=error_code)
        self.connection.flush()

    def __ended__(self) -> None:
        self.ended = True
        self.buffer.eof()

    def __terminated__(self, reason: str) -> None:
        self.terminate(StreamTerminatedError(reason))

    def terminate(self, error: StreamTerminatedError) -> None:
        """End the stream: whoever waits on it, now or later, raises `error`."""
        self.terminated = error
        self.window_updated.set()
        # A reply that is complete stays readable, whatever becomes of its stream afterwards.
        if not (self.ended and self.headers_received.is_set()) and self.wrapper is not None:
            self.wrapper.cancel(error)


class LinkProcessor(EventsProcessor):
    """grpclib's events processor: it also survives frames it does not know, and lets go cheaply."""

    connection: LinkConnection

    def __init__(
        self, acceptor: CallAcceptor, connection: LinkConnection, owner: LinkOwner
    ) -> None:
        super().__init__(cast("Any", acceptor), connection)
        self._owner = owner

    def register(self, stream: Stream) -> Callable[[], None]:
        """Enter the stream; the returned function takes it out again, once."""
        streams = self.streams
        streams[cast("int", stream.id)] = stream

        def release() -> None:
            if streams.pop(cast("int", stream.id), None) is None:
                return
            self.connection.stream_close_waiter.set()
            self.connection.ack(cast("int", stream.id), stream.buffer.unacked_size())
            self._owner.on_release()

        return release

    def process(self, event: H2Event) -> None:
        """Hand one event to its stream; kinds that mean nothing to gRPC are only counted."""
        self._owner.on_event(event)
        process: Any = self.processors.get(type(event))
        if process is not None:
            process(event)

    def process_window_updated(self, event: Any) -> None:
        """Wake the senders that wait for room."""
        if event.stream_id == 0:
            for waiter in list(self.connection.window_waiters):
                waiter.window_updated.set()
        else:
            super().process_window_updated(event)

    def process_stream_reset(self, event: H2StreamReset) -> None:
        """End the stream that the peer reset, or whose frames broke the protocol."""
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            cast("LinkStream", stream).terminate(StreamReset(int(event.error_code or 0)))

    def process_connection_terminated(self, event: ConnectionTerminated) -> None:
        """GOAWAY is the owner's business, who saw it in `on_event`."""

    def close(self, reason: str = "connection closed") -> None:
        """End every stream for `reason`."""
        self.connection.fail(reason)
        for stream in list(self.streams.values()):
            stream.__terminated__(reason)


def watch_goaway(h2: H2Connection) -> None:
    """Have GOAWAY reported without closing h2's state machine.

    h2 refuses every frame after a GOAWAY, so that calls in flight, which the peer promised to
    finish, could not end.
    """

    def receive(frame: GoAwayFrame) -> tuple[list[Any], list[H2Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]

    h2._frame_dispatch_table[GoAwayFrame] = receive


def is_hoarding(h2: H2Connection, *, max_frame_bytes: int, max_header_bytes: int) -> bool:
    """Whether the peer has begun a frame or a block of headers that is too long to be taken.

    h2 says so only once all of it has arrived, up to 16 MiB for a frame.
    """
    buffer = h2.incoming_buffer
    begun = bytes(buffer._data[:3])
    if len(begun) == 3 and int.from_bytes(begun, "big") > max_frame_bytes:
        return True
    return sum(len(frame.data) for frame in buffer._headers_buffer) > max_header_bytes
