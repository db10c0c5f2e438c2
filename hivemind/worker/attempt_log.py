"""What an attempt printed, kept in a local file until the master has all of it.

The sandbox's reader appends and the link reads, each at its own speed, so a master that reads
slowly holds up nothing but the sending. An offset counts the bytes of both streams together.

The file is a row of frames: stream (1 byte), length (2), time (8), data. The frame at the end is
still open: what comes on the same stream soon after joins it, because a program that prints byte
by byte would otherwise cost more in headers than in output. Its header is written when it closes;
a log that was not sealed is therefore of no use to a later process, and is removed by recovery.

Reads and writes go straight to the page cache from Trio's own thread: both are small and bounded,
and a hop to a thread would cost ten times as much.
"""

import bisect
import os
import struct
from array import array
from pathlib import Path

import attrs

from hivemind.core.records import OutputChunk, OutputStream

_HEADER = struct.Struct(">BHd")
_FRAME_BYTES = 0xFFFF
_JOIN_WITHIN_S = 0.02
_BLOCK_BYTES = 4 * 0x10000
_INDEX_EVERY_BYTES = 0x10000
READ_CHUNKS = 256
"""The most chunks in one read, which bounds what tiny frames cost."""


@attrs.frozen
class Cursor:
    """A place in a log; made by ``AttemptLog.seek`` and moved by ``AttemptLog.read``."""

    offset: int
    _position: int
    _within: int


@attrs.define
class _OpenFrame:
    """The frame at the end, while it may still grow."""

    position: int
    stream: OutputStream
    at: float
    length: int = 0
    written_length: int = 0

    def takes(self, stream: OutputStream, at: float) -> bool:
        return (
            stream is self.stream
            and self.length < _FRAME_BYTES
            and 0 <= at - self.at < _JOIN_WITHIN_S
        )


class AttemptLog:
    """One attempt's output. Make one with ``create``, or ``open_sealed`` after a restart."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self.size = 0
        """How many bytes of both streams there are."""
        self._descriptor = descriptor
        self._end = 0
        self._open: _OpenFrame | None = None
        # Where frames begin, in output and in the file: enough of them that no seek reads much.
        self._offsets = array("Q", [0])
        self._positions = array("Q", [0])

    @classmethod
    def create(cls, path: Path) -> "AttemptLog":
        """An empty log in a new file. Raises OSError where the file exists or cannot be made."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return cls(path, os.open(path, flags, 0o600))

    @classmethod
    def open_sealed(cls, path: Path) -> "AttemptLog":
        """The log that an earlier process sealed; blocks. Raises OSError where it has none."""
        log = cls(path, None)
        log._measure()
        return log

    def append(self, stream: OutputStream, data: bytes, at: float) -> None:
        """Add output that came at ``at`` seconds since the epoch.

        Raises OSError where the disk is full; what was there before stays readable.
        """
        rest = memoryview(data)
        while rest:
            if self._open is None or not self._open.takes(stream, at):
                self._close_frame()
                self._open = _OpenFrame(position=self._end, stream=stream, at=at)
            rest = rest[self._extend(self._open, rest) :]

    def _extend(self, frame: _OpenFrame, data: memoryview) -> int:
        part = data[: _FRAME_BYTES - frame.length]
        if frame.length == 0:
            header = _HEADER.pack(frame.stream, len(part), frame.at)
            self._write(header + bytes(part), frame.position)
            frame.written_length = len(part)
        else:
            self._write(part, frame.position + _HEADER.size + frame.length)
        if frame.length == 0:
            self._note_frame(self.size, frame.position)
        frame.length += len(part)
        self.size += len(part)
        self._end = frame.position + _HEADER.size + frame.length
        return len(part)

    def _note_frame(self, offset: int, position: int) -> None:
        if offset - self._offsets[-1] >= _INDEX_EVERY_BYTES:
            self._offsets.append(offset)
            self._positions.append(position)

    def _close_frame(self) -> None:
        frame = self._open
        if frame is not None and frame.length != frame.written_length:
            self._write(_HEADER.pack(frame.stream, frame.length, frame.at), frame.position)
        self._open = None

    def _write(self, data: bytes | memoryview, position: int) -> None:
        if self._descriptor is None:
            raise ValueError("a sealed log takes nothing more")
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], position + written)

    def seal(self) -> None:
        """Nothing more will come: the file is whole now, though perhaps not yet on disk.

        To be called where the log is read, since that goes on without the descriptor. May be
        repeated. Raises OSError where the disk will not.
        """
        if self._descriptor is not None:
            self._close_frame()
            self.close()

    def close(self) -> None:
        """Give up the descriptor; for a log that nobody will read or append to any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def seek(self, offset: int) -> Cursor:
        """The place after so many bytes of output; the end, where there are fewer."""
        offset = max(0, min(offset, self.size))
        nearest = bisect.bisect_right(self._offsets, offset) - 1
        cursor = Cursor(self._offsets[nearest], self._positions[nearest], 0)
        while cursor.offset < offset:
            _, cursor = self.read(cursor, offset - cursor.offset)
        return cursor

    def read(self, cursor: Cursor, most_bytes: int) -> tuple[list[OutputChunk], Cursor]:
        """Up to ``most_bytes`` of output from a place on, and the place after them.

        Nothing exactly when ``cursor.offset`` is ``size``, or ``most_bytes`` is not positive.
        """
        chunks: list[OutputChunk] = []
        offset, position, within = cursor.offset, cursor._position, cursor._within
        left = min(most_bytes, self.size - offset)
        if left <= 0:
            return chunks, cursor
        block = self._read_block(position)
        start = 0
        while left > 0 and len(chunks) < READ_CHUNKS and start + _HEADER.size <= len(block):
            stream, length, at = self._header(block, start, position + start)
            first = start + _HEADER.size + within
            data = block[first : min(first + left, start + _HEADER.size + length)]
            if data:
                chunks.append(
                    OutputChunk(stream=OutputStream(stream), offset=offset, data=data, at=at)
                )
            offset += len(data)
            left -= len(data)
            within += len(data)
            # A place in the open frame stays in it, since the frame may yet grow.
            if within < length or self._is_open(position + start):
                break
            start, within = start + _HEADER.size + length, 0
        return chunks, Cursor(offset, position + start, within)

    def _is_open(self, position: int) -> bool:
        return self._open is not None and self._open.position == position

    def _header(self, block: bytes, start: int, position: int) -> tuple[int, int, float]:
        frame = self._open
        if frame is not None and frame.position == position:
            return frame.stream, frame.length, frame.at
        stream, length, at = _HEADER.unpack_from(block, start)
        return stream, length, at

    def _read_block(self, position: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, _BLOCK_BYTES, position)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, _BLOCK_BYTES, position)
        finally:
            os.close(descriptor)

    def _measure(self) -> None:
        """Go through a sealed log's headers; blocks."""
        with self.path.open("rb", buffering=_BLOCK_BYTES) as file:
            while len(header := file.read(_HEADER.size)) == _HEADER.size:
                _, length, _ = _HEADER.unpack(header)
                self._note_frame(self.size, self._end)
                file.seek(length, os.SEEK_CUR)
                self.size += length
                self._end += _HEADER.size + length
