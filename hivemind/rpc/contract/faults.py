"""Errors that the contract itself names."""

from grpclib.const import Status

from hivemind.rpc.context import note_error_code
from hivemind.rpc.errors import CallRefused, ErrorCode, fail

_STATUS = {
    ErrorCode.USER_NOT_FOUND: Status.NOT_FOUND,
    ErrorCode.INVALID_PASSWORD: Status.UNAUTHENTICATED,
    ErrorCode.USER_EXISTS: Status.ALREADY_EXISTS,
    ErrorCode.INVALID_SESSION: Status.UNAUTHENTICATED,
    ErrorCode.NODE_NOT_FOUND: Status.NOT_FOUND,
    ErrorCode.NODE_OFFLINE: Status.UNAVAILABLE,
    ErrorCode.INSUFFICIENT_RESOURCES: Status.RESOURCE_EXHAUSTED,
    ErrorCode.TASK_NOT_FOUND: Status.NOT_FOUND,
    ErrorCode.TASK_FAILED: Status.FAILED_PRECONDITION,
    ErrorCode.TASK_CANCELLED: Status.FAILED_PRECONDITION,
}


class MalformedMessage(CallRefused):
    """A message that can be decoded and still makes no sense."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.INVALID_ARGUMENT, message)


class Unsettled(CallRefused):
    """It cannot be known now whether what was asked for has happened."""

    def __init__(self, message: str) -> None:
        super().__init__(Status.UNAVAILABLE, message)


class NamedFault(CallRefused):
    """A fault of the public code table.

    Replies that have a ``success`` field carry it as an answer; everywhere else it is a status.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(_STATUS[code], f"{code.name}: {text}", code)
        self.named_code = code
        self.text = f"{code.name}: {text}"

    def told(self) -> str:
        """Its text, for the message of the current call's reply; the trailers get its number."""
        note_error_code(self.named_code)
        return self.text

    @classmethod
    def from_message(cls, message: str) -> "NamedFault":
        """The fault that a reply's message names; INVALID_SESSION where it names none."""
        name, _, text = message.partition(": ")
        code = ErrorCode.__members__.get(name)
        if code is None or code not in _STATUS:
            return cls(ErrorCode.INVALID_SESSION, message)
        return cls(code, text)


def invalid(text: str) -> CallRefused:
    """What was sent cannot be right, whatever the state of things."""
    return CallRefused(Status.INVALID_ARGUMENT, text)


def unauthenticated(text: str) -> CallRefused:
    """The caller did not prove who it is."""
    return fail(ErrorCode.INVALID_SESSION, Status.UNAUTHENTICATED, text)


def denied(text: str, code: ErrorCode | None = None) -> CallRefused:
    """The caller may not do this."""
    return fail(code, Status.PERMISSION_DENIED, text)


def taken(text: str) -> CallRefused:
    """There is one already."""
    return CallRefused(Status.ALREADY_EXISTS, text)


def exhausted(text: str) -> CallRefused:
    """A limit is reached: less, or later, would do."""
    return CallRefused(Status.RESOURCE_EXHAUSTED, text)


def elsewhere(text: str) -> CallRefused:
    """Another daemon does it, and not the one that was asked."""
    return CallRefused(Status.UNIMPLEMENTED, text)


def not_now(text: str) -> CallRefused:
    """The state of things does not allow it."""
    return CallRefused(Status.FAILED_PRECONDITION, text)


def unavailable(text: str) -> CallRefused:
    """Trying again later may help."""
    return CallRefused(Status.UNAVAILABLE, text)


def superseded(text: str) -> CallRefused:
    """Something newer took this call's place."""
    return CallRefused(Status.ABORTED, text)
