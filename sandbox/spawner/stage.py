"""Putting a run's inputs into its /task, as the task's own uid and inside its cgroup.

Sources are opened while the process still has the pool's rights, and read after it gave them up:
what is hostile about an input can hurt its own task alone.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH102, PTH113, PTH118, PTH120

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COPY_BYTES = 1 << 20


class StageError(Exception):
    """The inputs cannot be put in place.

    Attributes:
        kind: "archive" or "spec" (the task's own fault), or "setup".
        text: one line for people.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Inputs:
    """The open sources of one run: files as (descriptor, name, mode), and perhaps an archive."""

    def __init__(self, files: list[tuple[int, str, int]], archive: int | None) -> None:
        self.files = files
        self.archive = archive


def open_inputs(start: dict[str, Any]) -> Inputs:
    """Open every source, and import what unpacking needs, before privileges are dropped.

    Raises:
        StageError: a source cannot be read.
    """
    files = [
        (_open_source(item["source"]), str(item["name"]), int(item["mode"]))
        for item in start["files"]
    ]
    archive = None
    if start["archive"] is not None:
        archive = _open_source(start["archive"]["source"])
        # The standard library may lie where the task's uid cannot read: import it now.
        from sandbox.spawner import archive as unpacking

        unpacking.preload()
    return Inputs(files, archive)


def _open_source(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StageError("spec", f"cannot read {path}: {error.strerror}") from None
    if not os.path.isfile(f"/proc/self/fd/{descriptor}"):
        raise StageError("spec", f"cannot stage {path}: it is not a regular file")
    return descriptor


def stage(inputs: Inputs, task: str, start: dict[str, Any]) -> None:
    """Unpack the archive, copy the files and make the output folder.

    Raises:
        StageError: the archive or a name is refused, or the scratch space is too small.
    """
    if inputs.archive is not None:
        from sandbox.spawner import archive as unpacking

        limits = start["archive"]
        unpacking.unpack(
            inputs.archive,
            task,
            unpacking.Limits(limits["max_bytes"], limits["max_members"], limits["max_ratio"]),
        )
    for descriptor, name, mode in inputs.files:
        _copy(descriptor, task, name, mode)
    output = start["output_dir"]
    try:
        _make_folders(task, output)
    except OSError as error:
        raise StageError("spec", describe(error, f"cannot make the folder {output}")) from None


def _make_folders(task: str, name: str) -> None:
    """Make the folder `name` below /task; a link that an archive brought is never followed."""
    path = task
    for step in name.split("/"):
        if step in ("", "."):
            continue
        path = os.path.join(path, step)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", path) from None


def _copy(source: int, task: str, name: str, mode: int) -> None:
    path = os.path.join(task, name)
    try:
        _make_folders(task, os.path.dirname(name))
        target = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        while data := os.read(source, _COPY_BYTES):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
        os.fchmod(target, mode)
    except OSError as error:
        raise StageError("spec", describe(error, f"cannot stage {name}")) from None
    os.close(target)
    os.close(source)


def describe(error: OSError, what: str) -> str:
    """One line for a failed write into /task."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: the task's scratch space is too small for its inputs"
    if error.errno == errno.EEXIST:
        return f"{what}: that name is taken already"
    return f"{what}: {error.strerror or error}"


def is_control(character: str) -> bool:
    """Whether a name that holds it could end a line or command a terminal."""
    code = ord(character)
    return code < 32 or 127 <= code < 160 or code in (0x2028, 0x2029)
