"""A look into an archive before it is sent: whether it is whole, and what it holds."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable
from lzma import LZMAError
from pathlib import Path

import attrs

from hivemind.client.errors import BadProgram

_ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")
_NAME_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
_MANIFEST_BYTES = 1 << 20
"""More than any manifest has; it is read into memory."""

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@attrs.frozen
class Listing:
    """The files that an archive holds, and the text of one of them."""

    names: tuple[str, ...]
    manifest: bytes | None


def is_empty_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar without members: nothing but zeros."""
    return len(head) >= tarfile.BLOCKSIZE and not any(head)


def is_named_like_archive(name: str) -> bool:
    """Whether a person would take a file of this name for an archive."""
    return name.lower().endswith(_NAME_ENDINGS)


def list_archive(path: Path, manifest_name: str) -> Listing:
    """What the archive at ``path`` holds.

    Raises:
        BadProgram: it is damaged, encrypted, empty, or packed and no tar.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) in _ZIP_HEADS
        listing = (_list_zip if is_zip else _list_tar)(path, manifest_name)
    except OSError as error:
        raise BadProgram(f"{path}: cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise BadProgram(f"{path}: not a whole zip or tar archive; pack it again") from error
    if not listing.names:
        raise BadProgram(f"{path}: the archive is empty; there is nothing to run in it")
    return listing


def _list_zip(path: Path, manifest_name: str) -> Listing:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if any(member.flag_bits & 1 for member in members):
            raise BadProgram(f"{path}: the archive is encrypted; pack it without a password")
        manifest = None
        for member in members:
            if _plain(member.filename) == manifest_name:
                with archive.open(member) as file:
                    manifest = _manifest(path, file.read)
        return Listing(tuple(_plain(member.filename) for member in members), manifest)


def _list_tar(path: Path, manifest_name: str) -> Listing:
    names = []
    manifest = None
    with tarfile.open(path, "r:*") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else it grows with every member
            if member.isdir():
                continue
            names.append(_plain(member.name))
            if names[-1] == manifest_name and member.isreg():
                file = archive.extractfile(member)
                if file is not None:
                    manifest = _manifest(path, file.read)
    return Listing(tuple(names), manifest)


def _manifest(path: Path, read: Callable[[int], bytes]) -> bytes:
    data = read(_MANIFEST_BYTES + 1)
    if len(data) > _MANIFEST_BYTES:
        raise BadProgram(f"{path}: its hivemind.toml is longer than a settings file can be")
    return data


def _plain(name: str) -> str:
    """Without the ``./`` that tar likes to put before names."""
    return name.removeprefix("./")
