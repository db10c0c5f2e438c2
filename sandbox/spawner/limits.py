"""What every run is limited by beside its cgroup, whether it is cold or in a cell."""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TASK_OOM_SCORE = 1000
"""A task is the first to go when the whole machine runs out of memory."""

_MOST_CPU_S = 1 << 32  # an rlimit is a number of the kernel's; any float may be asked for


def set_oom_score(score: int) -> None:
    """Rank this process and its descendants for when memory runs out: the highest goes first."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"%d" % score)
    os.close(descriptor)


def apply_limits(limits: dict[str, Any], *others: int) -> None:
    """Set the rlimits that every run has; `limits` as `sandbox.describe` puts them.

    Args:
        limits: they.
        others: processes of the same user beside this one, with the same hard limits.
    """
    set_limit(resource.RLIMIT_CORE, 0, *others)
    set_limit(resource.RLIMIT_NOFILE, limits["open_files"], *others)
    set_limit(resource.RLIMIT_FSIZE, limits["file_bytes"], *others)
    if limits["cpu_s"] is not None:
        # A backstop behind the pool's own reading: whole seconds, one process at a time.
        set_limit(resource.RLIMIT_CPU, int(min(limits["cpu_s"], _MOST_CPU_S)) + 2, *others)


def set_limit(which: int, value: int, *others: int) -> None:
    """Set one rlimit, soft and hard, never above the hard one that holds already.

    Args:
        which: which.
        value: the limit.
        others: as in `apply_limits`.
    """
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
    for pid in others:
        resource.prlimit(pid, which, (value, value))
