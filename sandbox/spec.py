"""What is to be run: the command, its inputs, its limits. Everything is judged when it is made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import attrs

from sandbox.errors import BadSpec
from sandbox.python import Python

_MIB = 1 << 20
_MIN_MEMORY_BYTES = 16 * _MIB  # unpacking and starting take about 12 MiB themselves
_MAX_MODE = 0o777
_MAX_FILES = 10_000
_MAX_VARIABLES = 1_000
_MAX_BINDS = 64
_MAX_OUTPUTS = 64
_MAX_DEVICES = 128
_MAX_OUTPUT_CHARACTERS = 4096  # of all together: they travel in one datagram
# One argument of execve may hold 128 KiB (MAX_ARG_STRLEN), all of them a quarter of the stack.
_MAX_ARGUMENT_BYTES = (128 << 10) - 1
_RESERVED = frozenset(
    ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "task", "tmp")
) | {"usr"}


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise BadSpec(f"{attribute.name} must be positive, not {value}")


def _finite(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not math.isfinite(value):
        raise BadSpec(f"{attribute.name} must be a finite number, not {value}")


def _at_least(least: int) -> Any:  # noqa: ANN401 (the type of an attrs validator)
    def check(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
        if value < least:
            raise BadSpec(f"{attribute.name} must be at least {least}, not {value}")

    return check


def _permission_bits(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 0 <= value <= _MAX_MODE:
        raise BadSpec(f"{attribute.name} must be permission bits up to 0o777, not {value:#o}")


@attrs.frozen(kw_only=True)
class Limits:
    """What one run may use.

    Attributes:
        memory_bytes: memory of all its processes together. Files in its tmpfs folders count
            against the cgroup too, whose limit therefore is this plus the three quotas below.
        scratch_bytes: size of /task.
        scratch_inodes: files and folders in /task.
        tmp_bytes: size of /tmp.
        tmp_inodes: files and folders in /tmp; None for one for each 4 KiB of its size.
        shm_bytes: size of /dev/shm.
        shm_inodes: files in /dev/shm; None as for /tmp.
        pids: processes and threads at once.
        cpus: share of processors, 0.5 being half of one.
        wall_s: seconds from start to end, staging included.
        cpu_s: seconds of processor time, or None for no limit.
        output_bytes: stdout and stderr together; what is over is cut and the run ended.
        file_bytes: size of any one file.
        open_files: descriptors of one process.
    """

    memory_bytes: int = attrs.field(default=512 * _MIB, validator=_at_least(_MIN_MEMORY_BYTES))
    scratch_bytes: int = attrs.field(default=1024 * _MIB, validator=_at_least(4096))
    scratch_inodes: int = attrs.field(default=100_000, validator=_at_least(16))
    tmp_bytes: int = attrs.field(default=64 * _MIB, validator=_at_least(4096))
    tmp_inodes: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(16))
    )
    shm_bytes: int = attrs.field(default=64 * _MIB, validator=_at_least(4096))
    shm_inodes: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(16))
    )
    pids: int = attrs.field(default=256, validator=_at_least(8))
    cpus: float = attrs.field(default=1.0, validator=[_positive, _finite])
    wall_s: float = attrs.field(default=3600.0, validator=_positive)
    cpu_s: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    output_bytes: int = attrs.field(default=64 * _MIB, validator=_at_least(0))
    file_bytes: int = attrs.field(default=1024 * _MIB, validator=_at_least(4096))
    open_files: int = attrs.field(default=1024, validator=_at_least(64))

    @property
    def cgroup_memory_bytes(self) -> int:
        """The limit of the cgroup: memory and every tmpfs that is charged to it."""
        return self.memory_bytes + self.scratch_bytes + self.tmp_bytes + self.shm_bytes


def _check_relative(what: str, name: str) -> None:
    steps = name.split("/")
    if not name or name.startswith("/") or ".." in steps or "" in steps or "." in steps:
        raise BadSpec(f"{what} must be a relative path without '..': {name!r}")
    _check_text(what, name)
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise BadSpec(f"{what} has a control character: {name!r}")


def _check_text(what: str, text: str) -> None:
    if "\0" in text:
        raise BadSpec(f"{what} has a NUL character")
    try:
        size_bytes = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise BadSpec(f"{what} is not valid text") from None
    if size_bytes > _MAX_ARGUMENT_BYTES:
        raise BadSpec(f"{what} is longer than {_MAX_ARGUMENT_BYTES} bytes")


def _check_device(path: str) -> None:
    if not path.startswith("/dev/"):
        raise BadSpec(f"a device must be an absolute path below /dev: {path!r}")
    _check_relative("a device", path[1:])


@attrs.frozen(kw_only=True)
class StagedFile:
    """One file of the host that is copied into /task before the start.

    Attributes:
        source: the file on the host.
        name: where it goes: a relative path below /task.
        mode: its permission bits, 0o644 where nothing is said.
    """

    source: Path
    name: str
    mode: int = attrs.field(default=0o644, validator=_permission_bits)

    def __attrs_post_init__(self) -> None:
        _check_relative("a staged file's name", self.name)


@attrs.frozen(kw_only=True)
class ReadOnlyBind:
    """A file or folder of the host that the task sees read-only.

    As root, the task's uid must be able to read it: folders on the way to it need not be open, it
    and what lies below must be.
    """

    source: Path
    target: PurePosixPath

    def __attrs_post_init__(self) -> None:
        target = str(self.target)
        if not target.startswith("/"):
            raise BadSpec(f"a bind's target must be an absolute path: {target!r}")
        _check_relative("a bind's target", target[1:])
        if target.split("/")[1] in _RESERVED:
            raise BadSpec(f"a bind's target must not lie in a folder of the system: {target!r}")


@attrs.frozen(kw_only=True)
class Archive:
    """A zip or tar (plain, gzip, bzip2, xz; told by its content) that is unpacked into /task.

    Attributes:
        max_bytes: what it may unpack to.
        max_members: files, folders and links together.
        max_ratio: bytes out per byte in, judged once 32 MiB have come out.
    """

    source: Path
    max_bytes: int = attrs.field(default=1024 * _MIB, validator=_positive)
    max_members: int = attrs.field(default=50_000, validator=_positive)
    max_ratio: int = attrs.field(default=200, validator=_positive)


@attrs.frozen(kw_only=True)
class Spec:
    """One run.

    Attributes:
        argv: the command; its first word is looked up on PATH.
        env: the task's variables. PATH, HOME and LANG are added where they are not given; nothing
            else is, and nothing is inherited.
        stdin: what the task reads: a file of the host, or an open descriptor (a pipe, a socket, a
            terminal), which is read as far ahead as a pipe holds; None for /dev/null.
        python: the interpreter found as python3; None for `find_python()`.
        output_dir: a folder of /task that is made before the start; what lies in it afterwards is
            what `Run.collect` writes.
        network: "none" for no sockets but UNIX ones, "loopback" for a network of its own that leads
            nowhere, "full" for the machine's own network, its loopback included.
        seccomp: "deny-list" refuses what programs do not need; "allow-list" allows what Docker's
            default profile does, and refuses all else.
        root: a folder that holds another root file system (usr, bin, lib, ...), seen read-only in
            place of the host's; None for the host's /usr. Its own /etc is used, where it has one.
        devices: device nodes of the host below /dev that the task may open, under the same names.
        tenant: whose run this is, in any words of the caller's. Runs of one tenant may follow each
            other in one cell, where the pool keeps cells; None for a sandbox that is never shared.
        reuse: whether the cell may have had runs of the tenant before, and may have others
            afterwards. Otherwise the run gets a cell only where one was made ahead, and that goes
            with it.
        warm_python: whether a Python script of a tenant may start from an interpreter that its cell
            keeps warm, instead of executing a new one.
        outputs: more files and folders of /task that `Run.collect` writes, under their own paths;
            where the output folder has something of that name, its own counts.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = attrs.field(factory=dict)
    limits: Limits = attrs.field(factory=Limits)
    files: tuple[StagedFile, ...] = ()
    archive: Archive | None = None
    stdin: Path | int | None = None
    binds: tuple[ReadOnlyBind, ...] = ()
    network: Literal["none", "loopback", "full"] = "loopback"
    seccomp: Literal["deny-list", "allow-list"] = "deny-list"
    root: Path | None = None
    devices: tuple[Path, ...] = ()
    tenant: str | None = None
    reuse: bool = True
    warm_python: bool = True
    python: Python | None = None
    output_dir: str = "output"
    outputs: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise BadSpec("there is no command to run")
        for word in self.argv:
            _check_text("an argument", word)
        for name, value in self.env.items():
            if not name or "=" in name:
                raise BadSpec(f"not a variable's name: {name!r}")
            _check_text("a variable", f"{name}={value}")
        if self.network not in ("none", "loopback", "full"):
            raise BadSpec(f"there is no network mode {self.network!r}")
        if self.seccomp not in ("deny-list", "allow-list"):
            raise BadSpec(f"there is no seccomp mode {self.seccomp!r}")
        if self.root is not None and not self.root.is_absolute():
            raise BadSpec(f"the root file system must be an absolute path: {str(self.root)!r}")
        for device in self.devices:
            _check_device(str(device))
        _check_relative("the output folder", self.output_dir)
        for path in self.outputs:
            _check_relative("an output", path)
        if sum(map(len, self.outputs)) > _MAX_OUTPUT_CHARACTERS:
            raise BadSpec(f"outputs have more than {_MAX_OUTPUT_CHARACTERS} characters together")
        for what, count, most in (
            ("staged files", len(self.files), _MAX_FILES),
            ("variables", len(self.env), _MAX_VARIABLES),
            ("binds", len(self.binds), _MAX_BINDS),
            ("devices", len(self.devices), _MAX_DEVICES),
            ("outputs", len(self.outputs), _MAX_OUTPUTS),
        ):
            if count > most:
                raise BadSpec(f"{count} {what} are more than the {most} allowed")
