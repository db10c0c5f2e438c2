"""Runs that are cut short anywhere, of several tenants at once: nothing of them stays."""

from __future__ import annotations

import contextlib
import gc
import io
import random
from pathlib import Path

import attrs
import pytest
import trio

import sandbox
from tests.sandbox.conftest import (
    CGROUP_PARENT,
    cgroup_folders,
    limits,
    needs_cgroup,
    processes_with,
    shell,
    unique,
)

_RUNS = 300
_TENANTS = ("a", "b", "c", "d", "e", None)
_PATIENCE_S = 90


def _specs(marker: str, data: Path, missing: Path) -> list[sandbox.Spec]:
    staged = sandbox.StagedFile(source=data, name="in/data")
    gone = sandbox.StagedFile(source=missing, name="in/data")
    python = sandbox.Spec(argv=("python3", "-c", "print(input())"), stdin=data, limits=limits())
    return [
        shell(f"true {marker}", limits=limits()),
        shell(f"echo up; sleep 1000; : {marker}", limits=limits(wall_s=0.05)),
        shell(f"(setsid sleep 1000 &) ; kill -9 $$; : {marker}", limits=limits()),
        shell(f"head -c 10M /dev/zero >output/x; : {marker}", limits=limits(), files=(staged,)),
        shell(f"yes {marker}", limits=limits(output_bytes=100_000)),
        shell(f"true {marker}", limits=limits(), files=(gone,)),
        attrs.evolve(python, env={"MARKER": marker}),
        attrs.evolve(python, argv=("python3", "-c", "x = bytearray(400 << 20); x[::4096]")),
        attrs.evolve(shell(f"cat; : {marker}", limits=limits()), network="none"),
        attrs.evolve(shell(f"sleep 1000; : {marker}", limits=limits()), reuse=False),
    ]


async def _run_somehow(pool: sandbox.Pool, spec: sandbox.Spec, chance: random.Random) -> None:
    ways = ("run", "wait", "stop", "leave", "collect")
    way = chance.choice(ways)
    # From before anything began to after most are over.
    after_s = chance.choice((0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.5))
    with trio.move_on_after(after_s), contextlib.suppress(sandbox.SandboxError):
        async with pool.open_run(spec) as run:
            if way == "run":
                async for _ in run.chunks():
                    pass
            elif way == "stop":
                run.stop()
            elif way == "leave":
                return
            elif way == "collect":
                await run.collect(io.BytesIO(), max_bytes=1 << 20, max_files=5)
            await run.wait()


def _descriptors() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return sorted(link.split(":[")[0] for link in found)


def _slot_mounts(pool: sandbox.Pool) -> list[str]:
    """The mounts of all slots, as the pool's spawner has them."""
    fields = Path(f"/proc/self/fdinfo/{pool._link._pidfds[0]}").read_text()
    (pid,) = (line.split()[1] for line in fields.splitlines() if line.startswith("Pid:"))
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [line for line in lines if " /pool/slots" in line]


@pytest.mark.parametrize("mode", ["cgroup", "best-effort"])
async def test_runs_that_are_cut_short_anywhere_leave_nothing(mode: str, tmp_path: Path) -> None:
    if mode == "cgroup":
        needs_cgroup()
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)  # shown where it fails
    chance = random.Random(seed)
    marker = unique("stress")
    (tmp_path / "data").write_text("a line\n")
    specs = _specs(marker, tmp_path / "data", tmp_path / "missing")
    config = sandbox.PoolConfig(
        limits=mode,  # type: ignore[arg-type]
        slots=4,
        cgroup_parent=CGROUP_PARENT,
        cells=sandbox.CellRules(parked=1, max_runs=20, idle_s=0.5),
    )
    folders = set(cgroup_folders(with_parent=True))
    outside = _descriptors()
    async with sandbox.open_pool(config) as pool:
        pool.use_cell_rules(attrs.evolve(config.cells, parked=0))
        todo = iter(range(_RUNS))

        async def work() -> None:
            for _ in todo:
                spec = attrs.evolve(chance.choice(specs), tenant=chance.choice(_TENANTS))
                await _run_somehow(pool, spec, chance)

        with trio.fail_after(_PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(work)
            # Every slot and every tenant is still served.
            for tenant in _TENANTS:
                for _ in range(config.slots):
                    spec = attrs.evolve(shell("echo on"), tenant=tenant)
                    assert (await sandbox.run_in(pool, spec)).stdout == b"on\n"
            pool.use_cell_rules(sandbox.CellRules(max_age_s=0.001))
            while pool._cells._alive:  # noqa: ASYNC110 - old ones are ended in the background
                await trio.sleep(0.05)
        assert len(pool._cells._free) == config.cell_places
        assert not processes_with(marker)
        assert not pool._watchdog._watched
        assert not pool._link._awaited
        assert _slot_mounts(pool) == []
        assert len(pool._nursery.child_tasks) <= 2
    gc.collect()
    assert _descriptors() == outside
    assert set(cgroup_folders(with_parent=True)) == folders
