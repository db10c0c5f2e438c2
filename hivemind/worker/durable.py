"""Files that are whole or absent, whatever happens while they are written."""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Have ``data`` on disk as ``path``, readable by its owner alone; blocks, so give it a thread.

    A reader, and a restart after a power cut, sees the old file or the new one, never a part.
    Raises OSError where the disk will not; the old file is then still there.
    """
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.fsync(descriptor)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    fresh.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on disk; blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
