"""One call of the client: grpclib's client stream on Trio, with typed errors."""

import struct
from collections.abc import AsyncIterable
from types import TracebackType
from typing import TypeVar

import trio
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from hivemind.rpc import _messages
from hivemind.rpc._flow import TruncatedMessage
from hivemind.rpc._grpclib import ClientCallStream, Status, StreamReset, decode_grpc_message
from hivemind.rpc._wire import check_message
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.errors import (
    ERROR_CODE_KEY,
    CallRefused,
    DeadlineExceeded,
    RemoteError,
    Unreachable,
    error_code_of,
)

S = TypeVar("S")
R = TypeVar("R")


_RESET_STATUS = {
    int(ErrorCodes.NO_ERROR): Status.INTERNAL,
    int(ErrorCodes.PROTOCOL_ERROR): Status.INTERNAL,
    int(ErrorCodes.INTERNAL_ERROR): Status.INTERNAL,
    int(ErrorCodes.CANCEL): Status.CANCELLED,
    int(ErrorCodes.ENHANCE_YOUR_CALM): Status.RESOURCE_EXHAUSTED,
}
"""What a reset without a status means, by gRPC's protocol document; a refused stream was not looked
at by the server, which is no different from not having reached it."""


class OperationScopes:
    """What is around each operation of a call that waits: the call's deadline, and its end.

    grpclib enters one such object around every operation, from any task, so that it keeps a stack
    of scopes for each task. No scope outlives an operation: a call may span a `yield`.
    """

    def __init__(self, deadline_at: float) -> None:
        self._deadline_at = deadline_at
        self._open: dict[trio.lowlevel.Task, list[trio.CancelScope]] = {}
        self._error: Exception | None = None

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error
        scope = trio.CancelScope(deadline=self._deadline_at)
        scope.__enter__()
        self._open.setdefault(trio.lowlevel.current_task(), []).append(scope)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        task = trio.lowlevel.current_task()
        scope = self._open[task].pop()
        if not self._open[task]:
            del self._open[task]
        is_swallowed = bool(scope.__exit__(kind, error, traceback))
        if scope.cancelled_caught:
            raise self._error or DeadlineExceeded("the call's deadline has passed")
        return is_swallowed

    def cancel(self, error: Exception) -> None:
        """End what waits, and all that is entered from now on, with `error`."""
        self._error = error
        for scopes in self._open.values():
            for scope in scopes:
                scope.cancel()


class ClientCall(ClientCallStream[S, R]):
    """A call in flight; leaving its block before the answer is complete cancels it."""

    deadline_at = float("inf")
    """By Trio's clock."""

    async def __aenter__(self) -> "ClientCall[S, R]":
        self.enter(OperationScopes(self.deadline_at))
        await trio.lowlevel.checkpoint_if_cancelled()
        return self

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        failure = exc_val
        try:
            if failure is None and self.is_sent:
                await self.finish()
        except Exception as late:
            failure = late
        finally:
            self.let_go()
        if failure is None:
            return
        seen = self.translated(failure)
        await let_deadline_win(seen)
        if seen is not failure:
            raise seen from failure
        if failure is not exc_val:
            raise failure

    # Not a clean-up to be shielded: waiting for the status must stay cancellable.
    __aexit__ = _leave

    async def send_pieces(self, length: int, pieces: AsyncIterable[bytes]) -> None:
        """Send the one message of a unary call, encoded in `length` bytes, as its pieces come."""
        if not self.is_sent:
            await self.send_request()
        left = length
        with self.wrapper:
            await self.h2_stream.send_data(struct.pack(">BI", 0, length), end_stream=not length)
        async for piece in pieces:
            left -= len(piece)
            with self.wrapper:
                await self.h2_stream.send_data(piece, end_stream=not left)
        if left:
            raise ValueError(f"a message of {length} bytes came in {length - left}")
        self.end_sending()

    async def finish(self) -> None:
        """Read what is left of the answer, its status above all."""
        if self.is_finished:
            return
        self.end_sending()
        if not self.has_initial_metadata:
            await self.recv_initial_metadata()
        await self.recv_trailing_metadata()

    def let_go(self) -> None:
        """Reset the stream if it is still open, and give it back; harmless when repeated."""
        if not self.is_sent:
            return
        if self.h2_stream.closable:
            is_over = self.h2_stream.ended
            self.h2_stream.reset_nowait(ErrorCodes.NO_ERROR if is_over else ErrorCodes.CANCEL)
        self.release()

    async def recv_message(self) -> R | None:
        """The next reply, or None at the end. Errors come out of the call's block translated."""
        if not self.has_initial_metadata:
            await self.recv_initial_metadata()
        config: TransportConfig = self.channel.config
        limit = config.message_limit(self.method, is_open=False)
        with self.wrapper:
            buffer = self.h2_stream.buffer
            try:
                length = await _messages.read_prefix(buffer, limit)
                if length is None:
                    return None
                body = await buffer.read(length) if length else b""
            except TruncatedMessage as error:
                # A reply that we did not read in time ends in its midst, and with a reason.
                status = self._arrived_status()
                seen = RemoteError(Status.INTERNAL, None, str(error))
                raise (seen if status is None else self._remote(*status)) from error
            except CallRefused as error:
                raise RemoteError(error.status, None, f"the reply: {error.message}") from error
            try:
                check_message(body, self.recv_type, max_fields=config.max_reply_fields)
                message = self.decode(body)
            except Exception as error:
                raise RemoteError(
                    Status.INTERNAL, None, "the reply is not what the method returns"
                ) from error
        return await self.notify(message)

    def translated(self, error: BaseException) -> BaseException:
        """What the caller is to see for `error`: one of our own kinds, or itself."""
        if isinstance(error, GRPCError) and not isinstance(error, CallRefused):
            return self._remote(error.status, error.message or "")
        if isinstance(error, StreamTerminatedError | H2Error):
            status = self._arrived_status()
            if status is not None:
                return self._remote(*status)
            if isinstance(error, StreamReset) and error.code in _RESET_STATUS:
                return RemoteError(_RESET_STATUS[error.code], None, str(error))
            return Unreachable(f"the call was cut off: {error}")
        return error

    def _remote(self, status: Status, message: str) -> Exception:
        if status is Status.DEADLINE_EXCEEDED:
            return DeadlineExceeded(message or "the call's deadline has passed")
        code = error_code_of(dict(self._arrived()).get(ERROR_CODE_KEY))
        return RemoteError(status, code, message)

    def _arrived(self) -> list[tuple[str, str]]:
        return self.arrived_headers() if self.is_sent else []

    def _arrived_status(self) -> tuple[Status, str] | None:
        headers = dict(self._arrived())
        if headers.get("grpc-status") in {None, "0"}:
            return None
        try:
            status = Status(int(headers["grpc-status"]))
        except ValueError:
            status = Status.UNKNOWN
        return status, decode_grpc_message(headers.get("grpc-message", ""))


async def let_deadline_win(seen: BaseException) -> None:
    """Raise Trio's cancellation where a deadline of the caller's own scopes has passed.

    The server goes by the same deadline: its word of that may be read just before ours is due.
    """
    if isinstance(seen, DeadlineExceeded):
        await trio.lowlevel.checkpoint()
