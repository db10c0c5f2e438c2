"""The cgroup of a cell, and what each of its runs may use and has used of it.

On v1 and the hybrid layout the launcher lives in the cell's cgroup and its runs are born there: no
process ever moves. Limits are set anew for each run, and counters are differences. On v2 each run
gets a fresh leaf beside the launcher's, which the launcher's clone3 puts it into.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import attrs

from sandbox.cgroups import PoolCgroup, RunCgroup
from sandbox.controllers import quota_us
from sandbox.spec import Limits

_INIT_PIDS = 1  # each run has an init of its own
_MOST_OWN_BYTES = 32 << 20  # launchers and what waits take about 13 MiB
# What a launcher and its warm interpreter need to start; a run's own limits replace it.
_START = Limits(memory_bytes=256 << 20, scratch_bytes=4096, tmp_bytes=4096, shm_bytes=4096, pids=16)


class CellCgroup(Protocol):
    """What a cell needs of its cgroup, whatever the layout.

    Attributes:
        has_leaves: whether each run has a cgroup of its own, which its first process is born in.
    """

    has_leaves: bool

    def create(self, uid: int) -> None:
        """Make it, with what the launcher needs; runs will stand under `uid`.

        Raises:
            OSError: a folder or a limit was refused.
        """

    def entrance(self) -> contextlib.AbstractContextManager[tuple[int | None, list[int]]]:
        """For the cell's first process; see `RunCgroup.entrance`."""

    def settle(self) -> None:
        """Note what is there at rest: launchers, and the inits that they have made ahead."""

    def begin(self, limits: Limits, *, at_rest: int) -> int | None:
        """Set the limits of the run that comes next, and begin its account.

        Args:
            limits: the run's.
            at_rest: how many of the processes that are there at rest count as the run's own.

        Returns:
            The folder that it is to be born in, as a descriptor of the caller's; None to inherit.

        Raises:
            OSError: a limit was refused.
        """

    def out_of_memory(self) -> bool:
        """Whether the kernel killed anything of the run for lack of memory."""

    def cpu_s(self) -> float:
        """Processor time of the run so far."""

    def memory_peak_bytes(self) -> int:
        """The run's highest charge."""

    def is_clean(self) -> bool:
        """Whether nothing is in it but what is there at rest, some of which may yet be made."""

    def kill(self) -> None:
        """Kill everything of the cell, where the kernel can do that at once."""

    def end_nowait(self) -> bool:
        """Do what `end` does, if that needs no waiting; say whether it is done."""

    async def end(self) -> None:
        """Remove what the run had of its own."""

    async def wait_out_of_memory(self) -> None:
        """Return when the kernel reports that memory ran out."""

    async def remove(self) -> None:
        """Remove all of it, once it is empty."""


def new_cell_cgroup(pool: PoolCgroup, *, as_root: bool) -> CellCgroup:
    """The cgroup of a new cell; it is not made yet.

    Args:
        pool: what it belongs to.
        as_root: whether cells stand under uids of their own, and not under ours.
    """
    return LeafCgroup(pool, as_root=as_root) if pool.is_v2 else SharedCgroup(pool.new_run())


@attrs.define(eq=False)
class _Counters:
    """What they stood at when the run began."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    oom_kills: int = 0


class SharedCgroup:
    """A v1 or hybrid cgroup that the runs of a cell use one after the other."""

    has_leaves = False

    def __init__(self, cgroup: RunCgroup) -> None:
        self._cgroup = cgroup
        self._files: dict[str, int] = {}
        self._limits: tuple[Limits, int] | None = None
        self._own_bytes = 0
        self._own_pids = 0
        self._oom_kills = 0
        self._at_start = _Counters()

    def create(self, uid: int) -> None:
        """See `CellCgroup.create`."""
        self._cgroup.create(_START)
        try:
            for name, path in self._cgroup.v1_files().items():
                with contextlib.suppress(FileNotFoundError):
                    flags = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY
                    self._files[name] = os.open(path, flags | os.O_CLOEXEC)
        except OSError:
            self._close_files()
            raise

    def entrance(self) -> contextlib.AbstractContextManager[tuple[int | None, list[int]]]:
        """See `CellCgroup.entrance`."""
        return self._cgroup.entrance()

    def settle(self) -> None:
        """See `CellCgroup.settle`. Page cache does not count: it gives way.

        Nor does what runs before a warm interpreter have left in the kernel, which also gives way:
        else a task could raise the limit of all that come after it.
        """
        cache = _counter(self._pread("stat"), b"cache")
        own_bytes = max(0, int(self._pread("usage")) - cache)
        self._own_bytes = min(own_bytes, _MOST_OWN_BYTES)
        self._own_pids = int(self._pread("pids"))
        self._limits = None

    def begin(self, limits: Limits, *, at_rest: int) -> int | None:
        """See `CellCgroup.begin`."""
        if (limits, at_rest) != self._limits:
            self._set(limits, at_rest)
            self._limits = (limits, at_rest)
        # Down to what is charged now, pages of files that earlier runs read included.
        os.pwrite(self._files["peak"], b"0", 0)
        used = int(self._pread("usage"))
        # Nobody is killed between two runs: what the last one read of that still holds.
        self._at_start = _Counters(self._cpu_s(), used, self._oom_kills)
        return None

    def out_of_memory(self) -> bool:
        """See `CellCgroup.out_of_memory`."""
        self._oom_kills = _counter(self._pread("oom"), b"oom_kill")
        return self._oom_kills > self._at_start.oom_kills

    def cpu_s(self) -> float:
        """See `CellCgroup.cpu_s`."""
        return self._cpu_s() - self._at_start.cpu_s

    def memory_peak_bytes(self) -> int:
        """See `CellCgroup.memory_peak_bytes`.

        What earlier runs left in the kernel may give way while this one runs, which must not hide
        behind it: what is charged after the run is taken off where that is less.
        """
        others_bytes = min(self._at_start.memory_bytes, int(self._pread("usage")))
        return max(0, int(self._pread("peak")) - others_bytes)

    def is_clean(self) -> bool:
        """See `CellCgroup.is_clean`."""
        return int(self._pread("pids")) <= self._own_pids

    def kill(self) -> None:
        """See `CellCgroup.kill`."""
        self._cgroup.kill()

    def end_nowait(self) -> bool:
        """Nothing is a run's own."""
        return True

    async def end(self) -> None:
        """Nothing is a run's own."""

    async def wait_out_of_memory(self) -> None:
        """See `CellCgroup.wait_out_of_memory`; each notice is told once."""
        await self._cgroup.wait_out_of_memory()
        self._cgroup.clear_out_of_memory()

    async def remove(self) -> None:
        """See `CellCgroup.remove`."""
        self._close_files()
        await self._cgroup.wait_empty()
        await self._cgroup.remove()

    def _set(self, limits: Limits, at_rest: int) -> None:
        wanted = limits.cgroup_memory_bytes + self._own_bytes
        memory = str(wanted).encode()
        both = self._files.get("memory_and_swap")
        if both is not None:
            # The kernel wants this one never below the other: first on the way up, last down.
            with contextlib.suppress(OSError):
                os.pwrite(both, memory, 0)
        os.pwrite(self._files["memory"], memory, 0)
        if both is not None:
            os.pwrite(both, memory, 0)
        os.pwrite(self._files["pids_max"], str(limits.pids + self._own_pids - at_rest).encode(), 0)
        os.pwrite(self._files["quota"], str(quota_us(limits)).encode(), 0)

    def _cpu_s(self) -> float:
        if "cpu_stat" in self._files:
            return _counter(self._pread("cpu_stat"), b"usage_usec") / 1e6
        return int(self._pread("cpuacct")) / 1e9

    def _pread(self, name: str) -> bytes:
        return os.pread(self._files[name], 4096, 0)

    def _close_files(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


class LeafCgroup:
    """A v2 cgroup with a leaf for the launcher, and a fresh one for each run."""

    has_leaves = True

    def __init__(self, pool: PoolCgroup, *, as_root: bool) -> None:
        self._pool = pool
        self._as_root = as_root
        self._folder = pool.new_folder()
        self._launcher = pool.leaf(self._folder / "launcher")
        self._run: RunCgroup | None = None
        self._count = 0
        self._uid = -1

    def create(self, uid: int) -> None:
        """See `CellCgroup.create`.

        The launcher may put its children into a run's leaf: for that the kernel wants it to be
        allowed to write cgroup.procs of the leaf and of the folder above both.
        """
        self._uid = uid
        self._folder.mkdir()
        self._pool.enable(self._folder)
        self._launcher.create(_START)
        self._give(self._folder)

    def entrance(self) -> contextlib.AbstractContextManager[tuple[int | None, list[int]]]:
        """See `CellCgroup.entrance`."""
        return self._launcher.entrance()

    def settle(self) -> None:
        """Nothing: the launcher's own use is not in a run's leaf."""

    def begin(self, limits: Limits, *, at_rest: int) -> int | None:
        """See `CellCgroup.begin`. Nothing that is there at rest is in a run's leaf."""
        self._count += 1
        path = self._folder / f"run{self._count}"
        run = self._pool.leaf(path)
        run.create(limits, _INIT_PIDS)
        self._run = run
        self._give(path)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def out_of_memory(self) -> bool:
        """See `CellCgroup.out_of_memory`."""
        return self._run is not None and self._run.out_of_memory()

    def cpu_s(self) -> float:
        """See `CellCgroup.cpu_s`."""
        return 0.0 if self._run is None else self._run.cpu_s()

    def memory_peak_bytes(self) -> int:
        """See `CellCgroup.memory_peak_bytes`."""
        return 0 if self._run is None else self._run.memory_peak_bytes()

    def is_clean(self) -> bool:
        """See `CellCgroup.is_clean`."""
        return self._run is None or self._run.is_empty()

    def kill(self) -> None:
        """See `CellCgroup.kill`."""
        self._launcher.kill()
        if self._run is not None:
            self._run.kill()

    def end_nowait(self) -> bool:
        """See `CellCgroup.end_nowait`."""
        if self._run is not None and self._run.remove_nowait():
            self._run = None
        return self._run is None

    async def end(self) -> None:
        """See `CellCgroup.end`."""
        if self._run is not None:
            await self._run.wait_empty()
            await self._run.remove()
            self._run = None

    async def wait_out_of_memory(self) -> None:
        """Wait for ever: with memory.oom.group the kernel kills the whole leaf by itself."""
        await self._launcher.wait_out_of_memory()

    async def remove(self) -> None:
        """See `CellCgroup.remove`."""
        await self.end()
        await self._launcher.wait_empty()
        await self._launcher.remove()
        with contextlib.suppress(FileNotFoundError):
            self._folder.rmdir()

    def _give(self, folder: Path) -> None:
        if self._as_root:
            os.chown(folder / "cgroup.procs", self._uid, -1)


def _counter(text: bytes, key: bytes) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(b" ")
        if name == key:
            return int(value)
    return 0


@contextlib.contextmanager
def no_entrance() -> Iterator[tuple[int | None, list[int]]]:
    """The entrance of a cell without a cgroup."""
    yield None, []
