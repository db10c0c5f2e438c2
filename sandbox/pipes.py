"""Reading and writing non-blocking pipes under Trio."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import trio

_READ_BYTES = 1 << 16


async def read_all(descriptor: int) -> AsyncIterator[bytes]:
    """Yield what comes out of a pipe until its last writer is gone."""
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            return
        yield data


async def write_all(descriptor: int, data: bytes) -> None:
    """Write everything into a non-blocking pipe.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    view = memoryview(data)
    while view:
        await trio.lowlevel.wait_writable(descriptor)
        # Whoever holds the other end can make the pipe smaller, and so full, in between.
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(descriptor, view) :]


def write_file(descriptor: int, data: bytes) -> None:
    """Fill a memory file and set it to its beginning."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
