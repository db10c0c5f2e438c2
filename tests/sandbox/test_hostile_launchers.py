"""A launcher that was taken over says what it likes: that ends its cell, and nothing else."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

import attrs
import pytest
import trio

import sandbox
from tests.sandbox.test_cells import _launchers, _of, _open


def _socket_of(launcher: int) -> int:
    """The launcher's own end of its link to the pool, which comes before its control."""
    folder = Path(f"/proc/{launcher}/fd")
    number = min(int(path.name) for path in folder.iterdir() if "socket:" in str(path.readlink()))
    pidfd = os.pidfd_open(launcher)
    stolen = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, number, 0)  # pidfd_getfd
    os.close(pidfd)
    assert stolen >= 0
    return int(stolen)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"[",
        b"[" * 60_000,
        b"5",
        b'{"id": [1], "answer": "ended"}',
        b'{"id": 1, "answer": "ended"}',
        b"\xff",
    ],
)
async def test_a_launcher_that_talks_nonsense_costs_its_run_and_nobody_else(
    nonsense: bytes,
) -> None:
    async with _open() as pool:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        async with pool.open_run(_of("a", "echo up; sleep 1000")) as run:
            async for _ in run.chunks():
                (launcher,) = _launchers(pool)
                stolen = _socket_of(launcher)
                with socket.socket(fileno=stolen) as link:
                    socket.send_fds(link, [nonsense], [0, 0])
            with trio.fail_after(20), pytest.raises(sandbox.SetupFailed):
                await run.wait()
        assert (await sandbox.run_in(pool, _of("b", "echo on"))).stdout == b"on\n"
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"
        pool.use_cell_rules(sandbox.CellRules(idle_s=0.01))
        with trio.fail_after(20):
            while _launchers(pool):  # noqa: ASYNC110
                await trio.sleep(0.1)
        await trio.sleep(0.1)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_without_its_spawner_a_pool_says_so_and_no_more() -> None:
    async with _open(slots=4) as pool:
        await sandbox.run_in(pool, _of("a", "true"))
        pool._link.kill()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for tenant in ("b", "c", "d", "e", "f", "g", None):
                    nursery.start_soon(_is_refused, pool, tenant)


async def _is_refused(pool: sandbox.Pool, tenant: str | None) -> None:
    for _ in range(5):
        with pytest.raises(sandbox.SetupFailed):
            await sandbox.run_in(pool, attrs.evolve(_of("a", "true"), tenant=tenant))
        await trio.lowlevel.checkpoint()
