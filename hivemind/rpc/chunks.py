"""Files to chunks and back, for uploads and downloads that never hold a file in memory."""

import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import BinaryIO

import trio

from hivemind.rpc.config import CHUNK_BYTES

CLEANUP_S = 10.0


async def read_chunks(path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
    """The file's bytes, `chunk_bytes` at a time, read as they are asked for.

    Raises:
        OSError: it cannot be read.
    """
    file = await trio.to_thread.run_sync(_open_to_read, path)
    try:
        while chunk := await trio.to_thread.run_sync(file.read, chunk_bytes):
            yield chunk
    finally:
        file.close()


async def write_chunks(path: Path, chunks: AsyncIterable[bytes]) -> int:
    """Write all of `chunks` to `path`; how many bytes that were.

    The file appears under its name once it is complete; nothing is left otherwise.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = await trio.to_thread.run_sync(_open_to_write, partial)
    size_bytes = 0
    try:
        async for chunk in chunks:
            await trio.to_thread.run_sync(file.write, chunk)
            size_bytes += len(chunk)
        await trio.to_thread.run_sync(_publish, file, partial, path)
    finally:
        with trio.move_on_after(CLEANUP_S, shield=True):
            await trio.to_thread.run_sync(_remove, file, partial)
    return size_bytes


def _open_to_read(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_to_write(path: Path) -> BinaryIO:
    return path.open("xb")


def _publish(file: BinaryIO, partial: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    partial.replace(path)


def _remove(file: BinaryIO, partial: Path) -> None:
    file.close()
    partial.unlink(missing_ok=True)
