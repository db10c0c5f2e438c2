"""What surrounds one run: its mounts, and the rights that are given up before it begins."""

from __future__ import annotations

import os
import resource

from sandbox.spawner import limits, linux

NAMESPACES = linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC

_PLACES = {"task": "/task", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
_TMPFS = linux.MS_NOSUID | linux.MS_NODEV
_ID = 1000


def mount_all() -> int:
    """Mount the run's own /proc and its three tmpfs over the cell's, hardly larger than nothing.

    Returns:
        A descriptor of /task, through which its content outlives the run.
    """
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name, place in _PLACES.items():
        # Limited from the start: the kernel refuses a limit to what was mounted without one.
        data = f"size=4096,nr_inodes=1,mode=0700,uid={_ID},gid={_ID}"
        linux.mount(name, place, "tmpfs", _TMPFS, data)
    return os.open("/task", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def set_quotas(quotas: list[tuple[str, int, int]]) -> None:
    """Give each tmpfs its bytes and inodes."""
    for name, size_bytes, inodes in quotas:
        data = f"size={size_bytes},nr_inodes={inodes}"
        linux.mount(name, _PLACES[name], None, _TMPFS | linux.MS_REMOUNT, data)


def give_up_rights(seccomp: linux.Filter) -> None:
    """Drop every capability for good and have every later system call filtered."""
    linux.set_dumpable(False)
    linux.drop_capabilities()
    linux.no_new_privileges()
    seccomp.install()


def limit_without_cgroup(wanted: dict[str, int], *others: int) -> None:
    """What rlimits can do where there is no cgroup; counted in the cell's user namespace."""
    limits.set_limit(resource.RLIMIT_DATA, wanted["data_bytes"], *others)
    if wanted["count_per_namespace"]:
        limits.set_limit(resource.RLIMIT_NPROC, wanted["processes"], *others)
