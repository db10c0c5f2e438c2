"""What the master gives to nodes that speak the public API alone, and under which id.

Such a node is told a task's id and its bytes, and nothing else. So it gets only tasks that need
nothing else, and the master alone minds their time and output.
"""

import re

from hivemind.core.messages import AttemptRef
from hivemind.core.records import Capabilities, Capacity, PayloadKind, TaskSpec
from hivemind.core.registration import Registration

PUSH_BYTES = 100_000_000
"""The most that an ``ExecuteTask`` carries."""

_GIB = 1024**3
_PUSH_ID = re.compile(r"([0-9a-z]{26})\.([1-9][0-9]{0,8})")


def is_pushable(spec: TaskSpec, *, payload_bytes: int, stdin_bytes: int) -> bool:
    """Whether the task needs nothing of its node but its bytes and what a node registers."""
    return (
        spec.kind in {PayloadKind.SCRIPT, PayloadKind.ARCHIVE}
        and 0 < payload_bytes <= PUSH_BYTES
        and not stdin_bytes
        and not (spec.argv or spec.command or spec.env or spec.outputs)
    )


def push_id(ref: AttemptRef) -> str:
    """What a pushed node calls an attempt by. It names the attempt for good, to this pool alone."""
    return f"{ref.task_id}.{ref.attempt}"


def pushed_ref(text: str) -> AttemptRef | None:
    """The attempt of an id that ``push_id`` made; None for any other text."""
    match = _PUSH_ID.fullmatch(text)
    return None if match is None else AttemptRef(match[1], int(match[2]))


def capabilities_of(said: Registration) -> Capabilities:
    """What the fleet counts with. Every core is a slot, so that small tasks do not swamp a node
    that starts each of them in some way of its own.
    """
    has_gpu = bool(said.gpu_name or said.gpu_memory_gb)
    return Capabilities(
        capacity=Capacity(
            slots=said.cpu_cores,
            cpu_millis=1000 * said.cpu_cores,
            memory_bytes=_GIB * said.memory_gb,
            gpus=int(has_gpu),
            gpu_memory_bytes=_GIB * said.gpu_memory_gb,
            gpu_name=said.gpu_name,
            location=said.location,
        ),
        hostname=said.hostname,
        version="",
        limits="",
        sandbox=said.docker_status,
        is_pushed=True,
    )
