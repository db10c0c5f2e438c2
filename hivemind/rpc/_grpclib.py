# ruff: noqa: ANN401 - grpclib and the generated code say Any where they mean a message
"""The one place that leans on names which grpclib 0.4.9, betterproto2 and h2 do not promise.

grpclib is written for asyncio, but little of it needs a loop: its HTTP/2 stream, its events, its
server and client streams are plain coroutines that wait on events. The classes here put Trio's
under them and give what the rest of this package needs a public name. A test checks that each
private name still exists in the expected shape; the version is pinned for the same reason.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
import betterproto2
import grpclib.client
import grpclib.server
import trio
from betterproto2.grpclib import ServiceBase, ServiceStub
from grpclib._typing import IServable
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchChannelEvents, _DispatchServerEvents
from grpclib.exceptions import StreamTerminatedError
from grpclib.metadata import (
    Deadline,
    _Metadata,
    decode_grpc_message,
    decode_metadata,
    encode_grpc_message,
)
from grpclib.protocol import Connection, EventsProcessor, Peer, Stream
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.events import Event as H2Event
from h2.events import StreamReset as H2StreamReset
from h2.exceptions import StreamClosedError
from hyperframe.frame import GoAwayFrame

from hivemind.rpc._flow import Buffer, Gate

__all__ = [
    "CallAcceptor",
    "CallChannel",
    "Cardinality",
    "ClientCallStream",
    "Deadline",
    "Handler",
    "Headers",
    "IServable",
    "LinkConnection",
    "LinkProcessor",
    "LinkStream",
    "Metadata",
    "Peer",
    "ServerCallStream",
    "ServerDispatch",
    "ServiceStub",
    "Status",
    "StreamReset",
    "StreamTerminatedError",
    "StubBase",
    "WireDeadline",
    "adopt_service",
    "decode_grpc_message",
    "decode_metadata",
    "encode_grpc_message",
    "is_hoarding",
    "watch_goaway",
]

Headers = list[tuple[str, str]]
Metadata = _Metadata
ServerDispatch = _DispatchServerEvents
ChannelDispatch = _DispatchChannelEvents
R = TypeVar("R")
S = TypeVar("S")

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


class ServerCallStream(grpclib.server.Stream[R, S], Generic[R, S]):
    """grpclib's server stream, with names for what this package reads of it."""

    def __init__(
        self,
        h2_stream: LinkStream,
        method: str,
        handler: Handler,
        *,
        dispatch: ServerDispatch,
        deadline: Deadline | None,
        user_agent: str | None,
    ) -> None:
        super().__init__(
            h2_stream,
            method,
            handler.cardinality,
            handler.request_type,
            handler.reply_type,
            codec=ProtoCodec(),
            status_details_codec=None,
            dispatch=dispatch,
            deadline=deadline,
            user_agent=user_agent,
        )
        self.h2_stream = h2_stream

    @property
    def is_answered(self) -> bool:
        """Whether the reply of a unary method was sent; True for methods that stream replies."""
        return self._cardinality.server_streaming or self._send_message_done

    @property
    def takes_many(self) -> bool:
        """Whether the method takes a stream of requests."""
        return bool(self._cardinality.client_streaming)

    @property
    def is_closed(self) -> bool:
        """Whether the handler itself ended the call."""
        return self._send_trailing_metadata_done or self._cancel_done

    @property
    def recv_type(self) -> type[R]:
        """The type of what is received."""
        return self._recv_type

    def decode(self, data: bytes) -> R:
        """The message that `data` encodes; any exception means that it does not."""
        return cast("R", self._codec.decode(data, self._recv_type))

    async def notify(self, message: R) -> R:
        """Show an arrived message to the listeners."""
        (message,) = await self._dispatch.recv_message(message)
        return message


class ClientCallStream(grpclib.client.Stream[S, R], Generic[S, R]):
    """grpclib's client stream, with names for what this package reads of it."""

    _stream: LinkStream

    @property
    def is_sent(self) -> bool:
        """Whether the request went out, so that there is a stream to close."""
        return self._send_request_done

    @property
    def h2_stream(self) -> LinkStream:
        """The HTTP/2 stream; only where `is_sent`."""
        return self._stream

    @property
    def channel(self) -> Any:
        """The channel that the call goes through."""
        return self._channel

    @property
    def method(self) -> str:
        """The path of the method."""
        return self._method_name

    def enter(self, wrapper: Any) -> None:
        """Use `wrapper` around everything that waits."""
        self._wrapper = wrapper

    @property
    def wrapper(self) -> Any:
        """What is around everything that waits."""
        return self._wrapper

    @property
    def has_initial_metadata(self) -> bool:
        """Whether the reply's first headers were read."""
        return self._recv_initial_metadata_done

    @property
    def is_finished(self) -> bool:
        """Whether the status of the call was read, or the call was cancelled by us."""
        return self._recv_trailing_metadata_done or self._cancel_done

    def end_sending(self) -> None:
        """Let the answer be read to its end although the request was not: the server may answer
        before it has heard everything.
        """
        self._end_done = True

    def release(self) -> None:
        """Give the stream back to the connection."""
        self._release_stream()

    @property
    def recv_type(self) -> type[R]:
        """The type of what is received."""
        return self._recv_type

    def decode(self, data: bytes) -> R:
        """The message that `data` encodes; any exception means that it does not."""
        return cast("R", self._codec.decode(data, self._recv_type))

    async def notify(self, message: R) -> R:
        """Show an arrived message to the listeners."""
        (message,) = await self._dispatch.recv_message(message)
        return message

    def arrived_headers(self) -> Headers:
        """The last headers that came: trailers, else headers, else none."""
        return self._stream.trailers or self._stream.headers or []


class WireDeadline(Deadline):
    """A deadline that is never earlier on the wire than here: above ten seconds grpclib sends whole
    seconds, cut off.
    """

    def time_remaining(self) -> float:
        """Seconds left, rounded up where grpclib would round down."""
        remaining_s = super().time_remaining()
        return math.ceil(remaining_s) if remaining_s > 10 else remaining_s


class CallChannel(grpclib.client.Channel):
    """grpclib's channel, without its loop and its connecting."""

    def __init__(
        self, host: str, port: int, *, scheme: str, codec: CodecBase | None = None
    ) -> None:
        self._codec = codec or ProtoCodec()
        self._status_details_codec = None
        self._scheme = scheme
        self._authority = self._get_authority(host, port)
        self.__dispatch__ = ChannelDispatch()

    @property
    def codec(self) -> CodecBase:
        """What encodes and decodes the messages."""
        return self._codec

    def __repr__(self) -> str:
        return f"Channel({self._authority})"

    def __del__(self) -> None:
        pass


async def _serve_stream_of_replies(
    handler: Callable[[Any], Any], stream: Any, request: Any
) -> None:
    """Send what the handler yields; its generator is closed here, by the task that ran it."""
    replies = handler(request)
    if not isinstance(replies, AsyncIterable):
        # A method that never yields is a coroutine: it is run, and means an empty stream.
        await replies
        return
    async with aclosing(cast("Any", replies)) as iterator:
        async for reply in iterator:
            await stream.send_message(reply)


@attrs.frozen
class FieldShape:
    """How one field of a message looks on the wire."""

    number: int
    wire_type: int
    is_packable: bool
    message_type: type | None
    group: str | None


_WIRE_TYPES = {
    **dict.fromkeys(betterproto2.PACKED_TYPES, 0),
    **dict.fromkeys(("double", "fixed64", "sfixed64"), 1),
    **dict.fromkeys(("string", "bytes", "message", "map"), 2),
    **dict.fromkeys(("float", "fixed32", "sfixed32"), 5),
}


@functools.cache
def message_shape(message_type: type) -> Mapping[int, FieldShape]:
    """The fields of a generated message by their numbers."""
    known = cast("Any", message_type)._betterproto
    shapes = {}
    for name, meta in known.meta_by_field_name.items():
        inner = meta.unwrap() if meta.unwrap else known.cls_by_field[name]
        shapes[meta.number] = FieldShape(
            number=meta.number,
            wire_type=_WIRE_TYPES[meta.proto_type],
            is_packable=bool(meta.repeated) and meta.proto_type in betterproto2.PACKED_TYPES,
            message_type=inner if meta.proto_type in {"message", "map"} else None,
            group=meta.group,
        )
    return shapes


def adopt_service(service: IServable) -> None:
    """Make a generated service close its generators when a call ends.

    The generated base leaves them to the garbage collector, so that a cancelled handler would be
    cleaned up at some time, by another task.
    """
    if isinstance(service, ServiceBase):
        object.__setattr__(service, "_call_rpc_handler_server_stream", _serve_stream_of_replies)


MessageSource = AsyncIterable[Any] | Iterable[Any]


class StubBase(ServiceStub, ABC):
    """betterproto2's stub with the kinds of call that stream handed to two methods of ours."""

    @abstractmethod
    def open_replies(
        self, call: Any, *, request: Any = None, requests: MessageSource | None = None
    ) -> AsyncIterable[Any]:
        """The replies of `call`, which sends the one `request` or all `requests`."""

    @abstractmethod
    async def send_for_reply(self, call: Any, requests: MessageSource) -> Any:
        """The one reply of `call` to all `requests`."""

    def _open(self, *what: Any, **options: Any) -> Any:
        resolve = self._ServiceStub__resolve_request_kwargs  # type: ignore[attr-defined]
        return self.channel.request(*what, **resolve(**options))

    def _unary_stream(
        self,
        route: str,
        request: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.UNARY_STREAM, type(request), response_type)
        return self.open_replies(self._open(*what, **options), request=request)

    async def _stream_unary(
        self,
        route: str,
        request_iterator: MessageSource,
        request_type: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.STREAM_UNARY, request_type, response_type)
        return await self.send_for_reply(self._open(*what, **options), request_iterator)

    def _stream_stream(
        self,
        route: str,
        request_iterator: MessageSource,
        request_type: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        options = {"timeout": timeout, "deadline": deadline, "metadata": metadata}
        what = (route, Cardinality.STREAM_STREAM, request_type, response_type)
        return self.open_replies(self._open(*what, **options), requests=request_iterator)
