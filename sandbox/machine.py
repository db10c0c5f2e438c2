"""What can be told of this machine without starting anything."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from sandbox.errors import Finding, Unavailable
from sandbox.spawner import linux, seccomp

_LEAST_KERNEL = (5, 7)  # CLONE_INTO_CGROUP, the youngest of what is needed
_SECCOMP_ACTIONS = {"allow", "errno", "kill_process"}


def check_machine() -> tuple[Finding, ...]:
    """The kernel, its architecture, seccomp, openat2 and bubblewrap, one finding each."""
    return (
        _check_kernel(platform.release()),
        _check_architecture(platform.machine()),
        _check_seccomp(Path("/proc/sys/kernel/seccomp/actions_avail")),
        _check_openat2(),
        _check_bubblewrap(),
    )


def require_bubblewrap() -> Bubblewrap:
    """The bubblewrap to use, on a machine that has all else that can be told beforehand.

    Raises:
        Unavailable: something is missing.
    """
    missing = tuple(finding for finding in check_machine() if not finding.ok)
    found = find_bubblewrap()
    if missing or isinstance(found, Finding):
        raise Unavailable(missing)
    return found


def kernel_version(release: str = platform.release()) -> tuple[int, int]:
    """The kernel's version and patch level."""
    major, minor = re.findall(r"\d+", release)[:2]
    return int(major), int(minor)


def _check_kernel(release: str) -> Finding:
    numbers = kernel_version(release)
    return Finding(
        name="kernel",
        ok=numbers >= _LEAST_KERNEL,
        detail=f"Linux {release}",
        remedy="" if numbers >= _LEAST_KERNEL else "use Linux 5.7 or newer",
    )


def _check_architecture(machine: str) -> Finding:
    known = seccomp.supported(machine)
    return Finding(
        name="system call table",
        ok=known,
        detail=machine if known else f"none for {machine}",
        remedy="" if known else "use x86_64 or aarch64",
    )


def _check_seccomp(actions: Path) -> Finding:
    try:
        available = set(actions.read_text(encoding="ascii").split())
    except OSError:
        available = set()
    missing = sorted(_SECCOMP_ACTIONS - available)
    return Finding(
        name="seccomp",
        ok=not missing,
        detail=f"the kernel lacks {', '.join(missing)}" if missing else "filters can be set",
        remedy="use a kernel with CONFIG_SECCOMP_FILTER" if missing else "",
    )


def _check_openat2() -> Finding:
    top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(linux.openat2(top, "proc", os.O_PATH, linux.RESOLVE_BENEATH))
    except OSError as error:
        return Finding(
            name="openat2",
            ok=False,
            detail=str(error),
            remedy="use Linux 5.6 or newer, and in a container a seccomp profile that allows it",
        )
    finally:
        os.close(top)
    return Finding(name="openat2", ok=True, detail="paths can be opened without following links")


def _check_bubblewrap() -> Finding:
    found = find_bubblewrap()
    if isinstance(found, Finding):
        return found
    return Finding(name="bubblewrap", ok=True, detail=f"{found.path} {found.version}")
