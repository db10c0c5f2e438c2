"""Limits without a cgroup: one look at /proc for all runs, some times a second.

Everything in a sandbox descends from its first process, for orphans fall to the init of their pid
namespace: the tree of parents is the whole run. What starts and ends between two looks is not
seen, memory may pass its limit for as long as a look takes, and memory that no process has mapped
is not counted: that is what `best-effort` means.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from sandbox.result import Reason
from sandbox.spec import Limits

_INTERVAL_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Watched:
    """One run under watch."""

    def __init__(self, pid: int, limits: Limits, end: Callable[[Reason], None]) -> None:
        self.pid = pid
        self.limits = limits
        self.end = end
        self.memory_peak_bytes = 0
        self.cpu_s = 0.0


class Watchdog:
    """Watches all runs of one pool that have no cgroup."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._some = trio.Event()

    @contextlib.contextmanager
    def watch(self, pidfd: int, limits: Limits, end: Callable[[Reason], None]) -> Iterator[Watched]:
        """Watch the run whose first process this is, and call `end` when it passes a limit."""
        watched = Watched(_pid_of(pidfd), limits, end)
        self._watched.add(watched)
        self._some.set()
        try:
            yield watched
        finally:
            self._watched.discard(watched)

    async def run(self) -> None:
        """Look every 100 ms while there is a run to be watched."""
        while True:
            if not self._watched:
                self._some = trio.Event()
                await self._some.wait()
            self._look()
            await trio.sleep(_INTERVAL_S)

    def _look(self) -> None:
        children = _read_children()
        for watched in list(self._watched):
            tree = _descendants(watched.pid, children)
            memory_bytes = _memory_bytes(tree, watched.limits.memory_bytes)
            watched.memory_peak_bytes = max(watched.memory_peak_bytes, memory_bytes)
            watched.cpu_s = max(watched.cpu_s, _cpu_s(tree))
            if memory_bytes > watched.limits.memory_bytes:
                watched.end(Reason.OUT_OF_MEMORY)
            elif watched.limits.cpu_s is not None and watched.cpu_s >= watched.limits.cpu_s:
                watched.end(Reason.CPU_TIME_LIMIT)


def _pid_of(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty for a process that is gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return text.rpartition(")")[2].split()
    return []


def _read_children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    return children


def _descendants(pid: int, children: dict[int, list[int]]) -> list[int]:
    tree = [pid]
    for known in tree:
        tree += children.get(known, ())
    return tree


def _cpu_s(tree: list[int]) -> float:
    ticks = 0
    for pid in tree:
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_S


def _memory_bytes(tree: list[int], limit_bytes: int) -> int:
    """Resident memory; shared pages are divided fairly only where that decides something."""
    resident = 0
    for pid in tree:
        with contextlib.suppress(OSError):
            statm = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
            resident += int(statm[1]) * _PAGE_BYTES
    if resident <= limit_bytes:
        return resident
    proportional = 0
    for pid in tree:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    proportional += int(line.split()[1]) * 1024
    return proportional
