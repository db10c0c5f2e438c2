"""Cells: whose they are, how long they last, and what becomes of a run when one fails."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import attrs
import pytest
import trio
import trio.lowlevel

import sandbox
from sandbox import Reason, Start, cell_run
from sandbox.cell_cgroup import LeafCgroup, SharedCgroup
from sandbox.python import Python
from tests.sandbox.conftest import (
    CGROUP_PARENT,
    cgroup_folders,
    limits,
    needs_cgroup,
    processes_with,
    shell,
    unique,
)

_LAUNCHER = "/tmp/launcher/main.py"
# Each has terminals of its own: a file system whose number no other has that is there at the same
# time, and which others that had the number did not come with at this time.
_WHICH_CELL = "stat -c %d-%.Z /dev/pts"


@contextlib.asynccontextmanager
async def _open(
    mode: str = "cgroup", slots: int = 2, **rules: float
) -> AsyncIterator[sandbox.Pool]:
    if mode == "cgroup":
        needs_cgroup()
    config = sandbox.PoolConfig(
        limits=mode,  # type: ignore[arg-type]
        slots=slots,
        cgroup_parent=CGROUP_PARENT,
        cells=sandbox.CellRules(**rules),  # type: ignore[arg-type]
    )
    async with sandbox.open_pool(config) as pool:
        yield pool


def _of(tenant: str, script: str, **changes: object) -> sandbox.Spec:
    return attrs.evolve(shell(script, limits=limits()), tenant=tenant, **changes)


async def _which(pool: sandbox.Pool, tenant: str) -> bytes:
    return (await sandbox.run_in(pool, _of(tenant, _WHICH_CELL))).stdout


async def _wait_dead(pid: int) -> None:
    """Wait until it has died, reaped or not: up to then what it started may take a run."""
    with trio.fail_after(10):
        while not _is_dead(pid):
            await trio.lowlevel.checkpoint()


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _launchers(pool: sandbox.Pool) -> list[int]:
    """The launchers of this pool's cells: processes that stand under one of its uids."""
    uids = set(pool._uids) if os.geteuid() == 0 else {os.geteuid()}
    found: dict[int, int] = {}
    for pid in processes_with(_LAUNCHER):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            is_launcher = words[-4:-1] == [b"exec", b"5", b"6"] and b"bwrap" not in words[0]
            # Whose it is stands there; its folder is root's, as that of all who have a capability.
            status = Path(f"/proc/{pid}/status").read_text()
            if is_launcher and int(status.split("Uid:")[1].split()[0]) in uids:
                found[pid] = int(status.split("PPid:")[1].split()[0])
    # The init of a run has its launcher's command line.
    return [pid for pid, parent in found.items() if parent not in found]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _taker(pool: sandbox.Pool, launcher: int) -> int:
    """Who takes the next run of a cell at rest: an init, which on v2 is not made before."""
    if _has_leaves(pool):
        return launcher
    with trio.fail_after(20):
        while not _children(launcher):  # noqa: ASYNC110 - it is made once the last one has ended
            await trio.sleep(0.001)
    return _children(launcher)[0]


def _has_leaves(pool: sandbox.Pool) -> bool:
    return pool._cgroup is not None and pool._cgroup.is_v2


def _shared_cgroup(pool: sandbox.Pool) -> SharedCgroup:
    """That of the only cell."""
    (cell,) = pool._cells._idle
    if not isinstance(cell.cgroup, SharedCgroup):
        pytest.skip("on v2 each run has a cgroup of its own")
    return cell.cgroup


def _busy_init(launcher: int) -> int:
    """The init of a run that began, which is first to go when memory runs out; 0 for none."""
    for pid in _children(launcher):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n":
                return pid
    return 0


async def test_runs_of_one_tenant_follow_each_other_in_one_cell() -> None:
    async with _open() as pool:
        assert await _which(pool, "a") == await _which(pool, "a")


async def test_tenants_never_share_a_cell() -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        assert await _which(pool, "b") != first
        assert await _which(pool, "a") == first


async def test_a_run_without_a_tenant_gets_a_sandbox_of_its_own() -> None:
    async with _open() as pool:
        await _which(pool, "a")
        async with pool.open_run(shell("true")) as run:
            assert run.started is Start.COLD


async def test_what_a_cell_cannot_give_runs_in_a_sandbox_of_its_own(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    bind = sandbox.ReadOnlyBind(source=tmp_path, target=PurePosixPath("/data"))
    async with _open() as pool, pool.open_run(_of("a", "ls -d /data", binds=(bind,))) as run:
        assert run.started is Start.COLD
        assert (await run.wait()).exit_code == 0


async def test_where_no_cell_can_be_had_a_tenants_runs_are_cold() -> None:
    nowhere = Python(prefix=None, env=(("PATH", "/nowhere:/usr/bin:/bin"),))
    async with _open() as pool:
        for _ in range(2):
            async with pool.open_run(_of("a", "echo ran", python=nowhere)) as run:
                assert run.started is Start.COLD
                assert [chunk.data async for chunk in run.chunks()] == [b"ran\n"]
        assert len(_launchers(pool)) == 0


async def test_where_a_cell_gets_no_cgroup_it_is_refused_and_the_pool_goes_on() -> None:
    async with _open() as pool, pool.open_run(shell("echo up; sleep 1000")) as living:
        async for _ in living.chunks():
            break
        assert pool._cgroup is not None
        # There is room for the run that is there and for nothing else.
        room = pool._cgroup._parents[0] / pool._cgroup._token / "cgroup.max.descendants"
        room.write_text("1")
        with pytest.raises(sandbox.SetupFailed, match="cannot make a cgroup"):
            await sandbox.run_in(pool, _of("a", "echo ran"))
        room.write_text("max")
        async with pool.open_run(_of("a", "echo ran")) as run:
            assert run.started is Start.COLD  # cells are not tried again at once
            assert [chunk.data async for chunk in run.chunks()] == [b"ran\n"]


async def test_a_cell_is_made_anew_after_its_number_of_runs() -> None:
    async with _open(max_runs=2) as pool:
        seen = [await _which(pool, "a") for _ in range(5)]
    assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4]


async def test_a_cell_is_made_anew_when_it_is_old() -> None:
    async with _open(max_age_s=0.01) as pool:
        first = await _which(pool, "a")
        assert await _which(pool, "a") != first


async def test_a_cell_that_nobody_uses_is_given_up() -> None:
    async with _open(idle_s=0.2) as pool:
        await _which(pool, "a")
        (launcher,) = _launchers(pool)
        pidfd = os.pidfd_open(launcher)
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


async def test_a_cell_that_is_taken_while_another_is_given_up_goes_on() -> None:
    async with _open(idle_s=0.3) as pool:
        await _which(pool, "a")
        (launcher,) = _launchers(pool)
        second = await _which(pool, "b")
        pidfd = os.pidfd_open(launcher)
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(pidfd)  # both are old, and the first is being ended
        os.close(pidfd)
        assert await _which(pool, "b") == second
        await trio.sleep(1.5)  # until the next look
        assert (await sandbox.run_in(pool, _of("b", "echo on"))).stdout == b"on\n"


async def test_when_places_run_out_the_cell_that_was_used_longest_ago_goes() -> None:
    async with _open(slots=1) as pool:
        cells = {tenant: await _which(pool, tenant) for tenant in ("a", "b", "c")}
        assert pool.config.cell_places == len(cells)
        assert await _which(pool, "a") == cells["a"]
        await _which(pool, "d")  # b's goes
        assert await _which(pool, "a") == cells["a"]
        assert await _which(pool, "b") != cells["b"]
        assert len(_launchers(pool)) <= pool.config.cell_places


async def test_parked_cells_are_kept_ready_and_each_serves_one_tenant() -> None:
    async with _open(parked=2) as pool:
        with trio.fail_after(20):
            while pool.parked < 2:  # noqa: ASYNC110 - they are made in the background
                await trio.sleep(0.01)
        launchers = set(_launchers(pool))
        first, second = await _which(pool, "a"), await _which(pool, "b")
        assert first != second
        assert launchers <= set(_launchers(pool))  # they served, none was made for these runs
        with trio.fail_after(20):
            while pool.parked < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert len(_launchers(pool)) == 4


@pytest.mark.parametrize("mode", ["cgroup", "best-effort"])
async def test_a_launcher_that_dies_costs_its_run_an_honest_error_and_nobody_else(
    mode: str,
) -> None:
    marker = unique("launcher")
    async with _open(mode) as pool:
        async with pool.open_run(_of("a", f"echo up; sleep 1000; : {marker}")) as run:
            async for _ in run.chunks():
                (launcher,) = _launchers(pool)
                os.kill(launcher, signal.SIGKILL)
            with trio.fail_after(20), pytest.raises(sandbox.SetupFailed, match="its cell ended"):
                await run.wait()
        assert not processes_with(marker)
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


async def test_a_launcher_that_died_between_runs_costs_nothing() -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        (launcher,) = _launchers(pool)
        os.kill(launcher, signal.SIGKILL)
        await _wait_dead(launcher)
        assert await _which(pool, "a") not in (b"", first)


async def test_an_init_that_dies_while_it_waits_costs_nothing() -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        (launcher,) = _launchers(pool)
        os.kill(await _taker(pool, launcher), signal.SIGKILL)
        assert await _which(pool, "a") not in (b"", first)


async def test_an_init_that_hangs_while_it_waits_is_ended_with_its_run() -> None:
    async with _open() as pool:
        await _which(pool, "a")
        (launcher,) = _launchers(pool)
        os.kill(await _taker(pool, launcher), signal.SIGSTOP)
        result = (await sandbox.run_in(pool, _of("a", "true", limits=limits(wall_s=1)))).result
        assert result.reason is Reason.TIME_LIMIT
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


@pytest.mark.parametrize("in_time", [True, False])
async def test_where_no_init_can_be_made_ahead_one_is_made_when_there_is_a_run(
    in_time: bool,
) -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        cgroup = _shared_cgroup(pool)
        (launcher,) = _launchers(pool)
        async with pool.open_run(_of("a", "echo up; sleep 0.2")) as run:
            async for _ in run.chunks():
                break
            # No process can be made until this is set for a run of other limits.
            cgroup._cgroup.v1_files()["pids_max"].write_text("1")
            await run.wait()
        await trio.sleep(0.2)
        assert not _children(launcher)
        its_own = limits(pids=20) if in_time else limits()
        async with pool.open_run(_of("a", _WHICH_CELL, limits=its_own)) as run:
            assert run.started is (Start.CELL if in_time else Start.COLD)
            told = b"".join([chunk.data async for chunk in run.chunks()])
            assert (told == first) == in_time


async def test_what_is_left_in_a_cell_ends_it_before_the_next_run() -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        cgroup = _shared_cgroup(pool)
        procs = cgroup._cgroup.v1_files()["pids"].parent / "cgroup.procs"
        async with trio.open_nursery() as nursery:
            left = await nursery.start(trio.run_process, ["sleep", "0.7"])
            procs.write_text(str(left.pid))
            with trio.fail_after(20):
                while cgroup.is_clean():  # noqa: ASYNC110 - its init may be in the making
                    await trio.sleep(0.001)
            assert await _which(pool, "a") not in (b"", first)


async def test_a_launcher_that_hangs_is_ended_with_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_run, "_LAUNCHER_S", 0.5)
    async with _open() as pool:
        await _which(pool, "a")
        (launcher,) = _launchers(pool)
        os.kill(launcher, signal.SIGSTOP)
        result = (await sandbox.run_in(pool, _of("a", "true", limits=limits(wall_s=1)))).result
        assert result.reason is Reason.TIME_LIMIT
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


async def test_memory_that_runs_out_ends_the_run_and_not_its_cell() -> None:
    hungry = "import sys\nx = bytearray(400 << 20)\nx[::4096] = b'x' * len(x[::4096])\n"
    async with _open() as pool:
        first = await _which(pool, "a")
        spec = sandbox.Spec(argv=("python3", "-c", hungry), limits=limits(), tenant="a")
        for warm in (False, True):
            done = await sandbox.run_in(pool, attrs.evolve(spec, warm_python=warm))
            assert done.result.reason is Reason.OUT_OF_MEMORY
            assert done.result.exit_code == 137
        assert await _which(pool, "a") == first


async def test_usage_is_the_runs_own() -> None:
    large = "x = bytearray(40 << 20); x[::4096] = b'x' * len(x[::4096])"
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    async with _open() as pool:
        for source, memory_mib, cpu_s in ((large, 40, 0.0), (busy, 0, 0.3), ("pass", 0, 0.0)):
            for warm in (False, True):
                spec = sandbox.Spec(argv=("python3", "-c", source), limits=limits(), tenant="a")
                done = await sandbox.run_in(pool, attrs.evolve(spec, warm_python=warm))
                usage = done.result.usage
                assert memory_mib <= usage.memory_peak_bytes / (1 << 20) < memory_mib + 20
                assert cpu_s <= usage.cpu_s < cpu_s + 0.25


async def test_limits_are_those_of_each_run() -> None:
    source = """
import os, resource, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    print(made, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    async with _open() as pool:
        for most in (20, 40, 20):
            for warm in (False, True):
                spec = sandbox.Spec(
                    argv=("python3", "-c", source),
                    limits=limits(pids=most, open_files=100 + most),
                    tenant="a",
                    warm_python=warm,
                )
                told = (await sandbox.run_in(pool, spec)).stdout.split()
                assert [int(word) for word in told] == [most - 1, 100 + most]


async def test_stopping_while_inputs_are_staged_ends_it(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"f{number}"))
    spec = _of("a", "echo ran", archive=sandbox.Archive(source=archive))
    async with _open() as pool:
        await _which(pool, "a")
        with trio.move_on_after(0.2) as scope:
            await sandbox.run_in(pool, spec)
        assert scope.cancelled_caught
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


async def test_a_run_whose_init_dies_before_the_task_begins_is_started_anew(
    tmp_path: Path,
) -> None:
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"f{number}"))
    spec = _of("a", "echo ran", archive=sandbox.Archive(source=tmp_path / "many.tar"))
    async with _open() as pool:
        await _which(pool, "a")
        (launcher,) = _launchers(pool)

        async def kill_init() -> None:
            while not (init := _busy_init(launcher)):  # noqa: ASYNC110
                await trio.sleep(0.001)
            os.kill(init, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_init)
            with trio.fail_after(20):
                async with pool.open_run(spec) as run:
                    assert run.started is Start.COLD
                    assert [chunk.data async for chunk in run.chunks()] == [b"ran\n"]
        # The cell had served another before: that does not speak against its kind.
        async with pool.open_run(_of("a", "echo on")) as run:
            assert run.started is Start.CELL


async def test_where_the_first_run_of_a_cell_cannot_begin_the_next_is_cold_without_trying() -> None:
    async with _open(parked=1) as pool:
        with trio.fail_after(20):
            while not pool.parked:  # noqa: ASYNC110 - it is made in the background
                await trio.sleep(0.01)
        pool.use_cell_rules(sandbox.CellRules(parked=0))
        (launcher,) = _launchers(pool)
        init = await _taker(pool, launcher)
        os.kill(init, signal.SIGSTOP)

        async def kill_later() -> None:
            await trio.sleep(0.2)
            os.kill(init, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_later)
            for _ in range(2):
                async with pool.open_run(_of("a", "echo ran")) as run:
                    assert run.started is Start.COLD
                    assert [chunk.data async for chunk in run.chunks()] == [b"ran\n"]
        assert not _launchers(pool)


@pytest.mark.parametrize("tenant", [None, "a"])
async def test_memory_that_runs_out_while_inputs_are_staged_is_the_tasks_own_fault(
    tenant: str | None, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(60_000):
            archive.writestr(f"f{number}", "")
    spec = sandbox.Spec(
        argv=("true",),
        tenant=tenant,
        archive=sandbox.Archive(source=tmp_path / "many.zip", max_members=100_000),
        limits=limits(memory_bytes=16 << 20, scratch_bytes=4096),
    )
    async with _open() as pool:
        with trio.fail_after(60):
            result = (await sandbox.run_in(pool, spec)).result
        assert result.reason is Reason.OUT_OF_MEMORY
        assert (await sandbox.run_in(pool, _of("a", "echo on"))).stdout == b"on\n"


async def test_a_bad_input_is_told_and_the_cell_goes_on(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("this is no archive")
    archive = sandbox.Archive(source=tmp_path / "no.zip")
    missing = sandbox.StagedFile(source=tmp_path / "missing", name="x")
    async with _open() as pool:
        first = await _which(pool, "a")
        with pytest.raises(sandbox.BadArchive, match="not a zip or tar"):
            await sandbox.run_in(pool, _of("a", "true", archive=archive))
        with pytest.raises(sandbox.BadSpec, match="cannot read"):
            await sandbox.run_in(pool, _of("a", "true", files=(missing,)))
        with pytest.raises(sandbox.BadSpec, match="Argument list too long"):
            await sandbox.run_in(
                pool, sandbox.Spec(argv=("true", *["x" * 100_000] * 100), tenant="a")
            )
        assert await _which(pool, "a") == first


async def test_many_at_once_never_meet() -> None:
    async with _open(slots=4) as pool:
        seen: dict[bytes, set[str]] = {}

        async def work(tenant: str) -> None:
            for _ in range(5):
                spec = _of(tenant, f"{_WHICH_CELL}; ls -A /tmp; echo {tenant} >/tmp/mine")
                lines = (await sandbox.run_in(pool, spec)).stdout.split()
                assert len(lines) == 1
                seen.setdefault(lines[0], set()).add(tenant)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(work, f"tenant-{number % 3}")
    assert all(len(tenants) == 1 for tenants in seen.values())


@pytest.mark.parametrize("mode", ["cgroup", "best-effort"])
async def test_closing_a_pool_leaves_nothing_of_its_cells(mode: str) -> None:
    async with _open(mode, parked=1) as pool:
        await _which(pool, "a")
        launchers = _launchers(pool)
        assert launchers
    assert not set(launchers) & set(processes_with(_LAUNCHER))
    assert not cgroup_folders(with_parent=True)


async def test_a_cell_that_may_not_be_reused_was_made_ahead_and_goes_with_its_run() -> None:
    once = _of("a", _WHICH_CELL, reuse=False)
    async with _open(parked=1) as pool:
        seen = {await _which(pool, "a")}
        for _ in range(2):
            with trio.fail_after(20):
                while not pool.parked:  # noqa: ASYNC110 - they are made in the background
                    await trio.sleep(0.01)
            async with pool.open_run(once) as run:
                assert run.started is not Start.COLD
                seen.add(b"".join([chunk.data async for chunk in run.chunks()]))
        seen.add((await sandbox.run_in(pool, _of("b", _WHICH_CELL))).stdout)
        assert len(seen) == 4


async def test_a_cell_that_may_not_be_reused_goes_with_its_run_under_new_rules_too() -> None:
    async with _open(parked=1, max_runs=1) as pool:
        with trio.fail_after(20):
            while not pool.parked:  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with pool.open_run(_of("a", _WHICH_CELL, reuse=False)) as run:
            assert run.started is not Start.COLD
            pool.use_cell_rules(sandbox.CellRules(parked=0, max_runs=1000))
            once = b"".join([chunk.data async for chunk in run.chunks()])
        assert await _which(pool, "a") != once


async def test_the_place_of_a_cell_that_could_not_be_removed_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_removed(_: object) -> None:
        raise TimeoutError("something is left of it")

    nowhere = Python(prefix=None, env=(("PATH", "/nowhere:/usr/bin:/bin"),))
    async with _open() as pool:
        places = set(pool._cells._free)
        with monkeypatch.context() as patched:
            for kind in (SharedCgroup, LeafCgroup):
                patched.setattr(kind, "remove", not_removed)
            done = await sandbox.run_in(pool, _of("a", "echo ran", python=nowhere))
        assert done.stdout == b"ran\n"
        assert len(places - set(pool._cells._free)) == 1


async def test_without_a_parked_cell_what_may_not_reuse_one_is_cold() -> None:
    async with _open() as pool:
        await _which(pool, "a")
        async with pool.open_run(_of("a", "true", reuse=False)) as run:
            assert run.started is Start.COLD


async def test_rules_can_change_while_the_pool_is_open() -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        pool.use_cell_rules(sandbox.CellRules(parked=1, max_runs=1))
        with trio.fail_after(20):
            while not pool.parked:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert await _which(pool, "a") == first
        assert await _which(pool, "a") != first


async def test_more_files_than_a_message_takes_are_staged_without_a_cell(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    files = tuple(
        sandbox.StagedFile(source=tmp_path / "x", name=f"in/{number}") for number in range(2000)
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        async with _open() as pool:
            first = await _which(pool, "a")
            for count, started in ((50, Start.CELL), (300, Start.COLD), (2000, Start.COLD)):
                spec = _of("a", "ls in | wc -l", files=files[:count])
                async with pool.open_run(spec) as run:
                    assert [chunk.data async for chunk in run.chunks()] == [b"%d\n" % count]
                    assert run.started is started
            assert await _which(pool, "a") == first
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
