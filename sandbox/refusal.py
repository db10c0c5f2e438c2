"""Why a kernel refuses namespaces or mounts, and what mends it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import attrs

from sandbox.errors import Finding

_PROC = Path("/proc")
_NAMESPACES = "user namespaces"
_ANYWHERE = (
    "run where user, mount and pid namespaces may be made (in a container: --privileged, or a "
    "seccomp profile that allows unshare, mount and pivot_root)"
)
_MASKED_PROC = (
    "in a container whose /proc is partly hidden, no fresh one may be mounted: start it with "
    "--privileged, or with --security-opt systempaths=unconfined"
)
_MORE = "as root: sysctl user.max_user_namespaces=10000"


@attrs.frozen
class _Setting:
    """A file below /proc/sys that forbids user namespaces where it holds `forbids`."""

    path: str
    forbids: str
    remedy: str

    @property
    def name(self) -> str:
        return self.path.replace("/", ".")


_SETTINGS = (
    _Setting("user/max_user_namespaces", "0", _MORE),
    _Setting(
        "kernel/unprivileged_userns_clone",
        "0",
        "as root: sysctl kernel.unprivileged_userns_clone=1",
    ),
    _Setting(
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give bubblewrap (and, "
        "for an ordinary user, this Python) an AppArmor profile that allows userns",
    ),
)


def check_user_namespaces(*, refused: bool, proc: Path = _PROC) -> Finding:
    """What the kernel's settings say of user namespaces.

    A profile may allow to some what a setting forbids to all, so a setting counts only where
    isolation was refused.

    Args:
        refused: whether a sandbox could not be made.
        proc: where /proc is.
    """
    if not (proc / "self/ns/user").exists():
        return _missing("the kernel has none", "use a kernel with CONFIG_USER_NS")
    setting = _forbidding(proc)
    if setting is None:
        detail = "no setting forbids them" if refused else "can be made"
        return Finding(name=_NAMESPACES, ok=True, detail=detail)
    told = f"{setting.name} is {setting.forbids}"
    if refused:
        return _missing(told, setting.remedy)
    return Finding(name=_NAMESPACES, ok=True, detail=f"can be made here, although {told}")


def explain_refusal(step: str, error: str, proc: Path = _PROC) -> Finding:
    """The finding for namespaces or mounts that were refused, with what usually mends it.

    Args:
        step: what was refused, in a word.
        error: the kernel's or bubblewrap's words.
        proc: where /proc is.
    """
    setting = _forbidding(proc)
    if setting is not None:
        remedy = setting.remedy
    elif "No space left" in error:
        remedy = _MORE  # unshare(2): ENOSPC where a limit on namespaces is reached
    elif "mount proc" in error:
        remedy = _MASKED_PROC
    else:
        remedy = _ANYWHERE
    return Finding(name=step, ok=False, detail=error, remedy=remedy)


def _forbidding(proc: Path) -> _Setting | None:
    for setting in _SETTINGS:
        with contextlib.suppress(OSError):  # most kernels have some of them alone
            if (proc / "sys" / setting.path).read_text(encoding="ascii").strip() == setting.forbids:
                return setting
    return None


def _missing(detail: str, remedy: str) -> Finding:
    return Finding(name=_NAMESPACES, ok=False, detail=detail, remedy=remedy)
