"""Uploads that go to their file as they arrive, never whole through memory."""

import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import attrs
import trio
from grpclib.const import Status

from hivemind.rpc.budget import ByteBudget, Reservation
from hivemind.rpc.config import KIB
from hivemind.rpc.context import current_call, current_owner
from hivemind.rpc.errors import CallRefused, fail

SUFFIX = ".upload"
GRACE_S = 60.0
CLEANUP_S = 10.0


@attrs.frozen(kw_only=True)
class Spool:
    """Where uploads go, how large one may be, and what all of them may hold together.

    The folder is this spool's alone: what it finds there at `sweep` is left from a crash.
    """

    folder: Path
    budget: ByteBudget
    max_bytes: int
    min_bytes_per_s: int = 32 * KIB
    """An upload that is slower (after a minute) is given up, so that its share comes free."""

    async def sweep(self) -> None:
        """Make the folder, and remove what an earlier process left in it."""
        await trio.to_thread.run_sync(_sweep, self.folder)

    @asynccontextmanager
    async def open_file(
        self,
        *,
        announced_bytes: int | None = None,
        max_bytes: int | None = None,
        remedy: str = "",
    ) -> AsyncIterator["SpoolFile"]:
        """An empty file for one upload; it is removed at the end of the block unless it was kept.

        Args:
            announced_bytes: the size, where it is known: that much is reserved at once.
            max_bytes: a limit other than the spool's.
            remedy: what to do with more than the limit, to end the line that refuses it.

        Raises:
            CallRefused: RESOURCE_EXHAUSTED, for a size over the limit or no room in the budget.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        if announced_bytes is not None and announced_bytes > limit:
            raise OverLimit(limit, remedy)
        async with self.budget.reserve(announced_bytes or 0, owner=current_owner()) as reservation:
            path = self.folder / f"{secrets.token_hex(16)}{SUFFIX}"
            file = await trio.to_thread.run_sync(_create, path)
            spooled = SpoolFile(
                path,
                file,
                reservation,
                limit_bytes=limit,
                min_bytes_per_s=self.min_bytes_per_s,
                remedy=remedy,
            )
            try:
                yield spooled
            finally:
                with trio.move_on_after(CLEANUP_S, shield=True):
                    await spooled.discard()


class SpoolFile:
    """One upload on its way to the disk; not for use by two tasks at once."""

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        reservation: Reservation,
        *,
        limit_bytes: int,
        min_bytes_per_s: int,
        remedy: str = "",
    ) -> None:
        self.path = path
        self.size_bytes = 0
        self._file: BinaryIO | None = file
        self._reservation = reservation
        self._limit_bytes = limit_bytes
        self._min_bytes_per_s = min_bytes_per_s
        self._remedy = remedy
        self._is_kept = False

    def check_fits(self, more_bytes: int) -> None:
        """Raise OverLimit where so many bytes more are too many."""
        if self.size_bytes + more_bytes > self._limit_bytes:
            raise OverLimit(self._limit_bytes, self._remedy)

    async def fill(self, chunks: AsyncIterable[bytes]) -> None:
        """Append all of `chunks` as they arrive.

        Raises:
            CallRefused: as `write` does, or DEADLINE_EXCEEDED: they come too slowly.
        """
        started_at = trio.current_time()
        with trio.CancelScope(deadline=started_at + GRACE_S) as scope:
            async for chunk in chunks:
                await self.write(chunk)
                earned_s = self.size_bytes / self._min_bytes_per_s
                scope.deadline = started_at + GRACE_S + earned_s
        if scope.cancelled_caught:
            raise fail(None, Status.DEADLINE_EXCEEDED, "the upload is too slow")

    async def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            OverLimit: the upload passes its limit.
            CallRefused: RESOURCE_EXHAUSTED: the budget has no room.
            OSError: the disk would not take it.
        """
        self.check_fits(len(chunk))
        size_bytes = self.size_bytes + len(chunk)
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


@attrs.frozen(kw_only=True)
class SpooledField:
    """The bytes field of a unary method's request that goes to a file instead of memory."""

    field_number: int
    rest_bytes: int = 64 * KIB
    """What all other fields may amount to."""
    most_bytes: Callable[[], int] | None = None
    """The most that the field may hold now; the spool's own limit unless it is said."""
    remedy: Callable[[], str] = lambda: ""
    """What to do with more, to end the line that refuses it."""


def current_upload() -> SpoolFile:
    """What the spooled field of the current call's request held; empty where it was not sent.

    Raises:
        LookupError: the method is not a spooled one, or its request was not read yet.
    """
    upload = current_call().upload
    if upload is None:
        raise LookupError("this call has no upload")
    return upload


class OverLimit(CallRefused):
    """An upload passes its own limit: later would not do, only less."""

    def __init__(self, limit_bytes: int, remedy: str = "") -> None:
        text = f"the upload is over the limit of {limit_bytes} bytes"
        super().__init__(Status.RESOURCE_EXHAUSTED, f"{text}; {remedy}" if remedy else text)


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
