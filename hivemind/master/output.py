"""What tasks print: one append-only file for each attempt, and whoever follows it.

A file is a row of frames: stream (1 byte), time (8, seconds since the epoch), length (4), data.
Followers read the file, woken by appends; so a slow one holds nothing up and costs no memory.
"""

import contextlib
import os
import shutil
import struct
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from hivemind.core.records import OutputChunk, OutputStream

_HEADER = struct.Struct("<BdI")
MARK = struct.Struct("<QQQ")
_FRAME_BYTES = 64 * 1024
"""The most data in one frame, so that a reader's buffer always holds a whole one."""
_PLACE_BYTES = 256 * 1024
"""How far apart the places are that a log knows, from which a reader may begin."""
_MOST_CHUNKS = 2000
"""In one batch: where each has a byte or two, it is these that take memory, a quarter of a kilobyte
each."""
_MOST_MEASURED = 1000
_READ_BYTES = 4 * (_FRAME_BYTES + _HEADER.size)


class OutputError(Exception):
    """Output that cannot be taken."""


class OutputGap(OutputError):
    """Output that does not follow what is known: its sender has lost something."""


class OutputTooLarge(OutputError):
    """More output than any task of its policy may have."""


@attrs.frozen
class _Extent:
    """How much there is: bytes of both streams, and of the file that holds them."""

    size: int = 0
    file_bytes: int = 0


class OutputLog:
    """One attempt's output. Appends come from one link at a time; followers are any number."""

    def __init__(
        self,
        path: Path,
        extent: _Extent,
        on_growth: Callable[[], None],
        places: Sequence[_Extent] = (),
    ) -> None:
        self._path = path
        self._on_growth = on_growth
        self._extent = extent
        self._places = list(places)
        """Where frames begin, some way apart, in order."""
        self._lock = trio.Lock()
        self._grown = trio.Event()

    @property
    def size(self) -> int:
        """Bytes of both streams so far."""
        return self._extent.size

    @property
    def file_bytes(self) -> int:
        """How long the file is that holds them."""
        return self._extent.file_bytes

    async def append(self, chunks: Sequence[OutputChunk], *, most_bytes: int) -> None:
        """Add output; what is known already is skipped, so a sender may repeat itself.

        Not synced: ``sync`` does that once, before the attempt's end is committed. A frame that was
        torn by a crash or a cancellation is written over by the next append.

        Raises:
            OutputGap: something between what is known and these chunks is missing.
            OutputTooLarge: the attempt would have more than ``most_bytes``; nothing was added.
        """
        async with self._lock:
            extent = self._extent
            size = extent.size
            frames: list[bytes] = []
            for chunk in chunks:
                if chunk.offset > size:
                    raise OutputGap(f"output goes on at byte {chunk.offset}; {size} are known")
                data = chunk.data[size - chunk.offset :]
                size += len(data)
                if size > most_bytes:
                    raise OutputTooLarge(f"more than {most_bytes} bytes of output")
                frames.extend(_frames(chunk.stream, chunk.at, data))
            if not frames:
                return
            block = b"".join(frames)
            await trio.to_thread.run_sync(_write_at, self._path, extent.file_bytes, block)
            _note_place(self._places, extent)
            self._extent = _Extent(size, extent.file_bytes + len(block))
            grown, self._grown = self._grown, trio.Event()
            grown.set()
        self._on_growth()

    async def sync(self) -> None:
        """Have everything so far on disk."""
        async with self._lock:
            if self._extent.file_bytes:
                await trio.to_thread.run_sync(_sync, self._path)

    async def wait_for(self, size: int) -> None:
        """Return once there are that many bytes."""
        while self._extent.size < size:
            await self._grown.wait()

    def follow(self, offset: int = 0) -> "Follower":
        """A place in this log, from which to read on."""
        known = bisect_right(self._places, offset, key=lambda place: place.size)
        near = self._places[known - 1] if known else _Extent()
        return Follower(log=self, offset=offset, position=near.file_bytes, at=near.size)

    def sync_chunks(self, stream: OutputStream) -> Iterator[bytes]:
        """One stream's output up to now, for a thread to read."""
        extent = self._extent
        position = at = 0
        while at < extent.size:
            chunks, position, at = _read_batch(self._path, position, extent.file_bytes, at)
            if not chunks:
                return
            yield from (chunk.data for chunk in chunks if chunk.stream is stream)

    async def read_at(self, position: int, at: int) -> tuple[tuple[OutputChunk, ...], int, int]:
        """Some chunks from a frame's position in the file, and where the next frame begins."""
        if position >= self._extent.file_bytes:
            return (), position, at
        return await trio.to_thread.run_sync(
            _read_batch, self._path, position, self._extent.file_bytes, at
        )


@attrs.define
class Follower:
    """A place in a log."""

    log: OutputLog
    offset: int
    """Bytes of both streams that were read, or need not be."""
    _position: int = 0
    """A frame's beginning in the file, ..."""
    _at: int = 0
    """... and in both streams."""

    async def next_batch(self) -> tuple[OutputChunk, ...]:
        """The next output that is there now; empty where there is none."""
        while True:
            chunks, self._position, self._at = await self.log.read_at(self._position, self._at)
            if not chunks:
                return ()
            wanted = tuple(_beyond(chunks, self.offset))
            if wanted:
                self.offset = self._at
                return wanted


class OutputFolder:
    """The logs of all attempts. One that somebody holds is the same object for everybody."""

    def __init__(self, root: Path, on_growth: Callable[[str], None]) -> None:
        """``on_growth`` is called with a task's id whenever it has new output."""
        self._root = root
        self._on_growth = on_growth
        self._open: weakref.WeakValueDictionary[tuple[str, int, str], OutputLog] = (
            weakref.WeakValueDictionary()
        )
        self._opening: dict[tuple[str, int, str], trio.Event] = {}
        self._measured: OrderedDict[tuple[str, int, str], _Measured] = OrderedDict()
        """Of the logs that were opened last."""

    async def remove(self, task_id: str) -> None:
        """Remove what is there of a task that has ended; none of it is no error."""
        await trio.to_thread.run_sync(_remove_folder, self._root / task_id)

    def path(self, task_id: str, attempt: int, kind: str = "log") -> Path:
        """Where the attempt's log of some kind is, or would be; ``log`` is its output."""
        return self._root / task_id / f"{attempt}.{kind}"

    async def log(self, task_id: str, attempt: int, kind: str = "log") -> OutputLog:
        """The attempt's log, empty where nothing was written yet.

        Args:
            task_id: one that this pool made, since it becomes part of a path.
            attempt: from 1.
            kind: ``log`` for its output; another for what is kept apart from it.
        """
        key = (task_id, attempt, kind)
        while (known := self._open.get(key)) is None:
            opening = self._opening.get(key)
            if opening is not None:
                await opening.wait()
                continue
            # A long log takes time to measure, in which only those who want this one wait.
            measured = self._opening[key] = trio.Event()
            try:
                path = self.path(task_id, attempt, kind)
                before = self._measured.pop(key, None)
                found = await trio.to_thread.run_sync(_measure, path, before)
                self._measured[key] = found
                if len(self._measured) > _MOST_MEASURED:
                    self._measured.popitem(last=False)
                known = OutputLog(
                    path, found.extent, partial(self._on_growth, task_id), found.places
                )
                self._open[key] = known
            finally:
                del self._opening[key]
                measured.set()
            return known
        await trio.lowlevel.checkpoint()
        return known


def _frames(stream: OutputStream, at: float, data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _FRAME_BYTES):
        piece = data[start : start + _FRAME_BYTES]
        yield _HEADER.pack(int(stream), at, len(piece))
        yield piece


def _beyond(chunks: tuple[OutputChunk, ...], offset: int) -> Iterator[OutputChunk]:
    for chunk in chunks:
        if chunk.offset >= offset:
            yield chunk
        elif chunk.offset + len(chunk.data) > offset:
            yield attrs.evolve(chunk, offset=offset, data=chunk.data[offset - chunk.offset :])


def _write_at(path: Path, position: int, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], position + written)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    # The folder of the task may be new, too, and is an entry of the one above it.
    for name in (path, path.parent, path.parent.parent):
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def read_mark(path: Path) -> tuple[int, int, int] | None:
    """What the mark beside a log says: the highest sequence number that was taken, and how many
    bytes of output, and of the file, were acknowledged. None where there is no mark.
    """
    try:
        sequence, size, file_bytes = MARK.unpack(mark_of(path).read_bytes())
    except (FileNotFoundError, struct.error):
        return None
    return sequence, size, file_bytes


def mark_of(path: Path) -> Path:
    """Where the mark of a log is."""
    return path.with_name(path.name + ".mark")


def _note_place(places: list[_Extent], place: _Extent) -> None:
    if place.size - (places[-1].size if places else 0) >= _PLACE_BYTES:
        places.append(place)


@attrs.frozen
class _Measured:
    """What a log was found to hold, and of which file that was found."""

    file: tuple[int, int, int] | None
    """Its size, when it was changed, and which it is; None where there is none."""
    mark: tuple[int, int, int] | None
    extent: _Extent
    places: tuple[_Extent, ...]


def _measure(path: Path, before: _Measured | None) -> _Measured:
    """What whole frames a file holds, and places in it where a reader may begin.

    Neither a torn frame at its end counts, nor what is beyond its mark. Where the file is the one
    that was measured before, so is what it holds: a long log of short frames takes seconds.
    """
    mark = read_mark(path)
    file = _file_at(path)
    if before is not None and (before.file, before.mark) == (file, mark):
        return before
    extent, places = _whole_frames(path)
    if mark is not None and extent.size > mark[1]:
        extent, places = (
            _Extent(mark[1], mark[2]),
            [place for place in places if place.size <= mark[1]],
        )
    return _Measured(file, mark, extent, tuple(places))


def _file_at(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _whole_frames(path: Path) -> tuple[_Extent, list[_Extent]]:
    places: list[_Extent] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return _Extent(), places
    with file:
        total = os.fstat(file.fileno()).st_size
        position = size = placed = 0
        while position + _HEADER.size <= total:
            file.seek(position)
            block = file.read(_READ_BYTES)
            start = 0
            while start + _HEADER.size <= len(block):
                stream, _, length = _HEADER.unpack_from(block, start)
                end = start + _HEADER.size + length
                if position + end > total or length > _FRAME_BYTES or stream not in _STREAMS:
                    return _Extent(size, position + start), places
                if size - placed >= _PLACE_BYTES:
                    places.append(_Extent(size, position + start))
                    placed = size
                start, size = end, size + length
            if not start:  # It has become shorter meanwhile.
                break
            position += start
        return _Extent(size, position), places


_STREAMS = frozenset(int(stream) for stream in OutputStream)


def _read_batch(
    path: Path, position: int, file_bytes: int, at: int
) -> tuple[tuple[OutputChunk, ...], int, int]:
    with path.open("rb") as file:
        file.seek(position)
        block = file.read(min(_READ_BYTES, file_bytes - position))
    chunks: list[OutputChunk] = []
    start = 0
    while start + _HEADER.size <= len(block) and len(chunks) < _MOST_CHUNKS:
        stream, when, length = _HEADER.unpack_from(block, start)
        end = start + _HEADER.size + length
        if end > len(block):
            break
        chunks.append(
            OutputChunk(
                stream=OutputStream(stream),
                offset=at,
                data=block[start + _HEADER.size : end],
                at=when,
            )
        )
        start, at = end, at + length
    return tuple(chunks), position + start, at
