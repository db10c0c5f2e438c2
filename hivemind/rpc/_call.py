"""One call on the server, from its headers to its trailers."""

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import structlog
import trio
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from hivemind.rpc._call_stream import CallSetting, CallStream
from hivemind.rpc._grpclib import (
    Headers,
    LinkStream,
    Status,
    StreamTerminatedError,
    encode_grpc_message,
)
from hivemind.rpc._request import Rejected, Request, read_request
from hivemind.rpc.auth import Principal, unauthenticated
from hivemind.rpc.budget import Reservation
from hivemind.rpc.context import CallContext, enter_call
from hivemind.rpc.errors import ERROR_CODE_KEY, CallRefused, ErrorCode, fail

CLEANUP_S = 15.0
MAX_MESSAGE_CHARACTERS = 2000

_STRANGERS = "strangers"
"""On whose account the replies to those are held who show no token: together they have a share."""

log = structlog.get_logger(__name__)


class CallOwner(Protocol):
    """The connection, which knows its other calls."""

    def admit(self, call: "Call", *, owner: str | None) -> str | None: ...

    def __hash__(self) -> int: ...


class Call:
    """A call in flight; it stands where grpclib keeps its wrapper, to be told of resets."""

    def __init__(
        self, setting: CallSetting, h2_stream: LinkStream, headers: Headers, owner: CallOwner
    ) -> None:
        self._setting = setting
        self._h2_stream = h2_stream
        self._headers = headers
        self._owner = owner
        self._scope = trio.CancelScope()
        self._terminated: str | None = None
        self._is_shut_down = False
        self._loses_token = self._has_lost_token = False
        self._context: CallContext | None = None
        h2_stream.wrapper = self  # type: ignore[assignment]

    def cancel(self, error: Exception) -> None:
        """The peer has given up the call, or the connection is gone."""
        self._terminated = str(error)
        self._scope.cancel()

    def shut_down(self) -> None:
        """The server has no more time for the call: the peer gets UNAVAILABLE."""
        self._is_shut_down = True
        self._scope.cancel()

    def recheck(self, still_good: Callable[[Principal], bool]) -> None:
        """End it with UNAUTHENTICATED where the token that it came with is good no more.

        Only the second time, for the call that revokes its own token is to be answered.
        """
        principal = None if self._context is None else self._context.principal
        if principal is None or still_good(principal):
            return
        if self._loses_token:
            self._has_lost_token = True
            self._scope.cancel()
        self._loses_token = True

    async def run(self) -> None:
        """Serve the call to its end."""
        try:
            request = read_request(self._headers, self._setting.handlers)
            await self._run(request)
        except Rejected as rejected:
            await self._reject(rejected)
        except (H2Error, StreamTerminatedError):
            log.debug("rpc_call_gone", reason=self._terminated)

    async def _run(self, request: Request) -> None:
        context = self._context = self._new_context(request)
        stream: CallStream[Any, Any] = CallStream(
            self._setting,
            context,
            self._h2_stream,
            deadline=request.deadline,
            user_agent=request.user_agent,
            on_known=lambda: self._admit(context),
        )
        if request.deadline is not None:
            self._scope.deadline = trio.current_time() + request.deadline.time_remaining()
        try:
            refused = await self._serve(request, stream, context)
            if self._terminated is None and not stream.is_closed:
                await self._finish(stream, refused, context)
        finally:
            stream.give_back()
            if stream.has_upload:
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await stream.remove_upload()

    def _new_context(self, request: Request) -> CallContext:
        peer = self._h2_stream.connection.get_peer()
        return CallContext(
            method=request.path, peer=peer_name(peer.addr()), peer_certificate=peer.cert()
        )

    async def _serve(
        self, request: Request, stream: CallStream[Any, Any], context: CallContext
    ) -> CallRefused | None:
        """Run the handler; what it is to be refused with, if anything."""
        enter_call(context)
        try:
            with self._scope:
                await self._invoke(request, stream, context)
        except Exception as error:
            return self._judge(error, context)
        if self._scope.cancelled_caught:
            if self._has_lost_token:
                return unauthenticated("this token was revoked; log in again")
            if self._is_shut_down:
                return fail(None, Status.UNAVAILABLE, "the server is shutting down")
            return fail(None, Status.DEADLINE_EXCEEDED, "the call's deadline has passed")
        if not stream.is_answered and not stream.is_closed:
            return self._unforeseen(RuntimeError("the handler sent no reply"), context)
        return None

    async def _invoke(
        self, request: Request, stream: CallStream[Any, Any], context: CallContext
    ) -> None:
        # By connection: whose call it is, is not known yet.
        await self._setting.turns.take(self._owner)
        with self._setting.turns.working():
            stream.metadata, method = await self._setting.dispatch.recv_request(
                request.metadata,
                self._setting.handlers[request.path].func,
                method_name=request.path,
                deadline=request.deadline,
                content_type="application/grpc",
                user_agent=request.user_agent,
                peer=stream.peer,
            )
        self._admit(context)
        await method(stream)

    def _admit(self, context: CallContext) -> None:
        """Count the call as what it is known to be by now. Raises CallRefused."""
        refusal = self._owner.admit(self, owner=context.owner)
        if refusal is not None:
            raise fail(None, Status.RESOURCE_EXHAUSTED, refusal)
        context.reply_held = Reservation(self._setting.reply_budget, context.owner or _STRANGERS)

    def _judge(self, error: Exception, context: CallContext) -> CallRefused:
        known = _sole_grpc_error(error)
        if known is None:
            if self._terminated is not None and _is_stream_gone(error):
                return fail(None, Status.CANCELLED, "the caller is gone")
            return self._unforeseen(error, context)
        if isinstance(known, CallRefused):
            return known
        return CallRefused(known.status, known.message or known.status.name)

    def _unforeseen(self, error: Exception, context: CallContext) -> CallRefused:
        error_id = secrets.token_hex(6)
        log.error(
            "rpc_handler_failed",
            method=context.method,
            peer=context.peer,
            error_id=error_id,
            exc_info=error,
        )
        return fail(
            ErrorCode.INTERNAL_ERROR, Status.INTERNAL, f"an unforeseen fault, id {error_id}"
        )

    async def _finish(
        self, stream: CallStream[Any, Any], refused: CallRefused | None, context: CallContext
    ) -> None:
        code = context.error_code
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

    async def _reject(self, rejected: Rejected) -> None:
        headers = [(":status", str(rejected.http_status)), ("content-type", "application/grpc")]
        if rejected.status is not None:
            headers.append(("grpc-status", str(rejected.status.value)))
            headers.append(("grpc-message", encode_grpc_message(_one_header(rejected.message))))
        with suppress(H2Error, StreamTerminatedError):
            await self._h2_stream.send_headers(headers, end_stream=True)
            self._hang_up()

    def _hang_up(self) -> None:
        # The caller may still be sending: it need not.
        if self._h2_stream.closable:
            self._h2_stream.reset_nowait(ErrorCodes.NO_ERROR)


def peer_name(address: tuple[Any, ...] | None) -> str:
    """`host:port`, `[host]:port` for IPv6."""
    if not address:
        return "unknown"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
