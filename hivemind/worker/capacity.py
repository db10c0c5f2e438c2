"""What this machine offers for tasks. All of it is really there."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import psutil
import structlog

import sandbox
from hivemind.core.policy import Profile
from hivemind.core.records import Capacity
from hivemind.core.sizes import show_size
from hivemind.worker.errors import WorkerError
from hivemind.worker.gpus import GpuDevice, Gpus
from sandbox.hierarchy import read_layout

_SHARE_OF_MEMORY = 0.8
"""What of the memory is offered where the owner does not say: the system needs some itself."""
_MOST_NAME_CHARACTERS = 200
"""A master takes no longer names."""

log = structlog.get_logger(__name__)


class ImpossibleOffer(WorkerError):
    """The configuration offers more than the machine has."""


@attrs.frozen(kw_only=True)
class Machine:
    """What there is."""

    cpus: int
    memory_bytes: int


@attrs.frozen(kw_only=True)
class Wish:
    """What the owner wants to offer; None where the machine decides."""

    slots: int | None = None
    cpu_millis: int | None = None
    memory_bytes: int | None = None
    location: str = ""


def plan_capacity(wish: Wish, machine: Machine) -> Capacity:
    """The offer: as wished, else all processors, most of the memory, and a slot for each processor.

    Raises:
        ImpossibleOffer: more is wished than there is.
    """
    cpu_millis = wish.cpu_millis or 1000 * machine.cpus
    if cpu_millis > 1000 * machine.cpus:
        raise ImpossibleOffer(
            f"cpus: {cpu_millis / 1000:g} cannot be offered, since this machine has {machine.cpus}"
        )
    memory_bytes = wish.memory_bytes or int(_SHARE_OF_MEMORY * machine.memory_bytes)
    if memory_bytes > machine.memory_bytes:
        raise ImpossibleOffer(
            f"memory: {show_size(memory_bytes)} cannot be offered, since this machine has "
            f"{show_size(machine.memory_bytes)}"
        )
    return Capacity(
        slots=wish.slots or max(1, cpu_millis // 1000),
        cpu_millis=cpu_millis,
        memory_bytes=memory_bytes,
        location=wish.location,
    )


def offered_gpus(gpus: Gpus, profiles: Iterable[Profile]) -> tuple[GpuDevice, ...]:
    """The GPUs that tasks may have: none where no policy lets anybody have one, or none works."""
    if not gpus.devices:
        return ()
    if not any(profile.gpus.most > 0 and profile.accounts for profile in profiles):
        log.info("gpus_not_offered", reason="no policy of this machine allows any")
        return ()
    try:
        gpus.grant(gpus.devices)
    except sandbox.SandboxError as error:
        log.warning("gpus_not_offered", reason=str(error))
        return ()
    return gpus.devices


def with_gpus(capacity: Capacity, devices: Sequence[GpuDevice]) -> Capacity:
    """The offer with these GPUs: the memory of all together, and the names of all kinds."""
    names = sorted({device.name for device in devices if device.name.isprintable()})
    while len(name := ", ".join(names)) > _MOST_NAME_CHARACTERS:
        names.pop()
    return attrs.evolve(
        capacity,
        gpus=len(devices),
        gpu_memory_bytes=sum(device.memory_bytes for device in devices),
        gpu_name=name,
    )


def measure_machine() -> Machine:
    """The machine, as far as this process may use it; reads files of the kernel alone."""
    limits = [psutil.virtual_memory().total, *_cgroup_memory_limits()]
    return Machine(cpus=len(os.sched_getaffinity(0)), memory_bytes=min(limits))


def _cgroup_memory_limits() -> list[int]:
    """The memory limits of the cgroup that this process is in, and of those around it."""
    layout = read_layout()
    if layout is None:
        return []
    folder, name = layout.v1.get("memory"), "memory.limit_in_bytes"
    if folder is None:
        folder, name = layout.v2, "memory.max"
    limits: list[int] = []
    while folder is not None and (folder / "cgroup.procs").exists():
        text = _read(folder / name)
        if text.isdecimal():
            limits.append(int(text))
        folder = folder.parent
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
