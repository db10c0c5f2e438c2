"""What surrounds one run: its mounts, and the rights that are given up before it begins."""

from __future__ import annotations

import os
import resource

from sandbox.spawner import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMESPACES = linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC

_PLACES = {"task": "/task", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
_ID = 1000
_MOST_CPU_S = 1 << 32  # an rlimit is a number of the kernel's; any float may be asked for


def mount_all(quotas: list[tuple[str, int, int]]) -> int:
    """Mount the run's own /proc and its three tmpfs over the cell's.

    Args:
        quotas: name, bytes and inodes of each tmpfs.

    Returns:
        A descriptor of /task, through which its content outlives the run.
    """
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name, size_bytes, inodes in quotas:
        linux.mount(
            name,
            _PLACES[name],
            "tmpfs",
            linux.MS_NOSUID | linux.MS_NODEV,
            f"size={size_bytes},nr_inodes={inodes},mode=0700,uid={_ID},gid={_ID}",
        )
    return os.open("/task", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def prefer_for_oom_killing() -> None:
    """When memory runs out, the kernel is to choose a task and not its cell's launcher."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"1000")
    os.close(descriptor)


def give_up_rights(seccomp: linux.Filter) -> None:
    """Drop every capability for good and have every later system call filtered."""
    linux.set_dumpable(False)
    linux.drop_capabilities()
    linux.no_new_privileges()
    seccomp.install()


def limit_without_cgroup(limits: dict[str, int]) -> None:
    """What rlimits can do where there is no cgroup; counted in the cell's user namespace."""
    _limit(resource.RLIMIT_DATA, limits["data_bytes"])
    if limits["count_per_namespace"]:
        _limit(resource.RLIMIT_NPROC, limits["processes"])


def apply_limits(limits: dict[str, Any]) -> None:
    """The rlimits of every run."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    if limits["cpu_s"] is not None:
        # A backstop behind the pool's own reading: whole seconds, one process at a time.
        _limit(resource.RLIMIT_CPU, int(min(limits["cpu_s"], _MOST_CPU_S)) + 2)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
