"""The file trees that tasks see as /.

One is prepared when the spawner starts: the host's /usr and the links into it, an /etc of our own
and a small /dev. A run that asks for nothing else gets that tree in one bind. A run with binds,
devices, a network or a root file system of its own gets a tree made for it, of the same parts.
Either is read-only; only the slot's quotas, mounted into it, can be written.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH101, PTH102, PTH103, PTH110, PTH112, PTH114, PTH115, PTH119, PTH120, PTH123, PTH211

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from sandbox.spawner import etc, linux, mounts

PREPARED = "/pool/root"
_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MOUNT_POINTS = ("dev", "etc", "proc", "task", "tmp", "usr")
_HIDDEN = ("run", "sys")  # of a root file system that is given: states of a running machine

# Linux's own numbers (Documentation/admin-guide/devices.txt): what programs expect in any /dev.
_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = {
    "core": "/proc/kcore",
    "fd": "/proc/self/fd",
    "ptmx": "pts/ptmx",
    "stderr": "/proc/self/fd/2",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
}
_QUIET = linux.MS_NOSUID | linux.MS_NODEV


class View(NamedTuple):
    """What a run sees besides its own folders.

    Attributes:
        root: a folder of the host in place of /usr and what belongs to it; None for the host's.
        binds: (file or folder of the host, where it is seen), read-only.
        devices: device nodes below /dev.
        host_network: whether the names of the machine's network are to be found in /etc.
    """

    root: str | None = None
    binds: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    host_network: bool = False


def prepare() -> None:
    """Build the tree that most runs see.

    Raises:
        OSError: a mount was refused.
    """
    os.mkdir(PREPARED, 0o755)
    linux.mount("root", PREPARED, "tmpfs", linux.MS_NOSUID, "mode=0755")
    _make_mount_points(PREPARED)
    _show_system("/host", PREPARED, mounts.bind_read_only)
    etc.build(f"{PREPARED}/etc")
    _fill_dev(f"{PREPARED}/dev")
    mounts.seal(PREPARED, 0)


def mount(target: str, view: View) -> None:
    """Mount the tree that one run sees at `target`, an empty folder.

    Raises:
        OSError: a mount was refused, or a bind has no place; what was mounted so far stays.
    """
    if view == View():
        linux.mount(PREPARED, target, None, linux.MS_BIND | linux.MS_REC)
        return
    if view.root is None:
        linux.mount("root", target, "tmpfs", _QUIET, "mode=0755")
        _make_mount_points(target)
        _make_places(target, view.binds)
        _show_system(PREPARED, target, _bind)
        mounts.seal(target)
    else:
        with mounts.Aside() as above:
            _make_mount_points(above)
            for name in _HIDDEN:
                os.mknod(f"{above}/{name}", stat.S_IFCHR, 0)  # a whiteout: overlayfs hides it
            _make_places(above, view.binds)
            if view.host_network and _has_etc(view.root):
                _write_network_files(f"{above}/etc")
            mounts.overlay(view.root, target, above)
    if view.root is None or not _has_etc(view.root):
        _bind(f"{PREPARED}/etc", f"{target}/etc")
        if view.host_network:
            with mounts.Aside() as aside:
                for path in _write_network_files(aside):
                    linux.mount(path, f"{target}/etc/{os.path.basename(path)}", None, linux.MS_BIND)
                    mounts.seal(f"{target}/etc/{os.path.basename(path)}")
    _mount_dev(f"{target}/dev", view.devices)
    for source, place in view.binds:
        _show(source, _inside(target, place))


def _bind(source: str, target: str) -> None:
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)


def _has_etc(top: str) -> bool:
    return os.path.isdir(f"{top}/etc") and not os.path.islink(f"{top}/etc")


def _write_network_files(folder: str) -> list[str]:
    written = []
    for name, data in etc.network_files().items():
        with open(f"{folder}/{name}", "wb") as file:
            file.write(data)
        written.append(f"{folder}/{name}")
    return written


def _make_mount_points(top: str) -> None:
    for name in _MOUNT_POINTS:
        os.mkdir(f"{top}/{name}", 0o755)


def _show_system(source: str, target: str, bind: Callable[[str, str], None]) -> None:
    """Show a machine's /usr, and what of its top level are links into it or folders beside it."""
    bind(f"{source}/usr", f"{target}/usr")
    for name in _TOP_LEVEL:
        path = f"{source}/{name}"
        if os.path.islink(path):
            os.symlink(os.readlink(path), f"{target}/{name}")
        elif os.path.isdir(path):
            os.mkdir(f"{target}/{name}", 0o755)
            bind(path, f"{target}/{name}")


def _make_places(top: str, binds: tuple[tuple[str, str], ...]) -> None:
    """Make what the binds are mounted on; a place inside another bind must be there already."""
    for source, place in binds:
        with contextlib.suppress(NotADirectoryError, FileExistsError):
            if os.path.isdir(source):
                os.makedirs(top + place, 0o755, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(top + place), 0o755, exist_ok=True)
                _touch(top + place)


def _inside(top: str, place: str) -> str:
    """Where a path of a run's tree leads: its links, which another bind may bring, stay inside.

    Raises:
        OSError: it leads nowhere.
    """
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        try:
            found = linux.openat2(folder, place.lstrip("/"), os.O_PATH, resolve)
        except OSError as error:
            raise OSError(f"a bind has no place: {place}: {error.strerror}") from None
        try:
            path = os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
    finally:
        os.close(folder)
    if not path.startswith(f"{top}/"):
        raise OSError(f"a bind has no place: {os.path.basename(place)} leads out of the sandbox")
    return path


def _show(source: str, place: str) -> None:
    if os.path.isdir(source) != os.path.isdir(place) or not os.path.exists(place):
        raise OSError(f"a bind has no place: {os.path.basename(place)} is something else there")
    mounts.bind_neutral(source, place)


def _mount_dev(target: str, devices: tuple[str, ...]) -> None:
    if not devices:
        _bind(f"{PREPARED}/dev", target)
        return
    linux.mount("dev", target, "tmpfs", linux.MS_NOSUID, "mode=0755")
    _fill_dev(target)
    for device in devices:
        place = target + device.removeprefix("/dev")
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        if not os.path.exists(place):
            _touch(place)
        _bind_node(device, place)
    mounts.seal(target, 0)


def _fill_dev(dev: str) -> None:
    os.mkdir(f"{dev}/shm", 0o755)
    os.mkdir(f"{dev}/pts", 0o755)
    for name, target in _LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name, (major, minor) in _NODES.items():
        path = f"{dev}/{name}"
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            os.chmod(path, 0o666)  # noqa: S103 - as in any /dev; whatever the umask
        except PermissionError:
            # Devices are made by the machine's real root alone: show the host's.
            _touch(path)
            _bind_node(f"/dev/{name}", path)


def _bind_node(source: str, place: str) -> None:
    linux.mount(os.path.realpath(source), place, None, linux.MS_BIND)
    if os.statvfs(place).f_flag & os.ST_NODEV:
        raise OSError(f"{source} lies on a file system that allows no devices (mounted nodev)")


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
