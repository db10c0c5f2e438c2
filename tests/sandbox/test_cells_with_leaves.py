"""Runs that are born in a cgroup of their own, as on v2, where limits are still those of v1.

There a launcher cannot make its next init ahead: it waits for the run's cgroup.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from pathlib import Path

import pytest
import trio

import sandbox
from sandbox import Reason, pool
from sandbox.cell_cgroup import SharedCgroup
from sandbox.cgroups import PoolCgroup
from sandbox.spec import Limits
from tests.sandbox.conftest import limits
from tests.sandbox.test_cells import _of, _open, _which


class _WithLeaves(SharedCgroup):
    """A cell's cgroup in which each run has a folder of the cgroup2 hierarchy to itself."""

    has_leaves = True

    def __init__(self, of: PoolCgroup, born: list[str]) -> None:
        super().__init__(of.new_run())
        self._born = born
        self._count = 0
        self._uid = -1
        self._leaf: Path | None = None

    def create(self, uid: int) -> None:
        super().create(uid)
        self._uid = uid

    def begin(self, limits: Limits, *, at_rest: int) -> int:
        super().begin(limits, at_rest=at_rest)
        assert self._cgroup._v2 is not None
        self._count += 1
        self._leaf = self._cgroup._v2 / f"run{self._count}"
        self._leaf.mkdir()
        for folder in (self._cgroup._v2, self._leaf):
            os.chown(folder / "cgroup.procs", self._uid, -1)
        return os.open(self._leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def end_nowait(self) -> bool:
        if self._leaf is not None:
            self._born.append((self._leaf / "cpu.stat").read_text().split()[1])
            self._leaf.rmdir()  # which the kernel refuses where a process is left in it
            self._leaf = None
        return True

    async def end(self) -> None:
        self.end_nowait()

    async def remove(self) -> None:
        await self._cgroup.wait_empty()
        with contextlib.suppress(FileNotFoundError):
            self.end_nowait()
        await super().remove()


@pytest.fixture
def born(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has cells with such cgroups; the processor time of each run's own cgroup, in microseconds."""
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("needs root and v1 controllers; on v2 every test of cells is of this kind")
    found: list[str] = []

    def new_cell_cgroup(of: PoolCgroup, *, as_root: bool) -> SharedCgroup:
        return _WithLeaves(of, found)

    monkeypatch.setattr(pool, "new_cell_cgroup", new_cell_cgroup)
    return found


@pytest.mark.parametrize("warm", [False, True])
async def test_each_run_is_born_in_its_own_cgroup(born: list[str], warm: bool) -> None:
    source = "import os; print(os.getpid(), open('/proc/self/cgroup').readlines()[-1].strip())"
    spec = sandbox.Spec(
        argv=("python3", "-c", source), tenant="a", warm_python=warm, limits=limits()
    )
    async with _open() as pool:
        first = await _which(pool, "a")
        for count in (2, 3):
            done = await sandbox.run_in(pool, spec)
            assert done.stdout == b"2 0::/\n"
            assert len(born) == count
            assert int(born[-1]) > 0
        assert await _which(pool, "a") == first


async def test_an_archive_is_unpacked_there_too(born: list[str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("from-archive"))
    spec = _of("a", "ls", archive=sandbox.Archive(source=tmp_path / "x.tar"))
    async with _open() as pool:
        for _ in range(2):
            assert (await sandbox.run_in(pool, spec)).stdout == b"from-archive\noutput\n"
    assert len(born) == 2


async def test_what_is_stopped_there_leaves_nothing(born: list[str]) -> None:
    async with _open() as pool:
        first = await _which(pool, "a")
        async with pool.open_run(_of("a", "echo up; setsid sleep 1000 & sleep 1000")) as run:
            async for _ in run.chunks():
                break
            run.stop()
            with trio.fail_after(20):
                assert (await run.wait()).reason is Reason.STOPPED
        assert await _which(pool, "a") == first
    assert len(born) == 3
