"""The process that becomes a cell: bubblewrap around a launcher, for the runs of one tenant.

It begins as a run does: born in a pid namespace of its own, in its cgroup, under the slot's uid,
with an empty environment. What differs is inside: the launcher keeps the capability to make
namespaces and mounts in the sandbox's own user namespace, and no filter is set, for its runs get
theirs.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH103, PTH112, PTH118, PTH123

from __future__ import annotations

import os
import shutil
import signal
from typing import Any, NoReturn

from sandbox.spawner import bwrap, child, house, linux

_LAUNCHER = "/pool/launcher"
_INSIDE = "/tmp"  # noqa: S108 - covered by the /tmp of every run
_ARGS_FD, _STATUS_FD, _LINK_FD = 3, 4, 5
_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP")
# Above the programs of the machine, and below the runs of the cell, which have 1000.
_OOM_SCORE = b"500"


def install_launcher(package: str) -> None:
    """Copy the launcher, and what it shares with the spawner, to where cells see it.

    Args:
        package: the host's folder of `sandbox`.
    """
    if os.path.isdir(_LAUNCHER):
        return
    os.makedirs(_LAUNCHER)
    for name in ("launcher", "spawner"):
        # With times and byte code: the same version of Python then need not compile it.
        shutil.copytree(os.path.join(package, name), os.path.join(_LAUNCHER, name))
    for folder, _, files in os.walk(_LAUNCHER):
        os.chmod(folder, 0o755)  # noqa: S103, PTH101
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)  # noqa: PTH101


def build_options(
    slot: int, env: dict[str, str], binds: list[str], *, keep_cgroup_ns: bool
) -> bytes:
    """The options that bubblewrap reads through --args; see `bwrap.build_options`."""
    top = house.slot_path(slot)
    words = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if not keep_cgroup_ns:
        words += ["--unshare-cgroup"]
    words += ["--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for name in _CAPABILITIES:
        words += ["--cap-add", name]
    words += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    words += [
        "--ro-bind",
        "/host/usr",
        "/usr",
        *bwrap._top_level(),
        "--ro-bind",
        "/pool/etc",
        "/etc",
    ]
    for number, target in enumerate(binds):
        words += ["--ro-bind", f"{top}/bind/{number}", target]
    words += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--ro-bind", _LAUNCHER, _INSIDE, "--dir", "/task", "--remount-ro", "/"]
    words += ["--json-status-fd", str(_STATUS_FD)]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def become_cell(
    start: dict[str, Any],
    *,
    bwrap_path: str,
    as_root: bool,
    slot: int,
    uid: int,
    report: int,
    link: int,
    keep_cgroup_ns: bool,
    joins: list[int],
) -> NoReturn:
    """Join the cgroups, give up every privilege and execute bubblewrap with the launcher."""
    try:
        for descriptor in joins:
            os.write(descriptor, b"0")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(_OOM_SCORE)
        if as_root:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        else:
            child.enter_own_user_namespace()
        linux.no_new_privileges()
        options = build_options(
            slot,
            start["env"],
            [target for _, target in start["binds"]],
            keep_cgroup_ns=keep_cgroup_ns,
        )
        args = child._memory_file("args", options)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        child._arrange_descriptors_at((null, null, null, args, report, link))
        report = _STATUS_FD
        words = [bwrap_path, "--args", str(_ARGS_FD), "--", start["python"], "-I", "-S"]
        words += [f"{_INSIDE}/launcher/main.py", "exec", str(_LINK_FD)]
        os.execve(bwrap_path, words, {})  # noqa: S606
    except Exception as error:
        child._fail(report, "setup", f"{type(error).__name__}: {error}")
    finally:
        os._exit(1)  # never back into the spawner's loop
