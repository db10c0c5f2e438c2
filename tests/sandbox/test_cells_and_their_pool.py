"""What a run in a cell could do to the pool around it, and to those who come after."""

from __future__ import annotations

import io
import signal
import time

import pytest
import trio

import sandbox
from sandbox import Reason, cell
from tests.sandbox.conftest import shell
from tests.sandbox.test_cells import _of, _open


async def _longest_pause(pool: sandbox.Pool, spec: sandbox.Spec) -> float:
    """Seconds that the loop did nothing else while a run ended and was left."""
    longest_s = 0.0

    async def look() -> None:
        nonlocal longest_s
        last_s = time.monotonic()
        while True:
            await trio.sleep(0.002)
            longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()

    async with trio.open_nursery() as nursery:
        async with pool.open_run(spec) as run:
            assert (await run.wait()).exit_code == 0
            nursery.start_soon(look)
            await trio.sleep(0.1)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return longest_s


async def test_much_in_a_tasks_folder_does_not_hold_up_the_pool() -> None:
    fill = "head -c 900M /dev/zero >big"
    large = sandbox.Limits(file_bytes=1 << 30)
    async with _open() as pool:
        # The least of several: others use this machine too.
        pauses_s = [await _longest_pause(pool, _of("a", fill, limits=large)) for _ in range(4)]
    assert min(pauses_s) < 0.05


async def test_what_a_run_left_is_collected_before_it_is_left() -> None:
    async with _open(slots=1) as pool:
        for first in (shell("echo x >output/x"), _of("a", "echo x >output/x")):
            async with pool.open_run(first) as run:
                await run.wait()
            async with pool.open_run(shell("echo secret >output/y; sleep 1000")):
                await trio.sleep(0.2)
                taken = io.BytesIO()
                with pytest.raises(sandbox.CollectFailed, match="inside `open_run`"):
                    await run.collect(taken, max_bytes=1 << 20, max_files=10)
                assert not taken.getvalue()


async def test_an_init_that_is_killed_is_no_failed_setup() -> None:
    async with _open() as pool:
        async with pool.open_run(_of("a", "echo words of mine >&2; sleep 1000")) as run:
            async for _ in run.chunks():
                signal.pidfd_send_signal(run._pidfd, signal.SIGKILL)
            result = await run.wait()
        assert (result.reason, result.exit_code) == (Reason.SIGNALLED, 137)


@pytest.mark.parametrize("mode", ["cgroup", "best-effort"])
async def test_many_short_runs_leave_nothing_under_watch(mode: str) -> None:
    async with _open(mode) as pool:

        async def work(tenant: str) -> None:
            for _ in range(100):
                await sandbox.run_in(pool, _of(tenant, "true"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, "a")
            nursery.start_soon(work, "b")
        assert not pool._watchdog._watched


async def test_a_cell_that_cannot_be_cleaned_up_costs_its_place_and_no_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell, "_GONE_S", 0.3)
    async with _open(slots=1, max_runs=1) as pool:
        spawner = pool._link._pidfds[0]
        places = len(pool._cells._free)
        with pytest.raises(sandbox.SetupFailed, match="cleaned up"):
            async with pool.open_run(_of("a", "sleep 1000")):
                signal.pidfd_send_signal(spawner, signal.SIGSTOP)
        signal.pidfd_send_signal(spawner, signal.SIGCONT)
        monkeypatch.undo()
        with trio.fail_after(20):
            assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"
            assert (await sandbox.run_in(pool, shell("echo on"))).stdout == b"on\n"
        assert len(pool._cells._free) == places - 1


async def test_what_a_run_leaves_in_the_kernel_does_not_raise_the_limit_of_the_next() -> None:
    names = """
import os
for number in range(400_000):
    try:
        os.stat(f"/usr/share/{'n' * 40}{number}")
    except OSError:
        pass
"""
    use = "x = bytearray(150 << 20); x[::4096] = b'x' * len(x[::4096])"
    small = {"scratch_bytes": 4096, "tmp_bytes": 4096, "shm_bytes": 4096}
    async with _open() as pool:
        spec = sandbox.Spec(argv=("python3", "-c", names), tenant="a", warm_python=False)
        assert (await sandbox.run_in(pool, spec)).result.exit_code == 0
        tight = sandbox.Limits(memory_bytes=64 << 20, **small)
        for _ in range(2):
            spec = sandbox.Spec(argv=("python3", "-c", use), limits=tight, tenant="a")
            assert (await sandbox.run_in(pool, spec)).result.reason is Reason.OUT_OF_MEMORY


async def test_a_run_does_not_hide_behind_what_another_left_in_the_kernel() -> None:
    names = """
import os
for number in range(400_000):
    try:
        os.stat(f"/usr/share/{'n' * 40}{number}")
    except OSError:
        pass
"""
    use = "x = bytearray(200 << 20); x[::4096] = b'x' * len(x[::4096])"
    tight = sandbox.Limits(
        memory_bytes=240 << 20, scratch_bytes=4096, tmp_bytes=4096, shm_bytes=4096
    )
    async with _open() as pool:
        for source in (names, use):
            spec = sandbox.Spec(argv=("python3", "-c", source), limits=tight, tenant="a")
            result = (await sandbox.run_in(pool, spec)).result
            assert result.exit_code == 0
        assert result.usage.memory_peak_bytes > 150 << 20
