"""Reading what a run writes: two pipes, as it comes, never more than a chunk in memory."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
import time
from collections.abc import Callable

import trio

from sandbox.result import Chunk, Stream

_CHUNK_BYTES = 1 << 16
_HEAD_BYTES = 8192  # an error of bubblewrap holds the path that it is about


class Output:
    """The reading ends of a run's stdout and stderr."""

    def __init__(self, limit_bytes: int, on_limit: Callable[[], None]) -> None:
        self._limit_bytes = limit_bytes
        self._on_limit = on_limit
        self._streams: dict[int, Stream] = {}
        self._read_bytes = 0
        self._stderr_head = b""
        self._poll: select.epoll | None = None
        self._ready: list[int] = []

    def open(self) -> tuple[int, int]:
        """Make the pipes and return their writing ends, stdout's first; the caller closes those."""
        ends: list[int] = []
        self._poll = select.epoll()
        for stream in (Stream.STDOUT, Stream.STDERR):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._streams[reader] = stream
            self._poll.register(reader, select.EPOLLIN)
            ends.append(writer)
        return ends[0], ends[1]

    @property
    def over_limit(self) -> bool:
        """Whether more was written than allowed, what still lies in the pipes included."""
        waiting = sum(_waiting_bytes(descriptor) for descriptor in self._streams)
        return self._read_bytes + waiting > self._limit_bytes

    def __aiter__(self) -> Output:
        """Iterate over the output; there is one iteration, which may be left and taken up again."""
        return self

    async def __anext__(self) -> Chunk:
        """The next chunk; the end comes with both streams, or when the limit is passed."""
        if self._ready:
            await trio.lowlevel.checkpoint()
        while self._poll is not None and self._streams:
            if not self._ready:
                await trio.lowlevel.wait_readable(self._poll.fileno())
                self._ready = [descriptor for descriptor, _ in self._poll.poll(0)]
            if self._ready and (chunk := self._read(self._ready.pop(0))) is not None:
                return chunk
        raise StopAsyncIteration

    def _read(self, descriptor: int) -> Chunk | None:
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return None
        stream = self._streams[descriptor]
        if not data:
            del self._streams[descriptor]
            os.close(descriptor)
            return None
        if stream is Stream.STDERR and len(self._stderr_head) < _HEAD_BYTES:
            self._stderr_head += data[: _HEAD_BYTES - len(self._stderr_head)]
        allowed = data[: self._limit_bytes - self._read_bytes]
        self._read_bytes += len(data)
        if self._read_bytes > self._limit_bytes:
            self._on_limit()
            self.close()
        return Chunk(stream, allowed, time.time()) if allowed else None

    def first_error_text(self) -> str:
        """What stderr began with, as one line; for a sandbox that was never set up."""
        for descriptor, stream in self._streams.items():
            if stream is Stream.STDERR:
                with contextlib.suppress(BlockingIOError):
                    self._stderr_head += os.read(descriptor, _HEAD_BYTES)
        return " ".join(self._stderr_head.decode(errors="replace").split())

    def close(self) -> None:
        """Close the pipes; whoever still writes to them gets SIGPIPE."""
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams.clear()
        self._ready.clear()
        if self._poll is not None:
            trio.lowlevel.notify_closing(self._poll.fileno())
            self._poll.close()
            self._poll = None


def _waiting_bytes(descriptor: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]
