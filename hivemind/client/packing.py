"""A folder as a tar that is written while it is read, so that no whole copy is ever in memory.

The same folder always gives the same bytes: members in the order of their names, and neither times
nor owners, which the sandbox would not keep either.
"""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from hivemind.client.errors import BadProgram
from hivemind.core.messages import UPLOAD_CHUNK_BYTES

SKIPPED_NAMES = frozenset({".git", "__pycache__", ".venv"})
"""What a project's folder holds and its task never needs."""

_BLOCK_BYTES = tarfile.BLOCKSIZE


@attrs.frozen(kw_only=True)
class Member:
    """One thing in the folder."""

    path: Path
    name: str
    """Relative to the folder, with slashes."""
    kind: bytes
    """tarfile's: REGTYPE, DIRTYPE or SYMTYPE."""
    size: int = 0
    is_executable: bool = False
    target: str = ""
    """Where a link leads, from where it is."""

    def header(self) -> bytes:
        """The tar header, of one or more blocks."""
        info = tarfile.TarInfo(self.name)
        info.type = self.kind
        info.size = self.size
        info.mode = 0o755 if self.is_executable or self.kind == tarfile.DIRTYPE else 0o644
        info.linkname = self.target
        return info.tobuf(tarfile.PAX_FORMAT)


@attrs.frozen
class FolderPlan:
    """What will be packed, and how long the tar will be."""

    folder: Path
    members: tuple[Member, ...]
    tar_bytes: int

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of everything that is not a folder."""
        return tuple(member.name for member in self.members if member.kind != tarfile.DIRTYPE)


def plan_folder(folder: Path) -> FolderPlan:
    """Look through a folder, without reading its files.

    ``SKIPPED_NAMES`` are left out at any depth, and links that stay inside are kept as links.

    Raises:
        BadProgram: something in it cannot be read or sent: a link that leads out of the folder, a
            socket, pipe or device, a name that is not UTF-8; or it holds no file at all.
    """
    members = tuple(_walk(folder, folder, Path(os.path.realpath(folder))))
    plan = FolderPlan(
        folder,
        members,
        sum(len(member.header()) + _padded(member.size) for member in members) + 2 * _BLOCK_BYTES,
    )
    if not plan.file_names:
        raise BadProgram(f"{folder}: the folder is empty; there is nothing to run in it")
    return plan


def read_as_tar(plan: FolderPlan) -> Iterator[bytes]:
    """The tar in pieces of ``UPLOAD_CHUNK_BYTES``, read as they are asked for.

    Raises:
        BadProgram: a file cannot be read, or has changed its size since the plan was made.
    """
    pending = bytearray()
    for member in plan.members:
        pending += member.header()
        for data in _read_member(member):
            pending += data
            while len(pending) >= UPLOAD_CHUNK_BYTES:
                yield bytes(pending[:UPLOAD_CHUNK_BYTES])
                del pending[:UPLOAD_CHUNK_BYTES]
        pending += bytes(_padded(member.size) - member.size)
    pending += bytes(2 * _BLOCK_BYTES)
    for start in range(0, len(pending), UPLOAD_CHUNK_BYTES):
        yield bytes(pending[start : start + UPLOAD_CHUNK_BYTES])


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _walk(folder: Path, top: Path, real_top: Path) -> Iterator[Member]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BadProgram(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name in SKIPPED_NAMES:
            continue
        path = Path(entry.path)
        member = _member(path, _wire_name(path, top), real_top)
        yield member
        if member.kind == tarfile.DIRTYPE:
            yield from _walk(path, top, real_top)


def _wire_name(path: Path, top: Path) -> str:
    name = path.relative_to(top).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadProgram(f"{name!a}: the name is not UTF-8; rename it") from None
    return name


def _member(path: Path, name: str, real_top: Path) -> Member:
    try:
        status = path.lstat()
    except OSError as error:
        raise BadProgram(f"{path}: cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        return Member(path=path, name=name, kind=tarfile.DIRTYPE)
    if stat.S_ISLNK(status.st_mode):
        return Member(
            path=path, name=name, kind=tarfile.SYMTYPE, target=_inner_target(path, real_top)
        )
    if stat.S_ISREG(status.st_mode):
        if not os.access(path, os.R_OK):
            raise BadProgram(f"{path}: cannot be read: permission denied")
        return Member(
            path=path,
            name=name,
            kind=tarfile.REGTYPE,
            size=status.st_size,
            is_executable=bool(status.st_mode & 0o111),
        )
    raise BadProgram(f"{path}: a socket, pipe or device cannot be sent; move it out of the folder")


def _inner_target(link: Path, real_top: Path) -> str:
    """Where a link leads, said so that it holds wherever the folder is unpacked."""
    real_target = Path(os.path.realpath(link))
    if not real_target.is_relative_to(real_top):
        raise BadProgram(
            f"{link}: the link leads out of the folder, to {real_target}; replace it by a copy"
        )
    return os.path.relpath(real_target, os.path.realpath(link.parent))


def _read_member(member: Member) -> Iterator[bytes]:
    if member.kind != tarfile.REGTYPE:
        return
    left = member.size
    try:
        with member.path.open("rb") as file:
            while left and (data := file.read(min(left, UPLOAD_CHUNK_BYTES))):
                left -= len(data)
                yield data
            grew = bool(file.read(1))
    except OSError as error:
        raise BadProgram(f"{member.path}: cannot be read: {error.strerror}") from error
    if left or grew:
        raise BadProgram(f"{member.path}: the file changed while it was sent; submit it again")
