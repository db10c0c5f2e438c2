"""What a task reads: fed by the pool, and never a way to the pool, its tenants or the host."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import attrs
import pytest
import trio

import sandbox
from sandbox import Start
from tests.sandbox.conftest import limits, python, shell
from tests.sandbox.test_cells import _launchers, _open, _taker

_PLANT = """
import fcntl, os, struct
for start in range(0, 1000, 10):
    lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, 1, 0)
    fcntl.fcntl(0, 37, lock)  # F_OFD_SETLK
fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_APPEND | os.O_NONBLOCK)
"""
_LOOK = """
import fcntl, os
set = fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK)
print(set, open("/proc/self/fdinfo/0").read().count("lock:"))
"""
# Makes the pipe that it reads from full again and again, where it had room a moment ago.
_SHRINK = """
import fcntl, os
count = 0
while data := os.read(0, 4096):
    count += len(data)
    for size in (4096, 65536):
        try:
            fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, size)
        except OSError:
            pass
print(count)
"""


async def test_an_empty_stdin_keeps_nothing_of_a_task_for_the_next(any_pool: sandbox.Pool) -> None:
    for tenant in ("one", "two"):
        spec = attrs.evolve(python(_PLANT, limits=limits()), tenant=tenant)
        assert (await sandbox.run_in(any_pool, spec)).result.exit_code == 0
        done = await sandbox.run_in(any_pool, attrs.evolve(python(_LOOK), tenant="two"))
        assert done.stdout == b"0 0\n"


async def test_a_pipe_that_is_made_smaller_while_it_is_fed_loses_nothing(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(bytes(64 << 20))

    async def keep_busy() -> None:
        while True:
            await trio.sleep(0.001)
            time.sleep(0.002)  # noqa: ASYNC251 - the loop has other things to do

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_busy)
        spec = python(_SHRINK, limits=limits(), stdin=tmp_path / "data")
        done = await sandbox.run_in(any_pool, spec)
        nursery.cancel_scope.cancel()
    assert done.stdout == b"%d\n" % (64 << 20)


async def test_a_stdin_that_breaks_off_ends_its_run_and_nothing_else(
    any_pool: sandbox.Pool,
) -> None:
    broken = shell("cat; echo whole", limits=limits(), stdin=Path("/proc/self/mem"))
    with pytest.raises(sandbox.SetupFailed, match="stdin: Input/output error"):
        await sandbox.run_in(any_pool, broken)
    assert (await sandbox.run_in(any_pool, shell("echo on"))).stdout == b"on\n"


async def test_a_start_that_failed_in_a_cell_took_nothing_from_stdin() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"all of it")
    os.close(writer)
    async with _open() as pool, trio.open_nursery() as nursery:
        await sandbox.run_in(pool, attrs.evolve(shell("true"), tenant="a"))
        (launcher,) = _launchers(pool)
        init = await _taker(pool, launcher)
        os.kill(init, signal.SIGSTOP)

        async def kill_later() -> None:
            await trio.sleep(0.2)
            os.kill(init, signal.SIGKILL)

        nursery.start_soon(kill_later)
        async with pool.open_run(attrs.evolve(shell("cat", stdin=reader), tenant="a")) as run:
            assert run.started is Start.COLD
            assert b"".join([chunk.data async for chunk in run.chunks()]) == b"all of it"
    os.close(reader)
