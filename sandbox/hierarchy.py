"""Which cgroup hierarchies this machine has, and where in them this process stands."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import attrs

NEEDED = ("memory", "pids", "cpu")
_V1_NEEDED = (*NEEDED, "cpuacct")


@attrs.frozen(kw_only=True)
class Layout:
    """The hierarchies that limits will be set in.

    Attributes:
        v2: our own folder in the cgroup2 hierarchy, or None where there is none.
        v1: controller to our own folder in its v1 hierarchy; empty where v2 has the controllers.
            cpuacct is among them only where there is no v2 to count processor time.
    """

    v2: Path | None
    v1: dict[str, Path]


def find_layout(mountinfo: str, own: str) -> Layout | None:
    """Work out the layout; None where neither v2 nor v1 has all the controllers that we need.

    Args:
        mountinfo: content of /proc/self/mountinfo.
        own: content of /proc/self/cgroup.
    """
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    v2: Path | None = None
    v1: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, mount_point = (_unescape(field) for field in left.split(" ")[3:5])
        fstype, _, options = right.split(" ", 2)
        if fstype == "cgroup2" and v2 is None and "" in paths:
            v2 = _locate(mount_point, root, paths[""])
        elif fstype == "cgroup":
            for name in set(options.split(",")) & set(_V1_NEEDED) & set(paths):
                folder = _locate(mount_point, root, paths[name])
                if folder is not None:
                    v1.setdefault(name, folder)
    if v2 is not None and _has_controllers(v2):
        return Layout(v2=v2, v1={})
    if v2 is not None:
        # Its cpu.stat counts without any controller: one hierarchy less to join.
        v1.pop("cpuacct", None)
    if set(v1) == set(NEEDED if v2 is not None else _V1_NEEDED):
        return Layout(v2=v2, v1=v1)
    return None


def read_layout() -> Layout | None:
    """The layout of this process."""
    return find_layout(
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"),
        Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape"),
    )


def _has_controllers(folder: Path) -> bool:
    try:
        names = (folder / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return False
    return set(NEEDED) <= set(names)


def _locate(mount_point: str, root: str, path: str) -> Path | None:
    """The folder that shows cgroup `path` where the hierarchy is mounted from `root` on."""
    if ".." in PurePosixPath(path).parts or not PurePosixPath(path).is_relative_to(root):
        return None
    return Path(mount_point) / PurePosixPath(path).relative_to(root)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
