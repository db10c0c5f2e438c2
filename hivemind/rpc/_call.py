"""One call on the server, from its headers to its trailers."""

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import attrs
import structlog
import trio
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from hivemind.rpc import _messages
from hivemind.rpc._flow import TruncatedMessage
from hivemind.rpc._grpclib import (
    Deadline,
    Handler,
    Headers,
    LinkStream,
    ServerCallStream,
    ServerDispatch,
    Status,
    StreamTerminatedError,
    decode_metadata,
    encode_grpc_message,
)
from hivemind.rpc._spooled import split_field
from hivemind.rpc._wire import check_message
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget, Reservation
from hivemind.rpc.config import KIB, TransportConfig
from hivemind.rpc.context import CallContext, enter_call
from hivemind.rpc.errors import ERROR_CODE_KEY, CallRefused, ErrorCode, fail
from hivemind.rpc.spool import Spool, SpooledField

R = TypeVar("R")
S = TypeVar("S")

log = structlog.get_logger(__name__)

CLEANUP_S = 15.0
MAX_MESSAGE_CHARACTERS = 2000
BUDGETED_BYTES = 64 * KIB
"""Messages up to this size are not counted against the budget."""


@attrs.frozen
class CallSetting:
    """What all calls of one server share."""

    handlers: Mapping[str, Handler]
    config: TransportConfig
    authenticator: Authenticator
    budget: ByteBudget
    spool: Spool | None = None
    spooled: Mapping[str, SpooledField] = attrs.field(factory=dict)
    dispatch: ServerDispatch = attrs.field(factory=ServerDispatch)

    def __attrs_post_init__(self) -> None:
        if self.spooled and self.spool is None:
            raise ValueError("spooled methods need a spool")
        # Such a request would be on the disk before it is known who sent it.
        both = set(self.spooled) & (
            set(self.authenticator.message_tokens) | self.authenticator.open_methods
        )
        if both:
            raise ValueError(f"a spooled method takes its token from the metadata: {sorted(both)}")
        listen(_Target(self.dispatch), RecvRequest, self.authenticator.on_request)


@attrs.define
class _Target:
    __dispatch__: ServerDispatch


class CallStream(ServerCallStream[R, S]):
    """A server stream that judges messages by their prefix and hands back typed refusals."""

    def __init__(
        self,
        setting: CallSetting,
        context: CallContext,
        h2_stream: LinkStream,
        *,
        deadline: Deadline | None,
        user_agent: str | None,
    ) -> None:
        super().__init__(
            h2_stream,
            context.method,
            setting.handlers[context.method],
            dispatch=setting.dispatch,
            deadline=deadline,
            user_agent=user_agent,
        )
        self._setting = setting
        self._context = context
        self._held = Reservation(setting.budget)
        self._has_message = False
        self._uploads = AsyncExitStack()

    async def recv_message(self) -> R | None:
        """The next message, or None where the peer has ended its side.

        Raises:
            CallRefused: it is too large, compressed, undecodable, cut off or too slow.
        """
        self._held.release()
        try:
            body = await self._next_body()
        except TruncatedMessage as error:
            raise _messages.undecodable(error) from error
        if body is None:
            return None
        try:
            check_message(body, self.recv_type, max_fields=self._setting.config.max_message_fields)
            message = self.decode(body)
        except Exception as error:
            raise _messages.undecodable(error) from error
        if not self._has_message:
            self._has_message = True
            await self._setting.authenticator.on_message(self._context, message)
        return await self.notify(message)

    async def _next_body(self) -> bytes | None:
        config, buffer = self._setting.config, self.h2_stream.buffer
        is_stranger = self._context.principal is None
        spooled = self._setting.spooled.get(self._context.method)
        limit = config.message_limit(self._context.method, is_open=is_stranger)
        spool = self._setting.spool
        if spooled is not None and spool is not None:
            limit = spool.max_bytes + spooled.rest_bytes
        # A stranger's first message has a deadline; everyone else may be silent on a stream.
        wait_s = config.first_message_s if is_stranger and not self._has_message else float("inf")
        with trio.move_on_after(wait_s) as waiting:
            length = await _messages.read_prefix(buffer, limit)
        if waiting.cancelled_caught:
            raise fail(None, Status.DEADLINE_EXCEEDED, "no request came in time")
        if length is None:
            return None
        if length > BUDGETED_BYTES and spooled is None:
            await self._held.grow(length)
        deadline_s = _messages.body_seconds(
            length, grace_s=config.first_message_s, min_bytes_per_s=config.min_bytes_per_s
        )
        if spooled is not None and spool is not None:
            return await self._spool_body(spool, length, spooled, deadline_s)
        return await _messages.read_body(buffer, length, deadline_s)

    async def _spool_body(
        self, spool: Spool, length: int, spooled: SpooledField, deadline_s: float
    ) -> bytes:
        file = await self._uploads.enter_async_context(
            spool.open_file(announced_bytes=max(0, length - spooled.rest_bytes))
        )
        rest = await split_field(self.h2_stream.buffer, length, spooled, file, deadline_s)
        self._context.upload = file
        return rest

    async def release(self) -> None:
        """Give back what the call held, and remove an upload that was not kept."""
        self._held.release()
        await self._uploads.aclose()


class Call:
    """A call in flight; it stands where grpclib keeps its wrapper, to be told of resets."""

    def __init__(self, setting: CallSetting, h2_stream: LinkStream, headers: Headers) -> None:
        self._setting = setting
        self._h2_stream = h2_stream
        self._headers = headers
        self._scope = trio.CancelScope()
        self._terminated: str | None = None
        self._is_shut_down = False
        h2_stream.wrapper = self  # type: ignore[assignment]

    def cancel(self, error: Exception) -> None:
        """The peer has given up the call, or the connection is gone."""
        self._terminated = str(error)
        self._scope.cancel()

    def shut_down(self) -> None:
        """The server has no more time for the call: the peer gets UNAVAILABLE."""
        self._is_shut_down = True
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the call to its end; raises nothing but Cancelled."""
        stream: CallStream[Any, Any] | None = None
        try:
            refusal = self._check_headers()
            if refusal is not None:
                await self._abort(*refusal)
                return
            stream = self._open_stream()
            refused = await self._serve(stream)
            if self._terminated is None and not stream.is_closed:
                await self._finish(stream, refused)
        except (H2Error, StreamTerminatedError):
            log.debug("rpc_call_gone", method=self._path, reason=self._terminated)
        finally:
            if stream is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_S):
                    await stream.release()

    @property
    def _path(self) -> str:
        return dict(self._headers).get(":path", "")

    def _check_headers(self) -> tuple[int, Status | None, str] | None:
        headers = dict(self._headers)
        content_type = headers.get("content-type", "")
        if headers.get(":method") != "POST":
            return 405, None, ""
        if content_type.partition(";")[0] not in {"application/grpc", "application/grpc+proto"}:
            return 415, Status.UNKNOWN, "unacceptable content-type"
        if headers.get("te") != "trailers":
            return 400, Status.UNKNOWN, "the header `te: trailers` is missing"
        if self._path not in self._setting.handlers:
            return 200, Status.UNIMPLEMENTED, f"no such method: {self._path}"
        try:
            Deadline.from_headers(self._headers)
        except (ValueError, OverflowError):
            return 200, Status.INVALID_ARGUMENT, "the header grpc-timeout is not a time-out"
        try:
            decode_metadata(self._headers)
        except ValueError:
            return 200, Status.INVALID_ARGUMENT, "a binary header is not base64"
        return None

    async def _abort(self, http_status: int, status: Status | None, message: str) -> None:
        headers = [(":status", str(http_status)), ("content-type", "application/grpc")]
        if status is not None:
            headers.append(("grpc-status", str(status.value)))
            headers.append(("grpc-message", encode_grpc_message(_one_header(message))))
        await self._h2_stream.send_headers(headers, end_stream=True)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._h2_stream.closable:
            self._h2_stream.reset_nowait(ErrorCodes.NO_ERROR)

    def _open_stream(self) -> CallStream[Any, Any]:
        headers = dict(self._headers)
        deadline = Deadline.from_headers(self._headers)
        if deadline is not None:
            self._scope.deadline = trio.current_time() + deadline.time_remaining()
        peer = self._h2_stream.connection.get_peer()
        address = peer.addr()
        self._context = CallContext(
            method=self._path,
            peer=f"{address[0]}:{address[1]}" if address else "unknown",
            peer_certificate=peer.cert(),
        )
        stream: CallStream[Any, Any] = CallStream(
            self._setting,
            self._context,
            self._h2_stream,
            deadline=deadline,
            user_agent=headers.get("user-agent"),
        )
        stream.metadata = decode_metadata(self._headers)
        return stream

    async def _serve(self, stream: CallStream[Any, Any]) -> CallRefused | None:
        """Run the handler; what it is to be refused with, if anything."""
        enter_call(self._context)
        handler = self._setting.handlers[self._path]
        try:
            with self._scope:
                stream.metadata, method = await self._setting.dispatch.recv_request(
                    stream.metadata,
                    handler.func,
                    method_name=self._path,
                    deadline=stream.deadline,
                    content_type="application/grpc",
                    user_agent=stream.user_agent,
                    peer=stream.peer,
                )
                await method(stream)
        except Exception as error:
            return self._judge(error)
        if self._scope.cancelled_caught:
            if self._is_shut_down:
                return fail(None, Status.UNAVAILABLE, "the server is shutting down")
            return fail(None, Status.DEADLINE_EXCEEDED, "the call's deadline has passed")
        if not stream.is_answered and not stream.is_closed:
            return self._unforeseen(RuntimeError("the handler sent no reply"))
        return None

    def _judge(self, error: Exception) -> CallRefused:
        known = _sole_grpc_error(error)
        if known is None:
            if self._terminated is not None and _is_stream_gone(error):
                return fail(None, Status.CANCELLED, "the caller is gone")
            return self._unforeseen(error)
        if isinstance(known, CallRefused):
            return known
        return CallRefused(known.status, known.message or known.status.name)

    def _unforeseen(self, error: Exception) -> CallRefused:
        error_id = secrets.token_hex(6)
        log.error(
            "rpc_handler_failed",
            method=self._path,
            peer=self._context.peer,
            error_id=error_id,
            exc_info=error,
        )
        return fail(
            ErrorCode.INTERNAL_ERROR, Status.INTERNAL, f"an unforeseen fault, id {error_id}"
        )

    async def _finish(self, stream: CallStream[Any, Any], refused: CallRefused | None) -> None:
        code = self._context.error_code
        if refused is not None:
            code = refused.code if refused.code is not None else code
            if refused.status is Status.UNIMPLEMENTED:
                self._h2_stream.extra_trailers.append(("grpc-accept-encoding", "identity"))
        await stream.send_trailing_metadata(
            status=Status.OK if refused is None else refused.status,
            status_message=None if refused is None else _one_header(refused.message or ""),
            metadata={} if code is None else {ERROR_CODE_KEY: str(int(code))},
        )
        self._hang_up()


def _one_header(message: str) -> str:
    """`message` as HTTP/2 takes it for a header: no space at its ends, of bounded length."""
    return message[:MAX_MESSAGE_CHARACTERS].strip()


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _sole_grpc_error(error: BaseException) -> GRPCError | None:
    """The one GRPCError that `error` is or wraps; None where there is anything else in it."""
    leaves = _leaves(error)
    if len(leaves) == 1 and isinstance(leaves[0], GRPCError):
        return leaves[0]
    return None


def _is_stream_gone(error: BaseException) -> bool:
    return all(isinstance(leaf, H2Error | StreamTerminatedError) for leaf in _leaves(error))
