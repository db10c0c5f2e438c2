"""The worker's folder in its home, for one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hivemind.settings.home import HomeUnusable, make_home
from hivemind.worker.errors import WorkerError


class HomeInUse(WorkerError):
    """Another worker runs in this home."""


@contextmanager
def open_own_home(home: Path) -> Iterator[Path]:
    """The worker's folder in the home, made where it is missing, for this process alone."""
    make_home(home)
    folder = home / "worker"
    try:
        (folder / "attempts").mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeUnusable(
            f"{folder} cannot be used ({error.strerror}): mend that, or choose another --home"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeInUse(
                f"another worker runs in {home}: stop it, or use another --home"
            ) from error
        yield folder
    finally:
        os.close(lock)
