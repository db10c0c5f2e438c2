"""Device nodes of the host that a run is granted by name."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from tests.sandbox.conftest import python, shell

_ALWAYS = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"} | {
    "stdout",
    "tty",
    "urandom",
    "zero",
}


def _some_device() -> Path:
    """A character device that anyone may open and that no task sees unasked."""
    for path in sorted(Path("/dev").iterdir()):
        found = path.lstat()
        if (
            stat.S_ISCHR(found.st_mode)
            and found.st_mode & 0o004
            and path.name not in _ALWAYS | {"kmsg"}
        ):
            return path
    pytest.skip("this machine has no further device that anyone may open")


def _found(pattern: str, wanted: Callable[[Path], bool]) -> list[Path]:
    paths = sorted(Path("/dev").glob(pattern))
    return [path for path in paths if path.is_char_device() and wanted(path)]


async def test_unasked_there_are_only_the_plain_devices(any_pool: sandbox.Pool) -> None:
    done = await sandbox.run_in(any_pool, shell("ls -A /dev; echo x >/dev/new"))
    assert set(done.stdout.decode().split()) == _ALWAYS
    assert b"Read-only file system" in done.stderr


async def test_the_plain_devices_work(any_pool: sandbox.Pool) -> None:
    source = """
import os, pty
assert os.read(os.open("/dev/zero", os.O_RDONLY), 3) == bytes(3)
assert len(os.read(os.open("/dev/urandom", os.O_RDONLY), 3)) == 3
assert os.read(os.open("/dev/null", os.O_RDWR), 3) == b""
assert os.write(os.open("/dev/null", os.O_WRONLY), b"x") == 1
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error:
    print(error.strerror)
control, terminal = pty.openpty()
print(os.ttyname(terminal), os.listdir("/dev/pts"))
"""
    done = await sandbox.run_in(any_pool, python(source))
    assert done.stdout == b"No space left on device\n/dev/pts/0 ['0', 'ptmx']\n", done.stderr


async def test_a_terminal_is_seen_by_its_own_run_alone(any_pool: sandbox.Pool) -> None:
    holder = python(
        "import pty, time; held = pty.openpty(); print('up', flush=True); time.sleep(60)"
    )
    async with any_pool.open_run(holder) as run:
        async for _ in run.chunks():
            break
        other = await sandbox.run_in(any_pool, shell("ls /dev/pts"))
    assert other.stdout == b"ptmx\n"


async def test_a_granted_device_is_there_under_its_own_name(any_pool: sandbox.Pool) -> None:
    device = _some_device()
    source = f"""
import json, os
os.close(os.open({str(device)!r}, os.O_RDONLY))
print(json.dumps(dict(node=os.stat({str(device)!r}).st_rdev, names=os.listdir("/dev"))))
"""
    done = await sandbox.run_in(any_pool, python(source, devices=(device,)))
    assert done.result.exit_code == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["node"] == device.stat().st_rdev
    assert set(told["names"]) == _ALWAYS | {device.name}


async def test_a_granted_device_keeps_its_permissions(any_pool: sandbox.Pool) -> None:
    closed = _found("tty[0-9]*", lambda path: path.stat().st_mode & 0o006 == 0)
    if not closed or os.access(closed[0], os.R_OK) != (os.geteuid() == 0):
        pytest.skip("this machine has no terminal that others may not open")
    done = await sandbox.run_in(
        any_pool, shell(f"cat {closed[0]}; echo x >/dev/new", devices=(closed[0],))
    )
    assert b"Permission denied" in done.stderr
    assert b"Read-only file system" in done.stderr
    assert done.stdout == b""


async def test_a_device_in_a_folder_is_there_in_that_folder(any_pool: sandbox.Pool) -> None:
    deep = _found("*/*", lambda path: path.parent.name not in ("fd", "pts", "shm"))
    if not deep:
        pytest.skip("this machine has no device in a folder below /dev")
    done = await sandbox.run_in(any_pool, shell(f"test -c {deep[0]}", devices=(deep[0],)))
    assert done.result.exit_code == 0
