"""Replies that are too large to be held whole: their end is sent piece by piece, as it is read.

Encoded messages can be joined: the fields of what follows count as if they had been in the first.
So a handler returns its reply without the large part, and leaves that, encoded, as a tail.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import attrs

from hivemind.rpc.context import current_call, current_reply_held

PIECE_BYTES = 256 * 1024
"""What is read of a file at a time, and held until it is sent."""

PAGE_BYTES = 512 * 1024
"""What a page of a listing takes, of 200 entries at most, as records, messages and bytes."""

MOST_REPLY_BYTES = 2**31 - 1024 * 1024
"""protobuf takes messages of less than two gibibytes; the rest of the reply has room beside it."""


@attrs.frozen
class ReplyTail:
    """The encoded end of a reply."""

    size_bytes: int
    chunks: AsyncGenerator[bytes, None]
    """Of just that many bytes in all. Closed after its end, or where the caller goes away before;
    never begun where it goes away before the first, so what it needs is opened within."""


def leave_reply_tail(tail: ReplyTail) -> None:
    """Have the reply of the current call followed by ``tail``."""
    current_call().reply_tail = tail


async def hold_reply(size_bytes: int) -> None:
    """Count bytes that are in memory until the current call's reply is sent.

    To be called before they are: whoever waits here should hold nothing yet. Outside of a call
    nothing is counted.

    Raises:
        CallRefused: RESOURCE_EXHAUSTED: all such replies hold too much together.
    """
    held = current_reply_held()
    if held is not None:
        await held.grow(size_bytes)


@asynccontextmanager
async def holding_reply(size_bytes: int) -> AsyncIterator[None]:
    """Count bytes that are in memory within the block, which sends some of a stream's replies.

    Raises:
        CallRefused: as ``hold_reply``.
    """
    held = current_reply_held()
    if held is None:
        yield
        return
    await held.grow(size_bytes)
    try:
        yield
    finally:
        held.shrink(size_bytes)


def bytes_field(number: int, size_bytes: int) -> bytes:
    """What precedes the bytes of a field of this number (bytes or string) on the wire."""
    return varint(number << 3 | 2) + varint(size_bytes)


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
