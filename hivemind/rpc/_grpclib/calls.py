# ruff: noqa: ANN401 - grpclib says Any where it means a message
"""grpclib's server stream, client stream and channel, with names for what is read of them."""

import math
import struct
from typing import Any, Generic, TypeVar, cast

import grpclib.client
import grpclib.server
from grpclib.const import Handler
from grpclib.encoding.base import CodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import _DispatchChannelEvents, _DispatchServerEvents
from grpclib.exceptions import ProtocolError
from grpclib.metadata import Deadline, _Metadata

from hivemind.rpc._grpclib.transport import Headers, LinkStream

Metadata = _Metadata
ServerDispatch = _DispatchServerEvents
ChannelDispatch = _DispatchChannelEvents
R = TypeVar("R")
S = TypeVar("S")


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

    def encode(self, message: S, tail_bytes: int) -> bytes:
        """The message with its prefix, as it stands before ``tail_bytes`` more."""
        encoded = self._codec.encode(message, self._send_type)
        return struct.pack(">BI", 0, len(encoded) + tail_bytes) + encoded

    async def begin_sending(self) -> None:
        """Send the headers, unless they were sent.

        Raises ProtocolError where the one message of the reply was sent already.
        """
        if self._send_message_done and not self._cardinality.server_streaming:
            raise ProtocolError("the reply was sent already")
        if not self._send_initial_metadata_done:
            await self.send_initial_metadata()

    def note_sent(self) -> None:
        """A message was sent to its end."""
        self._send_message_done = True


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
