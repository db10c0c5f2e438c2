"""What the machine's CDI file says of its NVIDIA GPUs: device nodes, libraries, variables.

The Container Device Interface (its SPEC.md, sections on the JSON definition) is how NVIDIA's own
tools describe a GPU to whoever isolates programs. The file is read strictly and within limits.
Hooks, which are programs to be run as root, never are; nothing that they do is needed here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from sandbox.cdi_yaml import read_yaml
from sandbox.errors import Finding, Unavailable

KIND = "nvidia.com/gpu"
FOLDERS = (Path("/var/run/cdi"), Path("/etc/cdi"))
"""Where they lie; what is in the first counts before what is in the second."""

_REMEDY = "write it anew: nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json"
_MOST_BYTES = 1 << 20
_MOST_FILES = 64
_TOP_KEYS = {"cdiVersion", "kind", "annotations", "devices", "containerEdits"}
_DEVICE_KEYS = {"name", "annotations", "containerEdits"}
_EDIT_KEYS = {"env", "deviceNodes", "mounts"}
# What only a container runtime could do, and a GPU program does not need.
_UNUSED_EDIT_KEYS = {"hooks", "additionalGids", "intelRdt", "netDevices"}


@attrs.frozen(kw_only=True)
class Edits:
    """What a program that is given the device is to see.

    Attributes:
        nodes: device nodes, under the same name on the host and inside.
        mounts: files of the host.
        env: variables.
        unused: names of what the file asks for beyond these.
    """

    nodes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()

    def plus(self, other: Edits) -> Edits:
        """Both together."""
        return Edits(
            nodes=self.nodes + other.nodes,
            mounts=self.mounts + other.mounts,
            env=self.env + other.env,
            unused=self.unused + other.unused,
        )


@attrs.frozen(kw_only=True)
class CdiFile:
    """A CDI file for NVIDIA GPUs.

    Attributes:
        common: what goes with every device.
        devices: what goes with each, by its name: an index, a UUID, or `all`.
    """

    path: Path
    common: Edits
    devices: Mapping[str, Edits]

    def find(self, names: Iterable[str]) -> Edits:
        """What goes with the device that has one of the names; the first that is there counts.

        Raises:
            Unavailable: none is there.
        """
        tried = tuple(names)
        for name in tried:
            if name in self.devices:
                return self.devices[name]
        raise unusable(self.path, f"it names no device {' or '.join(tried)}")


def unusable(path: Path, why: str) -> Unavailable:
    """A CDI file that cannot be used, and how to have a better one."""
    return Unavailable((Finding(name="GPU", ok=False, detail=f"{path}: {why}", remedy=_REMEDY),))


def find_cdi_file(folders: Iterable[Path] = FOLDERS) -> CdiFile | None:
    """The machine's CDI file for NVIDIA GPUs; None where there is none.

    Files for other devices are passed over, whatever they hold.

    Raises:
        Unavailable: there is one that cannot be read, or says what it must not.
    """
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())[:_MOST_FILES]
        except OSError:
            continue
        for path in paths:
            if path.suffix in {".json", ".yaml", ".yml"}:
                found = _read(path)
                if found is not None:
                    return found
    return None


def _read(path: Path) -> CdiFile | None:
    text = _read_text(path)
    if KIND not in text:
        return None
    try:
        content = json.loads(text) if path.suffix == ".json" else read_yaml(text)
        top = _mapping("the file", content, _TOP_KEYS)
        if top.get("kind") != KIND:
            return None
        devices: dict[str, Edits] = {}
        for entry in _list("devices", top.get("devices", [])):
            device = _mapping("a device", entry, _DEVICE_KEYS)
            name = _text("a device's name", device.get("name"))
            if name in devices:
                raise ValueError(f"device {name!r} is there twice")
            devices[name] = _edits(device.get("containerEdits", {}))
        common = _edits(top.get("containerEdits", {}))
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"it cannot be used: {error}") from None
    return CdiFile(path=path, common=common, devices=devices)


def _read_text(path: Path) -> str:
    """The file, which must be as safe from others as a program that root runs."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unusable(path, f"it cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise unusable(path, "it is not a regular file")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise unusable(path, "others than root and this user may write it")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise unusable(path, f"it is larger than {_MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise unusable(path, "it is not UTF-8") from None


def _edits(value: object) -> Edits:
    edits = _mapping("containerEdits", value, _EDIT_KEYS | _UNUSED_EDIT_KEYS)
    return Edits(
        nodes=tuple(_node(item) for item in _list("deviceNodes", edits.get("deviceNodes", []))),
        mounts=tuple(_mount(item) for item in _list("mounts", edits.get("mounts", []))),
        env=tuple(_variable(item) for item in _list("env", edits.get("env", []))),
        unused=tuple(sorted(key for key in _UNUSED_EDIT_KEYS if edits.get(key))),
    )


def _node(value: object) -> str:
    node = _mapping("a device node", value, None)
    path = _path("a device node", node.get("path"))
    if not path.startswith("/dev/"):
        raise ValueError(f"device node {path!r} does not lie below /dev")
    if node.get("hostPath", path) != path:
        raise ValueError(f"device node {path!r} has another name on the host")
    return path


def _mount(value: object) -> str:
    mount = _mapping("a mount", value, None)
    _path("a mount's target", mount.get("containerPath"))
    return _path("a mount", mount.get("hostPath"))


def _variable(value: object) -> tuple[str, str]:
    name, equals, text = _text("a variable", value).partition("=")
    if not name or not equals:
        raise ValueError(f"{value!r} is not a variable with its value")
    return name, text


def _path(what: str, value: object) -> str:
    path = _text(what, value)
    if not path.startswith("/") or os.path.normpath(path) != path or path.startswith("//"):
        raise ValueError(f"{what} must be an absolute path without '..', not {path!r}")
    return path


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{what} must be a string in printable characters, not {value!r}")
    return value


def _list(what: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list")
    return value


def _mapping(what: str, value: object, keys: set[str] | None) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a mapping")
    unknown = sorted(set(value) - keys) if keys is not None else []
    if unknown:
        raise ValueError(f"{what} has a key that is not known here: {unknown[0]!r}")
    return value
