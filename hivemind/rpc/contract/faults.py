"""Errors that the contract itself names."""

from grpclib.const import Status

from hivemind.rpc.errors import CallRefused, ErrorCode

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


class NamedFault(CallRefused):
    """A fault of the public code table.

    Replies that have a ``success`` field carry it as an answer; everywhere else it is a status.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(_STATUS[code], f"{code.name}: {text}", code)
        self.named_code = code
        self.text = f"{code.name}: {text}"

    @classmethod
    def from_message(cls, message: str) -> "NamedFault":
        """The fault that a reply's message names; INVALID_SESSION where it names none."""
        name, _, text = message.partition(": ")
        code = ErrorCode.__members__.get(name)
        if code is None or code not in _STATUS:
            return cls(ErrorCode.INVALID_SESSION, message)
        return cls(code, text)
