"""Taking a task's own files out of its result.

A result is a zip: ``output/`` holds what the task left in its output folder, and beside it lie
``stdout.txt``, ``stderr.txt`` and ``result.json``. What a task made is not to be trusted, so names
that lead out of the folder, links and devices are refused before anything is written.
"""

import json
import secrets
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

import attrs

from hivemind.client.errors import BadResult
from hivemind.core.wording import one_line

OUTPUT_PREFIX = "output/"

_COPY_BYTES = 1 << 20
_MOST_STEPS = 200
"""Of folders within each other: workers send no more than 128."""
_DOCUMENT = "result.json"
_DOCUMENT_BYTES = 1 << 20


@attrs.frozen
class Unpacked:
    """What came out of a result."""

    names: tuple[str, ...]
    """The files, relative to the folder, in order."""
    damage: str = ""
    """What the master could not put into the result, in its words; mostly empty."""


def unpack_output(archive: Path, folder: Path) -> Unpacked:
    """Put the files of the result's ``output/`` into ``folder``.

    A file that was there under the same name is replaced, each in one step.

    Raises:
        BadResult: the zip is damaged or holds what no result may, or there is no room for it.
    """
    try:
        with zipfile.ZipFile(archive) as result:
            members = [
                member
                for member in result.infolist()
                if member.filename.startswith(OUTPUT_PREFIX) and member.filename != OUTPUT_PREFIX
            ]
            names = [_inner_name(member) for member in members]
            folder.mkdir(parents=True, exist_ok=True)
            needed = sum(member.file_size for member in members)
            if needed > shutil.disk_usage(folder).free:
                raise BadResult(f"{folder}: no room for the {needed} bytes of the result")
            for member, name in zip(members, names, strict=True):
                _extract(result, member, folder / name)
            files = (n for m, n in zip(members, names, strict=True) if not m.is_dir())
            return Unpacked(tuple(sorted(files)), _damage(result))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise BadResult(f"the result is damaged: {one_line(str(error))}") from error
    except OSError as error:
        raise BadResult(f"{folder}: cannot be written: {error.strerror or error}") from error


def _damage(result: zipfile.ZipFile) -> str:
    try:
        with result.open(_DOCUMENT) as file:
            document = json.loads(file.read(_DOCUMENT_BYTES))
    except (KeyError, ValueError, RecursionError):
        return ""  # another node's result, which need not have one
    told = document.get("outputs") if isinstance(document, dict) else None
    return one_line(told) if isinstance(told, str) else ""


def _inner_name(member: zipfile.ZipInfo) -> str:
    """The member's name below ``output/``, if it is one that stays there."""
    name = member.filename.removeprefix(OUTPUT_PREFIX)
    steps = name.rstrip("/").split("/")
    is_plain = stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG, stat.S_IFDIR}
    if len(steps) > _MOST_STEPS:
        raise BadResult(f"the result holds {len(steps)} folders within each other")
    if any(step in {"", ".", ".."} for step in steps) or "\0" in member.orig_filename:
        raise BadResult(f"the result holds the unsafe name {name[:80]!a}; nothing was written")
    if not is_plain or member.flag_bits & 1:
        raise BadResult(f"the result's {name[:80]!a} is no plain file; nothing was written")
    return name


def _extract(result: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with result.open(member) as source, part.open("xb") as target:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        if (member.external_attr >> 16) & 0o111:
            part.chmod(part.stat().st_mode | 0o111 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    """What the kernel says of this process; asking by os.umask would have to change it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077
