"""What fits where, and what is missing where it does not.

A task's memory and its scratch space are reserved together, because pages of a tmpfs count against
the memory limit of the cgroup that wrote them. Every task takes one slot.
"""

import enum

import attrs

from hivemind.core.records import Capacity, Requirements


@attrs.frozen
class Amounts:
    """A quantity of each thing that is counted; may be negative where a node is over-committed."""

    slots: int = 0
    cpu_millis: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_memory_bytes: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        """The sum, item by item."""
        return Amounts(
            self.slots + other.slots,
            self.cpu_millis + other.cpu_millis,
            self.memory_bytes + other.memory_bytes,
            self.gpus + other.gpus,
            self.gpu_memory_bytes + other.gpu_memory_bytes,
        )

    def minus(self, other: "Amounts") -> "Amounts":
        """The difference, item by item."""
        return Amounts(
            self.slots - other.slots,
            self.cpu_millis - other.cpu_millis,
            self.memory_bytes - other.memory_bytes,
            self.gpus - other.gpus,
            self.gpu_memory_bytes - other.gpu_memory_bytes,
        )

    def within(self, room: "Amounts") -> bool:
        """Whether there is room for all of it. What is not needed cannot be short."""
        return (
            (self.slots <= room.slots or not self.slots)
            and (self.cpu_millis <= room.cpu_millis or not self.cpu_millis)
            and (self.memory_bytes <= room.memory_bytes or not self.memory_bytes)
            and (self.gpus <= room.gpus or not self.gpus)
            and (self.gpu_memory_bytes <= room.gpu_memory_bytes or not self.gpu_memory_bytes)
        )

    def times_in(self, room: "Amounts") -> int:
        """How many of it fit into ``room``; it must need at least a slot."""
        return min(there // need for need, there in self.paired(room) if need)

    def dominant_share(self, total: "Amounts") -> float:
        """The largest fraction that it is of any item of ``total``; items of which there are none
        do not count.
        """
        return max((mine / all_ for mine, all_ in self.paired(total) if all_ > 0), default=0.0)

    def shortage(self, room: "Amounts") -> float:
        """The largest missing fraction of any item that it needs; 0 when it fits."""
        return max(((need - there) / need for need, there in self.paired(room) if need), default=0)

    def paired(self, other: "Amounts") -> tuple[tuple[int, int], ...]:
        """Each item of this with the same item of ``other``."""
        return (
            (self.slots, other.slots),
            (self.cpu_millis, other.cpu_millis),
            (self.memory_bytes, other.memory_bytes),
            (self.gpus, other.gpus),
            (self.gpu_memory_bytes, other.gpu_memory_bytes),
        )


NOTHING = Amounts()


def needed(requirements: Requirements) -> Amounts:
    """What a task with these requirements reserves."""
    return Amounts(
        1,
        requirements.cpu_millis,
        requirements.memory_bytes + requirements.scratch_bytes,
        requirements.gpus,
        requirements.gpu_memory_bytes,
    )


def offered(capacity: Capacity) -> Amounts:
    """What a node with this capacity has altogether."""
    return Amounts(
        capacity.slots,
        capacity.cpu_millis,
        capacity.memory_bytes,
        capacity.gpus,
        capacity.gpu_memory_bytes,
    )


class ShortageKind(enum.StrEnum):
    """Which of a task's needs a node does not meet."""

    SLOTS = "slots"
    CPU = "cpu"
    MEMORY = "memory"
    GPUS = "gpus"
    GPU_MEMORY = "gpu_memory"
    GPU_NAME = "gpu_name"
    LOCATION = "location"


@attrs.frozen
class Shortage:
    """One need that is not met; the two values are of the same unit."""

    kind: ShortageKind
    needed: int | str
    available: int | str


_COUNTED = (
    ShortageKind.SLOTS,
    ShortageKind.CPU,
    ShortageKind.MEMORY,
    ShortageKind.GPUS,
    ShortageKind.GPU_MEMORY,
)


def has_labels(requirements: Requirements, capacity: Capacity) -> bool:
    """Whether a node is where, and has the kind of GPU that, the task wants.

    A location must be the very same text; a GPU's name must contain what was asked for, whatever
    the case, because drivers add the maker's name (``RTX 4090``: ``NVIDIA GeForce RTX 4090``).
    """
    return (not requirements.location or requirements.location == capacity.location) and (
        not requirements.gpu_name
        or requirements.gpu_name.casefold() in capacity.gpu_name.casefold()
    )


def fits(requirements: Requirements, free: Capacity) -> bool:
    """Whether a task fits into what is free on a node now."""
    return needed(requirements).within(offered(free)) and has_labels(requirements, free)


def could_ever_fit(requirements: Requirements, capacity: Capacity) -> bool:
    """Whether a task would fit on a node with this capacity if nothing else ran there."""
    return fits(requirements, capacity)


def shortages(requirements: Requirements, free: Capacity) -> tuple[Shortage, ...]:
    """Everything that is missing for a task to fit into ``free``; empty when it fits."""
    pairs = needed(requirements).paired(offered(free))
    missing = [
        Shortage(kind, need, there)
        for kind, (need, there) in zip(_COUNTED, pairs, strict=True)
        if need and need > there
    ]
    if requirements.gpu_name and not has_labels(Requirements(gpu_name=requirements.gpu_name), free):
        missing.append(Shortage(ShortageKind.GPU_NAME, requirements.gpu_name, free.gpu_name))
    if requirements.location and requirements.location != free.location:
        missing.append(Shortage(ShortageKind.LOCATION, requirements.location, free.location))
    return tuple(missing)
