"""Large payloads and results, kept as files that rows name.

A file is whole and on disk before its name leaves this module, so a row can only name what is
there. A crash between the two leaves a file that no row names; ``sweep`` removes it at the next
start.
"""

import contextlib
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import BinaryIO

import trio

from hivemind.core.records import Blob
from hivemind.store.api import StoreError

INLINE_BYTES = 64 * 1024
"""What is no larger is kept in the row itself: syncing a file and its folder costs 1.1 ms."""
CHUNK_BYTES = 256 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class BlobError(StoreError):
    """A blob could not be kept or read."""


class BlobMissing(BlobError):
    """The file of a blob is not there, or not of its size."""


class BlobFolder:
    """A folder of files, and beside it one for files that are still arriving.

    ``new_name`` gives a name that was never used before, of letters, digits, ``-`` and ``_``;
    nothing that a client says becomes part of a path.
    """

    def __init__(self, root: Path, *, new_name: Callable[[], str]) -> None:
        self.root = root
        self.incoming = root / "incoming"
        """Where spools are written, on the file system that ``adopt`` needs them on."""
        self._new_name = new_name

    async def make(self) -> None:
        """Make the folders, ours alone, where they are missing. Raises BlobError."""
        with _naming("cannot be made", self.incoming):
            await trio.to_thread.run_sync(self._make)

    def new_spool(self) -> Path:
        """Where to write a file that is arriving; nothing is there yet."""
        return self.incoming / self._checked(self._new_name())

    async def adopt(self, path: Path) -> Blob:
        """Keep a file that was written whole in ``incoming``; it is gone from there afterwards.

        On disk when this returns. Raises BlobError; the file may be gone then. Cancelling takes
        effect before or after it, never in between.
        """
        with _naming("cannot be kept", path):
            return await trio.to_thread.run_sync(self._adopt, path)

    async def put(self, data: bytes) -> Blob:
        """Keep some bytes; on disk when this returns, unless small enough to be kept in the row.

        Raises BlobError, leaving nothing behind.
        """
        if len(data) <= INLINE_BYTES:
            await trio.lowlevel.checkpoint()
            return Blob(size=len(data), inline=data)
        spool = self.new_spool()
        with _naming("cannot be written", spool):
            return await trio.to_thread.run_sync(self._put, spool, data)

    @contextlib.asynccontextmanager
    async def open_read(
        self, blob: Blob, *, offset: int = 0, chunk_bytes: int = CHUNK_BYTES
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A blob's bytes from an offset on, as chunks of at most ``chunk_bytes``.

        A blob that is deleted meanwhile can be read to its end. Raises BlobMissing on opening, so
        before the first chunk; BlobError where the disk fails later.
        """
        if blob.inline is not None:
            async with contextlib.aclosing(
                _inline_chunks(blob.inline, offset, chunk_bytes)
            ) as all_:
                yield all_
            return
        path = self._path(blob)
        with _naming("cannot be read", path):
            file = await trio.to_thread.run_sync(_open_sized, path, blob.size)
        with file:
            chunks = _file_chunks(file, path, blob.size, offset, chunk_bytes)
            async with contextlib.aclosing(chunks):
                yield chunks

    async def read(self, blob: Blob) -> bytes:
        """All of a blob at once, for one that is known to be small. Raises as ``open_read``."""
        async with self.open_read(blob) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def delete(self, blob: Blob) -> None:
        """Remove a blob's file, if it has one that is still there. Raises BlobError."""
        if blob.file is None:
            await trio.lowlevel.checkpoint()
            return
        path = self._path(blob)
        with _naming("cannot be removed", path):
            await trio.to_thread.run_sync(lambda: path.unlink(missing_ok=True))

    async def sweep(self, named: AbstractSet[str]) -> int:
        """Remove every file that no row names, and every spool; how many there were.

        For a start, before anything arrives. Raises BlobError.
        """
        with _naming("cannot be swept", self.root):
            return await trio.to_thread.run_sync(self._sweep, named)

    def _make(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.incoming.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self.root)

    def _adopt(self, path: Path) -> Blob:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(file).st_size
            if size <= INLINE_BYTES:
                with os.fdopen(file, "rb", closefd=False) as small:
                    data = small.read()
                path.unlink()
                return Blob(size=len(data), inline=data)
            os.fsync(file)
        finally:
            os.close(file)
        name = self._checked(self._new_name())
        kept = self.root / name
        path.rename(kept)
        try:
            _sync_folder(self.root)
        except OSError:
            kept.unlink()
            raise
        return Blob(size=size, file=name)

    def _put(self, spool: Path, data: bytes) -> Blob:
        file = os.open(spool, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as written:
                written.write(data)
            return self._adopt(spool)
        except BaseException:
            spool.unlink(missing_ok=True)
            raise

    def _sweep(self, named: AbstractSet[str]) -> int:
        swept = 0
        for folder, kept in ((self.root, named), (self.incoming, frozenset[str]())):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name not in kept and not entry.is_dir(follow_symlinks=False):
                        Path(entry.path).unlink()
                        swept += 1
        return swept

    def _path(self, blob: Blob) -> Path:
        if blob.file is None:
            raise BlobError("a blob has neither bytes nor a file")
        return self.root / self._checked(blob.file)

    def _checked(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise BlobError(f"{name!r} cannot be the name of a blob's file")
        return name


def _open_sized(path: Path, size: int) -> BinaryIO:
    file = open(path, "rb", buffering=0, opener=_opener)  # noqa: SIM115
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        file.close()
        raise BlobMissing(f"{path} has {status.st_size} bytes where {size} were stored")
    return file


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


async def _inline_chunks(data: bytes, offset: int, chunk_bytes: int) -> AsyncGenerator[bytes, None]:
    for start in range(offset, len(data), chunk_bytes):
        await trio.lowlevel.checkpoint()
        yield data[start : start + chunk_bytes]


async def _file_chunks(
    file: BinaryIO, path: Path, size: int, offset: int, chunk_bytes: int
) -> AsyncGenerator[bytes, None]:
    while offset < size:
        wanted = min(chunk_bytes, size - offset)
        with _naming("cannot be read", path):
            chunk = await trio.to_thread.run_sync(os.pread, file.fileno(), wanted, offset)
        if not chunk:
            raise BlobMissing(f"{path} ends after {offset} of {size} bytes")
        offset += len(chunk)
        yield chunk


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last, which syncing the file alone does not (fsync(2))."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextlib.contextmanager
def _naming(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(f"{path} is not there") from error
    except OSError as error:
        raise BlobError(f"{path} {what}: {error.strerror}") from error
