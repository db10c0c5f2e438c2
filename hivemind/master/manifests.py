"""What an archive that a client hands in says of how to run it: its ``hivemind.toml``.

The archive is a stranger's, and is read by the master itself, so it is read no further than an
honest one needs: a zip's directory up to a megabyte, a tar up to so many bytes unpacked, by readers
that hold little. One in which the file is not found that way runs with its policy's defaults; its
worker, which unpacks it in a sandbox, still finds its command.
"""

import bz2
import contextlib
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO

from hivemind.core.inline_metadata import BLOCK_BYTES, FILE_NAME
from hivemind.master.tars import BadTar, members

MOST_UNPACKED_BYTES = 64 * 1024 * 1024
"""Some seconds of the slowest packer's work."""
MOST_DIRECTORY_BYTES = 1024 * 1024
"""Of a zip: some ten thousand names, which take fifteen times as much memory when they are read."""
_MOST_XZ_BYTES = 128 * 1024 * 1024
"""What unpacking may hold: ``xz -9`` needs 65 MiB."""

_END_BYTES = 22
_MOST_COMMENT_BYTES = 65_535
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x07"
_LOCATOR_BYTES = 20
_PIECE_BYTES = 64 * 1024
_PLAIN_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DAMAGE = (BadTar, OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError)


def read_manifest(source: Path | bytes) -> bytes | None:
    """The archive's ``hivemind.toml``, cut after ``BLOCK_BYTES`` and one more; None where it has
    none, or none that can be read within the limits. Blocks.
    """
    with (
        contextlib.suppress(*_DAMAGE, zipfile.BadZipFile, NotImplementedError),
        io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        head = file.read(6)
        file.seek(0)
        return _from_zip(file) if head.startswith(b"PK") else _from_tar(_unpacked(file, head))
    return None


def _from_zip(file: IO[bytes]) -> bytes | None:
    if not _has_small_directory(file):
        return None
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.removeprefix("./") != FILE_NAME:
                continue
            if member.compress_type not in _PLAIN_METHODS:
                return None
            with archive.open(member) as found:
                return found.read(BLOCK_BYTES + 1)
    return None


def _has_small_directory(file: IO[bytes]) -> bool:
    """Whether the zip's directory may be read whole; zip64, which only large ones need, may not."""
    size = file.seek(0, io.SEEK_END)
    start = max(0, size - _END_BYTES - _MOST_COMMENT_BYTES - _LOCATOR_BYTES)
    file.seek(start)
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + _END_BYTES or _END_64 in tail[max(0, at - _LOCATOR_BYTES) : at]:
        return False
    return int.from_bytes(tail[at + 12 : at + 16], "little") <= MOST_DIRECTORY_BYTES


def _from_tar(file: IO[bytes]) -> bytes | None:
    for member in members(file):
        if member.is_file and member.name.removeprefix("./") == FILE_NAME:
            found = b""
            for piece in member.pieces():
                found += piece
                if len(found) > BLOCK_BYTES:
                    break
            return found[: BLOCK_BYTES + 1]
    return None


class _Gunzip:
    """What the standard library's decompressors of bzip2 and xz have in common, for gzip."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail or data, max_length)


_Unpacker = bz2.BZ2Decompressor | lzma.LZMADecompressor | _Gunzip


class _Unpacked(io.RawIOBase):
    """A file as its packer's input was, up to the limit; reading on from there is BadTar."""

    def __init__(self, file: IO[bytes], unpacker: _Unpacker | None) -> None:
        self._file = file
        self._unpacker = unpacker
        self._held = b""
        self._total = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._held) < size and (piece := self._more()):
            self._held += piece
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def _more(self) -> bytes:
        piece = b""
        if self._unpacker is None:
            piece = self._file.read(_PIECE_BYTES)
        else:
            while not piece and not self._unpacker.eof:
                data = self._file.read(_PIECE_BYTES) if self._unpacker.needs_input else b""
                if self._unpacker.needs_input and not data:
                    break
                piece = self._unpacker.decompress(data, _PIECE_BYTES)
        self._total += len(piece)
        if self._total > MOST_UNPACKED_BYTES:
            raise BadTar("there is too much to look through")
        return piece


def _unpacked(file: IO[bytes], head: bytes) -> IO[bytes]:
    unpacker: _Unpacker | None = None
    if head.startswith(b"\x1f\x8b"):
        unpacker = _Gunzip()
    elif head.startswith(b"BZh"):
        unpacker = bz2.BZ2Decompressor()
    elif head.startswith(b"\xfd7zXZ"):
        unpacker = lzma.LZMADecompressor(memlimit=_MOST_XZ_BYTES)
    return _Unpacked(file, unpacker)  # type: ignore[return-value]
