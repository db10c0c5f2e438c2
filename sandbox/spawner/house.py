"""The spawner's private file tree, and the mounts of each slot in it.

The spawner moves into a small tmpfs of its own: the host's tree hangs below /host, with relative
links at the top so that every path of the host still works, and what the sandboxes are made of
lies under neutral names below /pool. None of it is visible outside the spawner's mount namespace,
and all of it vanishes with the spawner.

    /host                 the host's root, receiving (never sending) mount events
    /pool/bin/...         bubblewrap, when it is the one bundled in a Python wheel
    /pool/root            the tree that most runs see as / (`root.py`)
    /pool/empty, aside    for mounts in the making (`mounts.py`)
    /pool/slots/N         all that a run sees as /: such a tree, and mounted in it the run's own
                          /task, /tmp and /dev/shm, each a tmpfs with its quota, and /dev/pts
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH101, PTH102, PTH103, PTH118, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import contextlib
import errno
import os

from sandbox.spawner import linux, mounts, root

_MOUNT_AT = "/tmp"  # noqa: S108 - any folder that surely exists; the tmpfs leaves it by pivot_root at once
_PLACES = {"task": "task", "tmp": "tmp", "shm": "dev/shm"}


def build(bwrap: str, libraries: list[str]) -> str:
    """Move this process's mount namespace into its own tree and fill it.

    Args:
        bwrap: the host's path of bubblewrap.
        libraries: shared libraries bundled with it; when there are any, it is copied with them to
            a place that an unprivileged uid can reach.

    Returns:
        The path of bubblewrap in the new tree.

    Raises:
        OSError: a mount was refused.
    """
    os.umask(0o022)
    linux.mount("none", "/", None, linux.MS_SLAVE | linux.MS_REC)
    linux.mount("pool", _MOUNT_AT, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755")
    os.chdir(_MOUNT_AT)
    names = [name for name in os.listdir("/") if name not in ("host", "pool")]
    os.mkdir("host", 0o755)
    linux.pivot_root(".", "host")
    os.chdir("/")
    for name in names:
        os.symlink(f"host/{name}", f"/{name}")
    os.makedirs("/pool/slots")
    os.mkdir(mounts.EMPTY, 0o755)
    os.mkdir(mounts.ASIDE, 0o755)
    root.prepare()
    return _install_bwrap(bwrap, libraries) if libraries else bwrap


def _install_bwrap(bwrap: str, libraries: list[str]) -> str:
    # The wheel's bwrap finds its library relative to itself: keep the distance between the two.
    first = os.path.commonpath([os.path.dirname(bwrap), *map(os.path.dirname, libraries)])
    for source in (bwrap, *libraries):
        target = os.path.join("/pool/bin", os.path.relpath(source, first))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(source, "rb") as read, open(target, "wb") as write:
            write.write(read.read())
        os.chmod(target, 0o755)  # noqa: S103
    return os.path.join("/pool/bin", os.path.relpath(bwrap, first))


def slot_path(slot: int) -> str:
    """What a slot's run sees as /."""
    return f"/pool/slots/{slot}"


def task_path(slot: int) -> str:
    """What a slot's run sees as /task."""
    return f"{slot_path(slot)}/task"


def mount_slot(slot: int, uid: int, quotas: dict[str, tuple[int, int]], view: root.View) -> None:
    """Give a slot its tree, with fresh folders for its run to write in.

    Args:
        slot: which slot; it must have no mounts.
        uid: the owner of the folders.
        quotas: "task", "tmp" and "shm", each with (bytes, inodes).
        view: what the run sees besides.

    Raises:
        OSError: a mount failed; what was mounted until then is unmounted again.
    """
    top = slot_path(slot)
    os.makedirs(top, exist_ok=True)
    try:
        root.mount(top, view)
        mount_own_folders(top, uid, quotas)
    except OSError:
        unmount_slot(slot)
        raise


def mount_own_folders(top: str, uid: int, quotas: dict[str, tuple[int, int]]) -> None:
    """Mount into a tree what a run may write, and terminals that no other run sees.

    Raises:
        OSError: a mount failed.
    """
    for name, (size_bytes, inodes) in quotas.items():
        linux.mount(
            name,
            f"{top}/{_PLACES[name]}",
            "tmpfs",
            linux.MS_NOSUID | linux.MS_NODEV,
            f"size={size_bytes},nr_inodes={inodes},mode=0700,uid={uid},gid={uid}",
        )
    linux.mount(
        "pts",
        f"{top}/dev/pts",
        "devpts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )


def unmount_slot(slot: int) -> None:
    """Drop all mounts of a slot; a slot without any is left as it is."""
    with contextlib.suppress(FileNotFoundError):
        while True:  # a tree that failed half-way may lie over another
            try:
                linux.umount(slot_path(slot))
            except OSError as error:
                if error.errno != errno.EINVAL:  # not a mount point
                    raise
                return
