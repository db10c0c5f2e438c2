"""What goes wrong in calls: what a handler raises, and what a caller of a remote method sees.

On the wire an error is a gRPC status, a message, and, where the code table has one, an `ErrorCode`
in the trailing metadata under `ERROR_CODE_KEY`.
"""

from enum import IntEnum

from grpclib.const import Status as Status  # what RemoteError.status is; told from here on
from grpclib.exceptions import GRPCError

ERROR_CODE_KEY = "hivemind-error-code"


class ErrorCode(IntEnum):
    """The public table of error codes."""

    SUCCESS = 0
    USER_NOT_FOUND = 1001
    INVALID_PASSWORD = 1002
    USER_EXISTS = 1003
    INVALID_SESSION = 1004
    NODE_NOT_FOUND = 2001
    NODE_OFFLINE = 2002
    INSUFFICIENT_RESOURCES = 2003
    TASK_NOT_FOUND = 3001
    TASK_FAILED = 3002
    TASK_CANCELLED = 3003
    INTERNAL_ERROR = 9999


class RpcError(Exception):
    """The family of this package; `str()` of each is one line for people."""


class CallRefused(RpcError, GRPCError):
    """A handler's answer that is an error: a status, a message and perhaps a code."""

    def __init__(self, status: Status, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(status, message)
        self.code = code

    def __str__(self) -> str:
        return self.message or self.status.name


def fail(code: ErrorCode | None, status: Status, message: str) -> CallRefused:
    """What a handler raises to refuse a call, with a status and perhaps a code of the table.

    The peer gets `status`, the code in the trailing metadata, and a message that begins with the
    code's name.
    """
    if code is not None and not message.startswith(code.name):
        message = f"{code.name}: {message}"
    return CallRefused(status, message, code)


class RemoteError(RpcError):
    """The peer answered with an error."""

    def __init__(self, status: Status, code: ErrorCode | None, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message or f"the server answered {self.status.name}"


class Unreachable(RpcError):
    """The connection is gone, or going: whether the peer acted on the call is not known."""


class DeadlineExceeded(RpcError):
    """The call's own deadline passed before the answer came."""


class ConnectFailed(RpcError):
    """No connection could be opened."""


class NoGrpc(ConnectFailed):
    """Somebody listens there and does not answer as a gRPC server: perhaps it expects TLS."""


class TlsFailed(ConnectFailed):
    """Somebody listens there, and TLS could not be agreed on: perhaps it has none."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason
        """What went wrong, without where."""


class CertificateRefused(TlsFailed):
    """The server's certificate is not one that we trust for it; ``reason`` is its fault."""


class OwnCertificateRefused(ConnectFailed):
    """The server wants a certificate of its authority, and does not take ours, or we showed none.

    ``reason`` is its own word for it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class PortInUse(RpcError):
    """The address to listen on is taken, not ours, or not allowed."""


def error_code_of(text: object) -> ErrorCode | None:
    """The code that a peer's trailing metadata carries; None where it has none that we know."""
    try:
        return ErrorCode(int(str(text)))
    except ValueError:
        return None
