"""Readers of archives that stop where no honest archive would go on.

zipfile and tarfile trust what an archive says of itself; these stand between the two.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from typing import IO, NoReturn, Self, TypeVar

from sandbox.spawner.stage import StageError

_M = TypeVar("_M", bound=tarfile.TarInfo)

_TAR_BLOCK_BYTES = 512
_MAX_HEADER_BYTES = 1 << 20
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def refuse(text: str) -> StageError:
    """The error for an archive that is not to be unpacked."""
    return StageError("archive", text)


def show(name: str) -> str:
    """A member's name for people, whatever it holds."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def refuse_sparse(name: str) -> StageError:
    """The error for a sparse member, of which there are four formats, each with traps."""
    return refuse(f"the archive has a sparse file: {show(name)}: pack it without sparseness")


class StrictMember(tarfile.TarInfo):
    """A tar header that tells tarfile where to stop.

    By itself, tarfile takes a damaged header for the end of the archive, reads a long name of any
    length into memory, and reads a sparse file's list at a square of its length.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header, and refuse what is not to be read further."""
        _check_block(buf)
        try:
            return _checked(super().frombuf(buf, encoding, errors))
        except tarfile.HeaderError as error:
            raise _translated(error, buf) from None

    @classmethod
    def _frombuf(cls, buf: bytes, encoding: str, errors: str, **more: bool) -> Self:
        # What tarfile itself calls, in the releases since its long names were mended (gh-143933).
        _check_block(buf)
        try:
            return _checked(super()._frombuf(buf, encoding, errors, **more))  # type: ignore[misc, no-any-return]
        except tarfile.HeaderError as error:
            raise _translated(error, buf) from None

    def _proc_gnusparse_10(self, following: tarfile.TarInfo, *_: object) -> NoReturn:
        raise refuse_sparse(following.name)


def _check_block(buf: bytes | bytearray) -> None:
    if not buf:
        raise refuse("the archive is damaged: it ends before its closing record")


def _translated(error: tarfile.HeaderError, buf: bytes | bytearray) -> Exception:
    """The error itself where a block of zeros means the end, else damage."""
    if len(buf) == _TAR_BLOCK_BYTES and not any(buf):
        return error
    return refuse(f"the archive is damaged: {error}")


def _checked(member: _M) -> _M:
    if member.type == tarfile.GNUTYPE_SPARSE:
        raise refuse_sparse(member.name)
    if member.size < 0:
        raise refuse(f"the archive is damaged: {show(member.name)} has a negative size")
    if member.type in _LONG_HEADERS and member.size > _MAX_HEADER_BYTES:
        raise refuse(f"the archive has a header of {member.size} bytes")
    return member


class ListCapped(io.RawIOBase):
    """A zip that is never read in larger pieces than an honest list of members has."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        super().__init__()
        self._file = file
        self._max_bytes = max_bytes

    def seekable(self) -> bool:
        """Whether it can be read anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The present place."""
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        """Read a piece of an allowed size."""
        if size > self._max_bytes:
            raise refuse("the archive's list of members is too long")
        return self._file.read(size)


class CappedStream(io.RawIOBase):
    """A decompressed tar stream that ends in an error where no honest archive would go on."""

    def __init__(
        self,
        stream: IO[bytes] | gzip.GzipFile,
        max_bytes: int,
        refuse_size: Callable[[], NoReturn],
    ) -> None:
        super().__init__()
        self._stream = stream
        self._left = max_bytes
        self._refuse_size = refuse_size

    def read(self, size: int = -1, /) -> bytes:
        """Read on, up to the limit."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            self._refuse_size()
        return data
