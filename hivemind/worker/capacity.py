"""What this machine offers for tasks. All of it is really there.

GPUs are not offered: a sandbox cannot be given one yet, and a task must not be promised it.
"""

import os
from pathlib import Path

import attrs
import psutil

from hivemind.core.records import Capacity
from hivemind.core.sizes import show_size
from hivemind.worker.errors import WorkerError
from sandbox.hierarchy import read_layout

_SHARE_OF_MEMORY = 0.8
"""What of the memory is offered where the owner does not say: the system needs some itself."""


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
