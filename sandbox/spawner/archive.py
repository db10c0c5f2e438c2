"""Unpacking a zip or tar that nobody has vouched for.

The kind is told by content, never by name. Every member is judged before it is written: relative
names without "..", no control characters, no name twice, nothing below a link, links that stay
inside, no devices, pipes or sparse files. Bytes and members are counted as they come, never taken
from a header. Permissions are those of new files; owners, set-id bits and attributes are ignored.

zipfile and tarfile read what is hostile, in a process that has the task's own limits and no rights:
whatever they raise is the archive's fault.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH103, PTH118, PTH120, PTH211

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
from typing import IO, NamedTuple, NoReturn

from sandbox.spawner.capped import (
    CappedStream,
    ListCapped,
    StrictMember,
    refuse,
    refuse_sparse,
    show,
)
from sandbox.spawner.stage import StageError, describe, is_control

_COPY_BYTES = 1 << 18
_TAR_BLOCK_BYTES = 512
# Small archives may be as repetitive as they like; the ratio is judged beyond this much output.
_RATIO_FREE_BYTES = 32 << 20
_MAX_DEPTH = 128
_LIST_BYTES_PER_MEMBER = 256
_LEAST_LIST_BYTES = 1 << 20


class Limits(NamedTuple):
    """What one archive may hold: bytes unpacked, members, and bytes out per byte in."""

    max_bytes: int
    max_members: int
    max_ratio: int


def preload() -> None:
    """Import what zipfile and tarfile would otherwise import in the middle of their work."""
    "x".encode("cp437")
    "x".encode("idna")


class _Target:
    """The tree being filled: it knows every name so far and how much it may still take."""

    def __init__(self, root: str, limits: Limits, packed_bytes: int) -> None:
        self._root = root
        self._limits = limits
        self._kinds: dict[str, str] = {}
        self._bytes = 0
        self._members = 0
        self._ratio_bytes = max(_RATIO_FREE_BYTES, packed_bytes * limits.max_ratio)

    @property
    def stream_bytes(self) -> int:
        """What an unpacked tar stream may hold: content, and for each member four blocks of
        headers and padding, with some more for the closing record.
        """
        overhead = (self._limits.max_members + 32) * 4 * _TAR_BLOCK_BYTES
        return min(self._limits.max_bytes, self._ratio_bytes) + overhead

    @property
    def members(self) -> int:
        return self._members

    def admit(self, name: str, kind: str) -> str:
        """Judge one member's name and return its normal form."""
        self._members += 1
        if self._members > self._limits.max_members:
            raise refuse(f"the archive has more than {self._limits.max_members} members")
        path = _normal_name(name)
        if path == ".":
            if kind != "folder":
                raise refuse(f"the archive has a member with no name: {show(name)}")
            return path
        if path.count("/") > _MAX_DEPTH:
            raise refuse(f"the archive has folders more than {_MAX_DEPTH} deep")
        known = self._kinds.get(path)
        if known is not None and not (known == kind == "folder"):
            raise refuse(f"the archive has the name {show(name)} twice")
        parent = posixpath.dirname(path)
        while parent:
            if self._kinds.setdefault(parent, "folder") != "folder":
                raise refuse(f"the archive puts {show(name)} below something not a folder")
            parent = posixpath.dirname(parent)
        self._kinds[path] = kind
        return path

    def add_folder(self, path: str) -> None:
        os.makedirs(os.path.join(self._root, path), 0o755, exist_ok=True)

    def add_file(self, path: str, source: IO[bytes], *, executable: bool) -> None:
        full = os.path.join(self._root, path)
        os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(full, flags, 0o755 if executable else 0o644)
        try:
            while data := source.read(_COPY_BYTES):
                self._count(len(data))
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view) :]
        finally:
            os.close(target)

    def add_link(self, path: str, target: str) -> None:
        steps = [step for step in target.split("/") if step not in ("", ".")]
        ups = 0
        while ups < len(steps) and steps[ups] == "..":
            ups += 1
        # ".." after a name could pass through another link: only leading ones can be judged here.
        depth = len(posixpath.dirname(path).split("/")) if "/" in path else 0
        if not target or target.startswith("/") or ups > depth or ".." in steps[ups:]:
            raise refuse(f"the archive's link {show(path)} leads out of it")
        if _has_controls(target):
            raise refuse(f"the archive's link {show(path)} has control characters")
        full = os.path.join(self._root, path)
        os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
        os.symlink(target, full)

    def add_copy_of(self, path: str, original: str) -> None:
        source = _normal_name(original)
        if self._kinds.get(source) != "file":
            raise refuse(f"the archive's hard link {show(path)} names no earlier file of it")
        full = os.path.join(self._root, path)
        os.makedirs(os.path.dirname(full), 0o755, exist_ok=True)
        os.link(os.path.join(self._root, source), full, follow_symlinks=False)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > min(self._limits.max_bytes, self._ratio_bytes):
            self.refuse_size()

    def refuse_size(self) -> NoReturn:
        """Say which limit of bytes was passed."""
        if self._limits.max_bytes <= self._ratio_bytes:
            raise refuse(f"the archive unpacks to more than {self._limits.max_bytes} bytes")
        raise refuse(f"the archive unpacks to more than {self._limits.max_ratio} times its size")


def _has_controls(text: str) -> bool:
    return any(is_control(character) for character in text)


def _normal_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise refuse(f"the archive has a name that is not UTF-8: {show(name)}") from None
    if not name or _has_controls(name):
        raise refuse(f"the archive has a name with control characters: {show(name)}")
    if name.startswith("/") or ".." in name.split("/"):
        raise refuse(f"the archive has a name that leads out of it: {show(name)}")
    return posixpath.normpath(name)


def unpack(descriptor: int, root: str, limits: Limits) -> None:
    """Unpack the archive behind `descriptor` into the folder `root`.

    Raises:
        StageError: it is no archive, is damaged, empty, hostile or too large.
    """
    with os.fdopen(descriptor, "rb") as file:
        target = _Target(root, limits, os.fstat(file.fileno()).st_size)
        head = file.read(_TAR_BLOCK_BYTES)
        file.seek(0)
        try:
            if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                _unpack_zip(file, target, limits)
            else:
                _unpack_tar(
                    CappedStream(
                        _decompressed(file, head), target.stream_bytes, target.refuse_size
                    ),
                    target,
                )
        except (StageError, MemoryError):
            raise
        except OSError as error:
            raise refuse(describe(error, "cannot unpack the archive")) from None
        except (NotImplementedError, RuntimeError) as error:
            raise refuse(f"the archive cannot be unpacked: {error}") from None
        except Exception as error:
            raise refuse(f"the archive is damaged: {error or type(error).__name__}") from None
    if not target.members:
        raise refuse("the archive is empty")


def _unpack_zip(file: IO[bytes], target: _Target, limits: Limits) -> None:
    # What is read at once is a member's piece, or the whole list of members.
    listed = max(_LEAST_LIST_BYTES, limits.max_members * _LIST_BYTES_PER_MEMBER)
    with zipfile.ZipFile(ListCapped(file, listed)) as archive:
        members = archive.infolist()
        if len(members) > limits.max_members:
            raise refuse(f"the archive has more than {limits.max_members} members")
        for member in members:
            mode = member.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if member.flag_bits & 1:
                raise refuse(f"the archive's member {show(member.filename)} is encrypted")
            if member.orig_filename.split("\0")[0] != member.orig_filename:
                raise refuse(f"the archive has a name with a NUL: {show(member.orig_filename)}")
            if member.is_dir():
                target.add_folder(target.admit(member.filename, "folder"))
            elif kind == stat.S_IFLNK:
                path = target.admit(member.filename, "link")
                with archive.open(member) as source:
                    target.add_link(path, source.read(4096).decode())
            elif kind in (0, stat.S_IFREG):
                path = target.admit(member.filename, "file")
                with archive.open(member) as source:
                    target.add_file(path, source, executable=bool(mode & 0o111))
            else:
                raise refuse(f"the archive has a device or pipe: {show(member.filename)}")


def _unpack_tar(stream: CappedStream, target: _Target) -> None:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=StrictMember) as archive:
        while (member := archive.next()) is not None:
            del vars(archive)["members"][:]  # tarfile's own list would grow with every member
            if member.issparse():
                raise refuse_sparse(member.name)
            if member.size < 0:
                raise refuse(f"the archive is damaged: {show(member.name)} has a negative size")
            if member.isdir():
                target.add_folder(target.admit(member.name, "folder"))
            elif member.issym():
                target.add_link(target.admit(member.name, "link"), member.linkname)
            elif member.islnk():
                target.add_copy_of(target.admit(member.name, "file"), member.linkname)
            elif member.isreg():
                path = target.admit(member.name, "file")
                source = archive.extractfile(member)
                if source is None:
                    raise refuse(f"the archive's member {show(member.name)} has no content")
                target.add_file(path, source, executable=bool(member.mode & 0o111))
            else:
                raise refuse(f"the archive has a device or pipe: {show(member.name)}")
    while stream.read(_COPY_BYTES):
        pass  # to the end, where the compressed stream's checksum is


def _decompressed(file: IO[bytes], head: bytes) -> IO[bytes] | gzip.GzipFile:
    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if head[:3] == b"BZh":
        return bz2.BZ2File(file)
    if head[:6] == b"\xfd7zXZ\0":
        return lzma.LZMAFile(file)
    if head[257:262] == b"ustar" or (len(head) == _TAR_BLOCK_BYTES and not any(head)):
        return file
    raise refuse("the file is not a zip or tar archive")
