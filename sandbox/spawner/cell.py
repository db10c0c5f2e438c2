"""The process that becomes a cell: bubblewrap around a launcher, for the runs of one tenant.

It begins as a run does: born in a pid namespace of its own, in its cgroup, under the slot's uid,
with an empty environment. What differs is inside: the launcher keeps the capability to make
namespaces and mounts in the sandbox's own user namespace, and no filter is set, for its runs get
theirs.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH101, PTH103, PTH112, PTH118

from __future__ import annotations

import os
import shutil
from typing import Any, NoReturn

from sandbox.spawner import bwrap, child, limits, linux, mounts

_LAUNCHER = "/pool/launcher"
_INSIDE = "/tmp"  # noqa: S108 - covered by the /tmp of every run
_PARTS = ("launcher", "spawner")
_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP")
# Above the programs of the machine, and below the runs of the cell, which have 1000.
_OOM_SCORE = 500


def install_launcher(package: str) -> None:
    """Copy the launcher, and what it shares with the spawner, to where cells are made from.

    Args:
        package: the host's folder of `sandbox`.

    Raises:
        OSError: it could not be copied.
    """
    if os.path.isdir(_LAUNCHER):
        return
    half_made = f"{_LAUNCHER}.new"
    shutil.rmtree(half_made, ignore_errors=True)
    os.makedirs(half_made)
    for name in _PARTS:
        # With times and byte code: the same version of Python then need not compile it.
        shutil.copytree(os.path.join(package, name), os.path.join(half_made, name))
    for folder, _, files in os.walk(half_made):
        os.chmod(folder, 0o755)  # noqa: S103
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)
    os.rename(half_made, _LAUNCHER)  # noqa: PTH104


def show_launcher(root: str) -> None:
    """Show the launcher in a cell's tree.

    Raises:
        OSError: a mount was refused.
    """
    linux.mount(_LAUNCHER, f"{root}{_INSIDE}", None, linux.MS_BIND)
    mounts.seal(f"{root}{_INSIDE}")


def build_options(root: str, env: dict[str, str], status_fd: int, shared: tuple[str, ...]) -> bytes:
    """The options that bubblewrap reads through --args; see `bwrap.build_options`."""
    kept = [word for name in _CAPABILITIES for word in ("--cap-add", name)]
    return bwrap.encode(
        [
            *bwrap.namespaces(shared),
            *bwrap.identity(),
            *kept,
            *bwrap.environment(env),
            *bwrap.file_tree(root, "/"),
            "--json-status-fd",
            str(status_fd),
        ]
    )


def become_cell(
    start: dict[str, Any], place: child.Place, *, root: str, links: list[int]
) -> NoReturn:
    """Join the cgroups, give up every privilege and execute bubblewrap with the launcher.

    Args:
        start: the cell as `sandbox.cell` describes it.
        place: where it stands.
        root: the tree that it sees as /.
        links: the launcher's ends of its two sockets: for runs, and for what else it is to do.
    """
    with child.ending_here(place):
        child.enter(place)
        limits.set_oom_score(_OOM_SCORE)
        child.give_up_privileges(place)
        if not place.as_root:
            child.enter_own_user_namespace()
        shared = (
            *(("net",) if start["network"] == "full" else ()),
            *(("cgroup",) if start["keep_cgroup_ns"] else ()),
        )
        words = build_options(root, start["env"], child.STATUS_FD, shared)
        # Isolated from what its environment and its folder could bring, and without site-packages.
        argv = [start["python"], "-I", "-S", f"{_INSIDE}/launcher/main.py"]
        argv += ["exec", *(str(child.FIRST_GIVEN_FD + at) for at in range(len(links)))]
        child.execute(place, child.memory_file("options", words), argv, links)
