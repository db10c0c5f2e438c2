import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind.store.lock import Locked, hold_lock

HOLDER = """
import sys
from pathlib import Path
from hivemind.store.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_lock_is_dropped_with_its_block_and_leaves_its_file(path: Path) -> None:
    for _ in range(2):
        with hold_lock(path):
            assert path.read_text() == f"{os.getpid()}\n"
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_holds_the_lock_is_named_and_kill_9_drops_it(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=f"in use by the process with pid {holder.pid}:"):
            hold_lock(path).__enter__()
        holder.send_signal(signal.SIGKILL)
    with hold_lock(path):
        pass


def test_a_program_started_meanwhile_does_not_inherit_the_lock(path: Path) -> None:
    with hold_lock(path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold_lock(path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_holder_that_has_not_said_who_it_is_is_another_process(path: Path) -> None:
    with hold_lock(path):
        path.write_text("nonsense")
        with pytest.raises(Locked, match="in use by another process:") as caught:
            hold_lock(path).__enter__()
        assert caught.value.pid is None


def test_a_link_in_the_locks_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        hold_lock(path).__enter__()
    assert not (tmp_path / "elsewhere").exists()
