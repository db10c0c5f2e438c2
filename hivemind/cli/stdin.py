"""Standard input for a task: read whole into a temporary file before anything is submitted."""

import os
import select
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind.cli.faults import CommandFailed
from hivemind.core.messages import UPLOAD_CHUNK_BYTES

if TYPE_CHECKING:
    from hivemind.client.sources import Source

STDIN_BYTES = 1_000_000_000
"""The most that is read, for a pool may take as much; one that takes less says so."""

_STDIN_FD = 0


@contextmanager
def spooled_stdin(limit_bytes: int = STDIN_BYTES) -> Iterator["Source | None"]:
    """What standard input holds, in a file that is gone when the block is left.

    None where there is nothing to send: a terminal, a closed descriptor, ``/dev/null``, or an input
    that ends at once.

    Raises:
        CommandFailed: it is longer than ``limit_bytes``, or cannot be read or stored.
    """
    from hivemind.client.sources import file_source

    if not _has_stdin():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hivemind-stdin-") as folder:
        spool = Path(folder, "stdin")
        try:
            size = _spool(spool, limit_bytes)
        except OSError as error:
            raise CommandFailed(
                f"standard input cannot be read: {error.strerror}; give none with </dev/null"
            ) from error
        yield file_source(spool) if size else None


def _has_stdin() -> bool:
    try:
        status = os.fstat(_STDIN_FD)
    except OSError:
        return False
    if os.isatty(_STDIN_FD):
        return False
    is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116
    return not is_null


def _spool(path: Path, limit_bytes: int) -> int:
    size = 0
    status = os.fstat(_STDIN_FD)
    if stat.S_ISREG(status.st_mode):
        _check_fits(status.st_size - os.lseek(_STDIN_FD, 0, os.SEEK_CUR), limit_bytes)
    with path.open("wb") as file:
        while data := _read_some():
            size += len(data)
            _check_fits(size, limit_bytes)
            file.write(data)
    return size


def _check_fits(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise CommandFailed(
            f"standard input is longer than {limit_bytes} bytes; compress it, or give it "
            "to several tasks in parts"
        )


def _read_some() -> bytes:
    while True:
        try:
            return os.read(_STDIN_FD, UPLOAD_CHUNK_BYTES)
        except BlockingIOError:
            # Whoever started this shares the pipe with us and has made it non-blocking.
            select.select([_STDIN_FD], [], [])
