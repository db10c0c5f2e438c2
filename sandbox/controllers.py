"""Setting a run's limits and reading its counters, in the words of cgroup v1 and of v2.

The files are described in the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import trio

from sandbox.spec import Limits

_PERIOD_US = 100_000
OVERHEAD_PIDS = 2  # bubblewrap outside and its init inside
# v1 counts what lies in TCP and UDP sockets apart from the rest, and only once it has a limit of
# its own: without one, 300 sockets on loopback held 1.2 GB under a memory limit of 64 MiB.
_SOCKET_BYTES = 64 << 20


class V1Controllers:
    """The folders of one run in the v1 hierarchies, by controller.

    On the hybrid layout `v2` is its folder in the cgroup2 hierarchy, which counts processor time.
    """

    def __init__(self, folders: dict[str, Path], v2: Path | None) -> None:
        self._memory = folders["memory"]
        self._pids = folders["pids"]
        self._cpu = folders["cpu"]
        self._v2 = v2
        self._cpuacct = folders.get("cpuacct", folders["cpu"])
        self._oom_notice = -1
        self.folders = tuple(dict.fromkeys(folders.values()))

    def limit(self, limits: Limits, overhead_pids: int = OVERHEAD_PIDS) -> None:
        """Set the limits of a folder that nothing runs in yet.

        Args:
            limits: the task's.
            overhead_pids: processes of ours that will be there beside its own.

        Raises:
            OSError: one was refused.
        """
        write(self._memory / "memory.limit_in_bytes", limits.cgroup_memory_bytes)
        # Both may be missing: swap accounting is a choice of the kernel's configuration.
        write_if_there(self._memory / "memory.memsw.limit_in_bytes", limits.cgroup_memory_bytes)
        write_if_there(self._memory / "memory.swappiness", 0)
        write_if_there(self._memory / "memory.kmem.tcp.limit_in_bytes", _SOCKET_BYTES)
        write(self._pids / "pids.max", limits.pids + overhead_pids)
        write(self._cpu / "cpu.cfs_period_us", _PERIOD_US)
        write(self._cpu / "cpu.cfs_quota_us", quota_us(limits))
        self._oom_notice = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with (self._memory / "memory.oom_control").open("rb") as control:
            write(self._memory / "cgroup.event_control", f"{self._oom_notice} {control.fileno()}")

    async def wait_out_of_memory(self) -> None:
        """Return when the kernel reports that memory ran out; it kills one process at a time."""
        await trio.lowlevel.wait_readable(self._oom_notice)

    def clear_out_of_memory(self) -> None:
        """Wait for the next report, not for the one that came."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._oom_notice, 8)

    def files(self) -> dict[str, Path]:
        """The files in which one run after the other is limited and counted, by use."""
        counted = (
            {"cpuacct": self._cpuacct / "cpuacct.usage"}
            if self._v2 is None
            else {"cpu_stat": self._v2 / "cpu.stat"}
        )
        return {
            "memory": self._memory / "memory.limit_in_bytes",
            "memory_and_swap": self._memory / "memory.memsw.limit_in_bytes",
            "usage": self._memory / "memory.usage_in_bytes",
            "peak": self._memory / "memory.max_usage_in_bytes",
            "stat": self._memory / "memory.stat",
            "oom": self._memory / "memory.oom_control",
            "pids": self._pids / "pids.current",
            "pids_max": self._pids / "pids.max",
            "quota": self._cpu / "cpu.cfs_quota_us",
            **counted,
        }

    def out_of_memory(self) -> bool:
        """Whether the kernel killed anything here for lack of memory."""
        return _counter(self._memory / "memory.oom_control", "oom_kill") > 0

    def cpu_s(self) -> float:
        """Processor time used so far."""
        if self._v2 is not None:
            return _counter(self._v2 / "cpu.stat", "usage_usec") / 1e6
        return int(read(self._cpuacct / "cpuacct.usage")) / 1e9

    def memory_peak_bytes(self) -> int:
        """The highest charge so far."""
        return int(read(self._memory / "memory.max_usage_in_bytes"))

    def close(self) -> None:
        """Give up the descriptor of the notice."""
        if self._oom_notice >= 0:
            os.close(self._oom_notice)
            self._oom_notice = -1


class V2Controllers:
    """The folder of one run in the cgroup2 hierarchy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen_bytes = 0
        self.folders: tuple[Path, ...] = ()

    def limit(self, limits: Limits, overhead_pids: int = OVERHEAD_PIDS) -> None:
        """Set the limits of a folder that nothing runs in yet.

        Args:
            limits: the task's.
            overhead_pids: processes of ours that will be there beside its own.

        Raises:
            OSError: one was refused.
        """
        write(self._folder / "memory.max", limits.cgroup_memory_bytes)
        write_if_there(self._folder / "memory.swap.max", 0)
        write(self._folder / "memory.oom.group", 1)
        write(self._folder / "pids.max", limits.pids + overhead_pids)
        write(self._folder / "cpu.max", f"{quota_us(limits)} {_PERIOD_US}")

    async def wait_out_of_memory(self) -> None:
        """Wait for ever: with memory.oom.group the kernel kills the whole cgroup by itself."""
        await trio.sleep_forever()

    def out_of_memory(self) -> bool:
        """Whether the kernel killed anything here for lack of memory."""
        return _counter(self._folder / "memory.events", "oom_kill") > 0

    def cpu_s(self) -> float:
        """Processor time used so far."""
        return _counter(self._folder / "cpu.stat", "usage_usec") / 1e6

    def memory_peak_bytes(self) -> int:
        """The highest charge so far; before Linux 5.19, the highest that was seen here."""
        try:
            return int(read(self._folder / "memory.peak"))
        except FileNotFoundError:
            self._seen_bytes = max(self._seen_bytes, int(read(self._folder / "memory.current")))
            return self._seen_bytes

    def close(self) -> None:
        """Nothing is held."""


def quota_us(limits: Limits) -> int:
    """The CPU time that a cgroup gets in each period of 100 ms."""
    # The kernel takes no less than a millisecond.
    return max(1000, round(limits.cpus * _PERIOD_US))


def _counter(path: Path, key: str) -> int:
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def read(path: Path) -> str:
    """The content of a cgroup file."""
    return path.read_text(encoding="ascii")


def write(path: Path, value: int | str) -> None:
    """Write a cgroup file in one system call.

    Raises:
        OSError: refused; it names the file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def write_if_there(path: Path, value: int | str) -> None:
    """Write a file that this kernel may not have."""
    with contextlib.suppress(FileNotFoundError):
        write(path, value)
