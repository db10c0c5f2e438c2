"""Uploads that go to their file as they arrive, never whole through memory."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import attrs
import trio
from grpclib.const import Status

from hivemind.rpc.budget import ByteBudget, Reservation
from hivemind.rpc.config import MIB
from hivemind.rpc.errors import fail

CHUNK_BYTES = MIB
"""What a client sends in one message, and the most that is written at once."""
SUFFIX = ".upload"
CLEANUP_S = 10.0


@attrs.frozen(kw_only=True)
class Spool:
    """Where uploads go, how large one may be, and what all of them may hold together.

    The folder is this spool's alone: what it finds there at `sweep` is left from a crash.
    """

    folder: Path
    budget: ByteBudget
    max_bytes: int

    async def sweep(self) -> None:
        """Make the folder, and remove what an earlier process left in it."""
        await trio.to_thread.run_sync(_sweep, self.folder)

    @asynccontextmanager
    async def open_file(
        self, *, announced_bytes: int | None = None, max_bytes: int | None = None
    ) -> AsyncIterator["SpoolFile"]:
        """An empty file for one upload; it is removed at the end of the block unless it was kept.

        Args:
            announced_bytes: the size, where it is known: that much is reserved at once.
            max_bytes: a limit other than the spool's.

        Raises:
            CallRefused: RESOURCE_EXHAUSTED, for a size over the limit or no room in the budget.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        if announced_bytes is not None and announced_bytes > limit:
            raise _over_limit(limit)
        async with self.budget.reserve(announced_bytes or 0) as reservation:
            path = self.folder / f"{secrets.token_hex(16)}{SUFFIX}"
            file = await trio.to_thread.run_sync(_create, path)
            spooled = SpoolFile(path, file, reservation, limit)
            try:
                yield spooled
            finally:
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await spooled.discard()


class SpoolFile:
    """One upload on its way to the disk; not for use by two tasks at once."""

    def __init__(
        self, path: Path, file: BinaryIO, reservation: Reservation, limit_bytes: int
    ) -> None:
        self.path = path
        self.size_bytes = 0
        self._file: BinaryIO | None = file
        self._reservation = reservation
        self._limit_bytes = limit_bytes
        self._is_kept = False

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            CallRefused: RESOURCE_EXHAUSTED: the upload passes its limit, or the budget has no room.
            OSError: the disk would not take it.
        """
        size_bytes = self.size_bytes + len(chunk)
        if size_bytes > self._limit_bytes:
            raise _over_limit(self._limit_bytes)
        if size_bytes > self._reservation.size_bytes:
            await self._reservation.grow(size_bytes - self._reservation.size_bytes)
        if self._file is None:
            raise ValueError(f"the upload {self.path.name} is finished")
        await trio.to_thread.run_sync(self._file.write, chunk)
        self.size_bytes = size_bytes

    async def finish(self) -> None:
        """Return once the bytes, and the file's name, are on the disk; nothing can be added."""
        if self._file is None:
            return
        file, self._file = self._file, None
        await trio.to_thread.run_sync(_close_synced, file, self.path)

    async def keep(self, destination: Path | None = None) -> Path:
        """Finish, move the file to `destination` (on the same file system) and leave it there.

        Once this returns, the file has its new name even after a power cut. Without a destination
        it stays where it is.
        """
        await self.finish()
        if destination is not None and destination != self.path:
            await trio.to_thread.run_sync(_move, self.path, destination)
            self.path = destination
        self._is_kept = True
        return self.path

    async def read(self) -> bytes:
        """All of it; for uploads known to be small."""
        if self._file is not None:
            await trio.to_thread.run_sync(self._file.flush)
        return await trio.to_thread.run_sync(self.path.read_bytes)

    async def discard(self) -> None:
        """Close the file, and remove it unless it was kept."""
        file, self._file = self._file, None
        await trio.to_thread.run_sync(_remove, file, None if self._is_kept else self.path)


def _over_limit(limit_bytes: int) -> Exception:
    return fail(
        None, Status.RESOURCE_EXHAUSTED, f"the upload is over the limit of {limit_bytes} bytes"
    )


def _sweep(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"*{SUFFIX}"):
        left.unlink(missing_ok=True)


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb")


def _close_synced(file: BinaryIO, path: Path) -> None:
    with file:
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _move(source: Path, destination: Path) -> None:
    source.rename(destination)
    _sync_folder(destination.parent)
    if source.parent != destination.parent:
        _sync_folder(source.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(file: BinaryIO | None, path: Path | None) -> None:
    if file is not None:
        file.close()
    if path is not None:
        path.unlink(missing_ok=True)
