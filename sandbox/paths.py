"""Whether the host's paths that a spec names lead to what they should: looked at before a start."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from sandbox.errors import BadSpec, SetupFailed
from sandbox.spawner import linux
from sandbox.spec import Spec


def check_paths(spec: Spec) -> None:
    """Look at everything of the host that a run is to read or see.

    What changes between this look and the start is refused there, as a set-up that failed.

    Raises:
        BadSpec: something is not there, or is of another kind.
    """
    if isinstance(spec.stdin, Path) and not spec.stdin.is_file():
        raise BadSpec(f"cannot read {spec.stdin}: it is not a file")
    for bind in spec.binds:
        mode = _mode(bind.source, "cannot show")
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise BadSpec(f"cannot show {bind.source}: it is neither a file nor a folder")
    _check_nesting(spec)
    if spec.python is not None and spec.python.prefix is not None:
        _require_folder(spec.python.prefix, "a Python")
    for device in spec.devices:
        _check_device(device)
    if spec.root is not None:
        _check_root(spec.root)


def open_source(path: Path) -> int:
    """Open a file that a run is to read; never a FIFO or device, which would have us wait.

    Raises:
        BadSpec: it cannot be read, or is no regular file.
        SetupFailed: this process may open no more files.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise SetupFailed(f"cannot read {path}: {error.strerror} (ulimit -n)") from None
        raise BadSpec(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadSpec(f"cannot read {path}: it is not a regular file")
    return descriptor


def _check_nesting(spec: Spec) -> None:
    """A bind inside another needs a place there: the outer one cannot be written."""
    for inner in spec.binds:
        for outer in spec.binds:
            if outer.target not in inner.target.parents:
                continue
            place = outer.source / inner.target.relative_to(outer.target)
            if not place.exists() or place.is_dir() != inner.source.is_dir():
                raise BadSpec(
                    f"cannot show {inner.source} at {inner.target}: {outer.source} has no such "
                    "place to show it at"
                )


def _mode(path: Path, what: str) -> int:
    try:
        return path.stat().st_mode
    except OSError as error:
        raise BadSpec(f"{what} {path}: {error.strerror}") from None


def _check_device(device: Path) -> None:
    if not stat.S_ISCHR(_mode(device, "cannot give the device")):
        raise BadSpec(f"cannot give the device {device}: it is not a character device")
    # A run has terminals and shared memory of its own; a link such as /dev/fd leads out of /dev.
    inside = os.path.realpath(device).startswith("/dev/")
    if not inside or device.parts[2] in ("fd", "pts", "shm") or _has_link(device.parent):
        raise BadSpec(f"cannot give the device {device}: it is not a node in /dev itself")


def _has_link(folder: Path) -> bool:
    return os.path.realpath(folder) != str(folder)


def _require_folder(path: Path, what: str) -> None:
    if not stat.S_ISDIR(_mode(path, f"cannot use {what} in")):
        raise BadSpec(f"cannot use {what} in {path}: it is not a folder")


def _check_root(root: Path) -> None:
    _require_folder(root, "a root file system")
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, kind, needed in (("usr", stat.S_ISDIR, 0), ("bin/sh", stat.S_ISREG, 0o111)):
            mode = _mode_inside(top, name)
            if mode is None or not kind(mode) or (needed and not mode & needed):
                raise BadSpec(f"cannot use a root file system in {root}: it has no usable {name}")
    finally:
        os.close(top)


def _mode_inside(top: int, name: str) -> int | None:
    """The mode of a path as it leads inside a root file system, links and all."""
    try:
        found = linux.openat2(top, name, os.O_PATH, linux.RESOLVE_IN_ROOT)
    except OSError:
        return None
    try:
        return os.fstat(found).st_mode
    finally:
        os.close(found)
