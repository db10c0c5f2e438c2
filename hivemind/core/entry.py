"""What some bytes are, and how a program that was handed in is started.

An archive's entry is the command of its ``hivemind.toml`` if there is one; else the first of
``run.sh``, ``main.py``, ``app.py``, ``run.py`` and ``start.py`` that lies at its top; else its only
``*.py``, wherever that is.
"""

import codecs
import enum
from collections.abc import Iterable

from hivemind.core.errors import CoreError
from hivemind.core.records import PayloadKind

ENTRIES = ("run.sh", "main.py", "app.py", "run.py", "start.py")
SNIFF_BYTES = 64 * 1024
"""How many of a payload's first bytes tell well enough what it is."""

_TAR_MAGIC_AT = 257


class EntryError(CoreError):
    """There is no telling how to start what was handed in; one line that says what to do."""


class PayloadForm(enum.StrEnum):
    """What a payload's bytes are."""

    ZIP = "zip"
    TAR = "tar"
    """Plain, or compressed with gzip, bzip2 or xz."""
    HASHBANG = "hashbang"
    """An executable script that names its interpreter."""
    PYTHON = "python"

    @property
    def kind(self) -> PayloadKind:
        """Whether it is unpacked or started as it is."""
        is_archive = self in {PayloadForm.ZIP, PayloadForm.TAR}
        return PayloadKind.ARCHIVE if is_archive else PayloadKind.SCRIPT


_MAGIC = (
    (b"PK\x03\x04", PayloadForm.ZIP),
    (b"PK\x05\x06", PayloadForm.ZIP),
    (b"\x1f\x8b", PayloadForm.TAR),
    (b"BZh", PayloadForm.TAR),
    (b"\xfd7zXZ\0", PayloadForm.TAR),
    (b"#!", PayloadForm.HASHBANG),
)


def payload_kind(first_bytes: bytes) -> PayloadForm:
    """What a payload is, judged by its first bytes alone; its name does not matter.

    Args:
        first_bytes: at least 512 bytes, or all there are; ``SNIFF_BYTES`` are best.

    Raises:
        EntryError: it is empty, or neither an archive nor text.
    """
    if not first_bytes:
        raise EntryError("the program is empty: hand in a script, a zip or a tar")
    for magic, form in _MAGIC:
        if first_bytes.startswith(magic):
            return form
    if first_bytes[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return PayloadForm.TAR
    if _is_text(first_bytes):
        return PayloadForm.PYTHON
    raise EntryError(
        "this is neither a script nor an archive: hand in Python, a script that begins with #!, "
        "a zip, or a tar (plain, gz, bz2 or xz)"
    )


def _is_text(first_bytes: bytes) -> bool:
    if b"\0" in first_bytes:
        return False
    try:
        # A character may be cut at the end of what was read.
        codecs.getincrementaldecoder("utf-8")().decode(first_bytes, final=False)
    except UnicodeDecodeError:
        return False
    return True


def choose_entry(members: Iterable[str], command: tuple[str, ...] = ()) -> tuple[str, ...]:
    """How an archive is started: its ``command``, or the name of its entry alone.

    Args:
        members: names of all its members, as they stand in it; folders end with ``/``.
        command: what its ``hivemind.toml`` says; empty where it says nothing.

    Returns:
        ``command`` as it is, or one name relative to the working folder, to be given to
        ``argv_for``.

    Raises:
        EntryError: there is no entry, or no telling which.
    """
    files = sorted({name for member in members if (name := _plain_name(member))})
    if not files:
        raise EntryError("the archive is empty: put a program into it")
    if command:
        return command
    for entry in ENTRIES:
        if entry in files:
            return (entry,)
    scripts = [name for name in files if name.endswith(".py")]
    if len(scripts) == 1:
        return (scripts[0],)
    raise EntryError(_no_entry(files, scripts))


def argv_for(name: str, *, runs_itself: bool = False) -> tuple[str, ...]:
    """The beginning of the command line that starts a file in the working folder.

    Args:
        name: relative to the working folder.
        runs_itself: it begins with ``#!`` and may be executed.
    """
    if runs_itself:
        return (f"./{name}",)
    # An interpreter would take a name that begins with a dash for options of its own.
    file = f"./{name}" if name.startswith("-") else name
    return ("python3", file) if name.endswith(".py") else ("sh", file)


def _plain_name(member: str) -> str:
    """A file's name without a leading ``./``; empty for folders and what is no program."""
    name = member
    while name.startswith("./"):
        name = name[2:]
    parts = name.split("/")
    if name.endswith("/") or parts[0] == "__MACOSX" or ".." in parts or name.startswith("/"):
        return ""
    return name


def _no_entry(files: list[str], scripts: list[str]) -> str:
    tops = {name.split("/")[0] for name in files}
    if len(tops) == 1 and all("/" in name for name in files):
        return (
            f"everything in the archive lies in the folder {tops.pop()[:40]!a}: "
            "pack what is in the folder, not the folder itself"
        )
    wanted = f"add one of {', '.join(ENTRIES)}, or a hivemind.toml with a command"
    if scripts:
        return f"the archive has {len(scripts)} Python files and none is its entry: {wanted}"
    return f"the archive has no entry: {wanted}"
