"""Whole NVIDIA GPUs for a run, and no other: an extra that nothing else of this package needs.

    gpus = sandbox.gpu.list_gpus()
    grant = sandbox.gpu.grant_gpus(sandbox.gpu.choose_gpus([0], gpus))
    done = await sandbox.run(grant.added_to(spec))

What isolates is the device nodes: a task has the nodes of its own GPUs, and those that belong to
the driver as a whole (/dev/nvidiactl, /dev/nvidia-uvm). A CDI file, where the machine has one, is
what the libraries are taken from and what the nodes are checked against.

The driver is a large part of the kernel that a task can then speak to: grant a GPU only to those
who ask for it and may have it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from sandbox import cdi, gpu_libraries
from sandbox.errors import BadSpec, Finding, Unavailable
from sandbox.python import find_python
from sandbox.spec import ReadOnlyBind, Spec

_UUID = re.compile(r"GPU-[0-9a-fA-F]{4,}(-[0-9a-fA-F]{4,})*")
_PROC = Path("/proc/driver/nvidia/gpus")
# Ours alone to set: they say which GPUs there are.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_PATH_OF_LIBRARIES = "LD_LIBRARY_PATH"


@attrs.frozen(kw_only=True)
class Gpu:
    """One GPU of this machine.

    Attributes:
        index: its number as NVML and nvidia-smi count, by PCI address.
        uuid: its name for life, GPU-...; empty where the driver does not tell.
        minor: the number of its node, /dev/nvidiaN, which may differ from the index.
    """

    index: int
    uuid: str
    minor: int


@attrs.frozen(kw_only=True)
class GpuGrant:
    """What a run needs to use its GPUs.

    Attributes:
        source: what was believed: the CDI file, or the driver's own nodes and libraries.
        left_out: what the CDI file would have given besides, and a task does not get.
    """

    devices: tuple[Path, ...]
    binds: tuple[ReadOnlyBind, ...]
    env: tuple[tuple[str, str], ...]
    source: str = "the driver's nodes"
    left_out: tuple[str, ...] = ()

    def added_to(self, spec: Spec) -> Spec:
        """The spec with the GPUs. The grant's variables win; search paths are put together."""
        env = {**spec.env, **dict(self.env)}
        ours = dict(self.env).get(_PATH_OF_LIBRARIES)
        if ours is not None:
            python = spec.python or find_python()
            theirs = spec.env.get(_PATH_OF_LIBRARIES) or dict(python.env).get(_PATH_OF_LIBRARIES)
            env[_PATH_OF_LIBRARIES] = f"{ours}:{theirs}" if theirs else ours
        return attrs.evolve(
            spec,
            devices=(*spec.devices, *self.devices),
            binds=(*spec.binds, *self.binds),
            env=env,
        )


@attrs.frozen(kw_only=True)
class Places:
    """Where to look on this machine."""

    dev: Path = Path("/dev")
    cdi: tuple[Path, ...] = cdi.FOLDERS
    libraries: tuple[Path, ...] = gpu_libraries.FOLDERS


def list_gpus(folder: Path = _PROC) -> tuple[Gpu, ...]:
    """The GPUs that the driver has, by PCI address; none where there is no driver."""
    found: list[Gpu] = []
    for path in sorted(folder.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        told = {key.strip(): value.strip() for key, _, value in (it.partition(":") for it in lines)}
        if told.get("Device Minor", "").isdecimal():
            uuid = told.get("GPU UUID", "")
            known = uuid if _UUID.fullmatch(uuid) else ""
            found.append(Gpu(index=len(found), uuid=known, minor=int(told["Device Minor"])))
    return tuple(found)


def choose_gpus(wanted: Iterable[int | str], there: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that are named by index or by UUID.

    Raises:
        BadSpec: one is not there, or is named twice.
    """
    chosen: list[Gpu] = []
    for name in wanted:
        match = [gpu for gpu in there if name in (gpu.index, gpu.uuid) and name != ""]
        if not match:
            have = ", ".join(str(gpu.index) for gpu in there) or "none"
            raise BadSpec(f"there is no GPU {name} on this machine: it has {have}")
        if match[0] in chosen:
            raise BadSpec(f"GPU {name} is asked for twice")
        chosen.append(match[0])
    return tuple(chosen)


def grant_gpus(
    gpus: Sequence[Gpu],
    *,
    uvm_tools: bool = False,
    mig_capabilities: Sequence[int] = (),
    sees_usr: bool = True,
    places: Places | None = None,
) -> GpuGrant:
    """What a run needs to use these GPUs whole, looked up on this machine now.

    CUDA is told its GPUs by UUID. It counts what it can open from 0 whatever the host's numbers
    are, so that a number would mean another GPU inside than outside.

    Args:
        gpus: which, as `choose_gpus` gives them.
        uvm_tools: whether profilers may watch unified memory.
        mig_capabilities: numbers of /dev/nvidia-caps nodes that the run may open.
        sees_usr: whether the run sees the host's own /usr, and not another root file system.
        places: where to look; None for where they are on every machine.

    Raises:
        BadSpec: there is no GPU among them.
        Unavailable: a node, a library or the CDI file is missing or unusable; says how to mend it.
    """
    if not gpus:
        raise BadSpec("a grant needs at least one GPU")
    places = places or Places()
    unknown = [gpu.index for gpu in gpus if _UUID.fullmatch(gpu.uuid) is None]
    if unknown:
        raise _unavailable(
            f"the driver does not tell the UUID of GPU {unknown[0]}",
            "have the driver stay loaded: start nvidia-persistenced, or run nvidia-smi -pm 1",
        )
    nodes = [places.dev / "nvidiactl", places.dev / "nvidia-uvm"]
    nodes += [places.dev / f"nvidia{gpu.minor}" for gpu in gpus]
    file = cdi.find_cdi_file(places.cdi)
    edits = cdi.Edits() if file is None else _edits_for(file, gpus, nodes, places.dev)
    nodes += [places.dev / "nvidia-uvm-tools"] if uvm_tools else []
    nodes += [places.dev / "nvidia-caps" / f"nvidia-cap{number}" for number in mig_capabilities]
    for node in nodes:
        _check_node(node)
    named = [Path(path) for path in edits.mounts if gpu_libraries.is_for_computing(Path(path).name)]
    if not any(path.name.startswith(gpu_libraries.CUDA) for path in named):
        named = list(gpu_libraries.find_libraries(places.libraries))
    libraries = gpu_libraries.show_to_task(named, sees_usr=sees_usr)
    env = {name: value for name, value in edits.env if name.startswith(("CUDA_", "NVIDIA_"))}
    env.update(dict.fromkeys(_VISIBLE, ",".join(gpu.uuid for gpu in gpus)))
    if libraries.folders:
        env[_PATH_OF_LIBRARIES] = ":".join(libraries.folders)
    return GpuGrant(
        devices=tuple(nodes),
        binds=libraries.binds,
        env=tuple(env.items()),
        source="the driver's nodes" if file is None else str(file.path),
        left_out=_left_out(edits, nodes, named),
    )


def probe_gpus(places: Places | None = None, proc: Path = _PROC) -> tuple[Finding, ...]:
    """What can be granted here: one finding where the driver has GPUs, else none.

    Tasks that need no GPU run all the same, so that it never counts as a fault of the machine.
    """
    there = list_gpus(proc)
    if not there:
        return ()
    try:
        grant = grant_gpus(there, places=places)
    except Unavailable as error:
        why = "; ".join(f"{item.detail}: {item.remedy}" for item in error.missing)
        detail = f"{len(there)} found, and none can be granted: {why}"
    else:
        detail = f"{len(there)} can be granted, by {grant.source}"
        if grant.left_out:
            detail += f"; left out: {', '.join(grant.left_out[:4])}"
            detail += f" and {len(grant.left_out) - 4} more" if len(grant.left_out) > 4 else ""
    return (Finding(name="GPU", ok=True, detail=detail),)


def _edits_for(
    file: cdi.CdiFile, gpus: Sequence[Gpu], nodes: Sequence[Path], dev: Path
) -> cdi.Edits:
    """What the file says of the GPUs, where it speaks of the very nodes that they have."""
    edits = file.common
    ours = re.compile(rf"{re.escape(str(dev))}/nvidia\d+")
    for gpu in gpus:
        names = (gpu.uuid, str(gpu.index), f"gpu{gpu.index}")
        own = file.find(names)
        told = {path for path in own.nodes if ours.fullmatch(path)}
        if told != {str(dev / f"nvidia{gpu.minor}")}:
            raise cdi.unusable(
                file.path,
                f"it gives GPU {gpu.index} the nodes {', '.join(sorted(told)) or 'of none'} and "
                f"the driver says {dev}/nvidia{gpu.minor}",
            )
        edits = edits.plus(own)
    missing = sorted(set(map(str, nodes)) - set(edits.nodes))
    if missing:
        raise cdi.unusable(file.path, f"it leaves out {missing[0]}")
    return edits


def _left_out(
    edits: cdi.Edits, nodes: Sequence[Path], libraries: Sequence[Path]
) -> tuple[str, ...]:
    """What the file names and a task neither gets nor sees anyway."""
    mounts = set(edits.mounts) - set(map(str, libraries))
    unseen = {path for path in mounts if not os.path.realpath(path).startswith("/usr/")}
    return tuple(sorted({*edits.unused, *(set(edits.nodes) - set(map(str, nodes))), *unseen}))


def _check_node(path: Path) -> None:
    try:
        status = path.stat()
    except OSError:
        raise _unavailable(
            f"device node {path} is not there",
            "load the driver and have its nodes made: nvidia-modprobe -c 0 -u, as root",
        ) from None
    if not stat.S_ISCHR(status.st_mode):
        raise _unavailable(f"{path} is not a device node", "remove it and load the driver again")
    # As root a run has a uid of its own, in no group; else it has this user's rights.
    as_root = os.geteuid() == 0
    if not (status.st_mode & 0o006 == 0o006 if as_root else os.access(path, os.R_OK | os.W_OK)):
        raise _unavailable(
            f"device node {path} may not be opened by tasks (mode {status.st_mode & 0o777:o})",
            "load the driver with NVreg_DeviceFileMode=0666",
        )


def _unavailable(detail: str, remedy: str) -> Unavailable:
    return Unavailable((Finding(name="GPU", ok=False, detail=detail, remedy=remedy),))
