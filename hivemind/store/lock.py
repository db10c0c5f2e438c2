"""One master to a home: a lock that the kernel drops with the process that holds it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hivemind.store.api import StoreError


class Locked(StoreError):
    """Another process holds the lock; ``pid`` is its id as it wrote it, None if it did not yet."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = "another process" if pid is None else f"the process with pid {pid}"
        super().__init__(f"{path.parent} is in use by {who}: stop it, or choose another --home")
        self.pid = pid


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock for as long as the block; its file holds our pid, and stays.

    The lock is flock(2)'s: it ends with the process however that ends, and is not inherited by a
    program that is started meanwhile. Its file is never removed, since a lock on a removed file
    keeps nobody out. Raises Locked, or OSError where the file cannot be opened.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(path, _pid(os.pread(file, 32, 0))) from None
        os.ftruncate(file, 0)
        os.pwrite(file, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(file)


def _pid(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() else None
