"""Taking length-prefixed messages off a stream: limits judged before a byte is kept."""

import struct

import trio
from grpclib.const import Status

from hivemind.rpc._flow import Buffer, TruncatedMessage
from hivemind.rpc._wire import Malformed
from hivemind.rpc.errors import CallRefused, fail

PREFIX_BYTES = 5


async def read_prefix(buffer: Buffer, limit_bytes: int) -> int | None:
    """The length of the next message, or None at the end of the stream.

    Raises:
        CallRefused: the message is compressed (UNIMPLEMENTED) or longer than `limit_bytes`
            (RESOURCE_EXHAUSTED); none of it was read.
        TruncatedMessage: the stream ended within the prefix.
    """
    prefix = await buffer.read(PREFIX_BYTES)
    if not prefix:
        return None
    flag, length = struct.unpack(">BI", prefix)
    if flag:
        raise compressed()
    if length > limit_bytes:
        raise too_large(length, limit_bytes)
    return int(length)


def too_large(length: int, limit_bytes: int) -> CallRefused:
    """The refusal of a message over the limit."""
    return fail(
        None,
        Status.RESOURCE_EXHAUSTED,
        f"a message of {length} bytes is over the limit of {limit_bytes} bytes",
    )


def compressed() -> CallRefused:
    """The refusal of a compressed message."""
    return fail(None, Status.UNIMPLEMENTED, "compressed messages are not taken; send identity")


def body_seconds(length: int, *, grace_s: float, min_bytes_per_s: int) -> float:
    """How long `length` announced bytes may take to arrive."""
    return grace_s + length / min_bytes_per_s


def undecodable(error: BaseException) -> CallRefused:
    """The refusal of bytes that are not the method's request."""
    return fail(
        None,
        Status.INVALID_ARGUMENT,
        f"the message is not what this method takes: {_reason(error)}",
    )


def _reason(error: BaseException) -> str:
    # Of a decoder's own errors only the kind is told: their texts can hold the message's bytes.
    if isinstance(error, UnicodeDecodeError):
        return "a text in it is not UTF-8"
    return str(error) if isinstance(error, Malformed | TruncatedMessage) else type(error).__name__


async def read_body(buffer: Buffer, length: int, deadline_s: float) -> bytes:
    """The `length` bytes of a message.

    Raises:
        CallRefused: they did not arrive within `deadline_s` (DEADLINE_EXCEEDED).
        TruncatedMessage: the stream ended before them.
    """
    if buffer.unacked_size() >= length:
        return await buffer.read(length)
    with trio.move_on_after(deadline_s):
        return await buffer.read(length)
    raise fail(None, Status.DEADLINE_EXCEEDED, f"{length} bytes did not arrive in time")
