"""Bytes to send, wherever they are: known by their size, and read again for every try."""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import attrs
import trio

from hivemind.client.errors import BadProgram
from hivemind.core.messages import UPLOAD_CHUNK_BYTES


@attrs.frozen
class Source:
    """Some bytes that can be read from their beginning as often as need be."""

    size: int
    read: Callable[[], Iterator[bytes]]
    """Blocks of at most UPLOAD_CHUNK_BYTES; may raise BadProgram."""


def bytes_source(data: bytes) -> Source:
    """Bytes that are in memory."""

    def read() -> Iterator[bytes]:
        for start in range(0, len(data), UPLOAD_CHUNK_BYTES):
            yield data[start : start + UPLOAD_CHUNK_BYTES]

    return Source(len(data), read)


def file_source(path: Path) -> Source:
    """A file as it is now.

    Raises:
        BadProgram: it cannot be read; when it is read, also that its size has changed.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadProgram(f"{path}: cannot be read: {error.strerror}") from error

    def read() -> Iterator[bytes]:
        sent = 0
        try:
            with path.open("rb") as file:
                while data := file.read(UPLOAD_CHUNK_BYTES):
                    sent += len(data)
                    yield data
        except OSError as error:
            raise BadProgram(f"{path}: cannot be read: {error.strerror}") from error
        if sent != size:
            raise BadProgram(f"{path}: the file changed while it was sent; submit it again")

    return Source(size, read)


async def read_in_thread(source: Source) -> AsyncGenerator[bytes, None]:
    """The source's pieces, each read off Trio's thread since a disk may be slow."""
    pieces = source.read()
    while (data := await trio.to_thread.run_sync(next, pieces, None)) is not None:
        yield data
