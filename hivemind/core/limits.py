"""What may be asked for: each thing's name for people, its bound in a policy, its place in records.

``admission`` goes through the two tables; whoever adds a thing to be asked for adds it here.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from hivemind.core import sizes
from hivemind.core.confinement import Mode
from hivemind.core.policy import LEAST, Bound, Profile
from hivemind.core.records import TaskSpec

if TYPE_CHECKING:
    from hivemind.core.admission import Ask


def show_bytes(amount: float) -> str:
    """Exact, since a limit may be missed by one byte."""
    return sizes.format_size(int(amount))


def show_number(amount: float) -> str:
    """Without a unit."""
    return f"{amount:.12g}"


def show_seconds(amount: float) -> str:
    """Infinite is no limit at all."""
    if amount == math.inf:
        return UNLIMITED
    return sizes.format_duration(amount) if math.isfinite(amount) else f"{amount:g}s"


UNLIMITED = "unlimited"
"""How people write a limit that is none."""


@attrs.frozen
class Limit:
    """One bounded amount that may be asked for."""

    name: str
    """As the flag of the command line, where there is one."""
    key: str
    """As in a policy file."""
    show: Callable[[float], str]
    asked: Callable[["Ask"], float | None]
    wanted: Callable[[TaskSpec], float | None]
    """What an admitted task's spec says; None where that is not for the worker."""

    def bound(self, profile: Profile) -> Bound:
        """The policy's default and most."""
        bound: Bound = getattr(profile, self.key)
        return bound

    def least(self, profile: Profile) -> float:
        """The least that makes sense; a priority may be as far below zero as above."""
        if self.key == "priority":
            return -self.bound(profile).most
        return LEAST.get(self.key, 0)


@attrs.frozen
class ModeLimit:
    """One mode that may be asked for, within the policy's own."""

    key: str
    """As in a policy file."""
    asked: Callable[["Ask"], Mode | None]
    wanted: Callable[[TaskSpec], Mode | None]
    """As for a ``Limit``."""

    def most(self, profile: Profile) -> Mode:
        """What the policy gives."""
        mode: Mode = getattr(profile, self.key)
        return mode


def _cpu_s(spec: TaskSpec) -> float:
    return math.inf if spec.cpu_s is None else spec.cpu_s


LIMITS = (
    Limit(
        *("memory", "memory", show_bytes),
        lambda ask: ask.memory_bytes,
        lambda spec: spec.requirements.memory_bytes,
    ),
    Limit(
        *("scratch", "scratch", show_bytes),
        lambda ask: ask.scratch_bytes,
        lambda spec: spec.requirements.scratch_bytes,
    ),
    Limit(
        *("scratch_inodes", "scratch_inodes", show_number),
        lambda ask: ask.scratch_inodes,
        lambda spec: spec.confinement.scratch_inodes,
    ),
    Limit(
        *("tmp", "tmp", show_bytes),
        lambda ask: ask.tmp_bytes,
        lambda spec: spec.confinement.tmp_bytes,
    ),
    Limit(
        *("tmp_inodes", "tmp_inodes", show_number),
        lambda ask: ask.tmp_inodes,
        lambda spec: spec.confinement.tmp_inodes,
    ),
    Limit(
        *("shm", "shm", show_bytes),
        lambda ask: ask.shm_bytes,
        lambda spec: spec.confinement.shm_bytes,
    ),
    Limit(
        *("shm_inodes", "shm_inodes", show_number),
        lambda ask: ask.shm_inodes,
        lambda spec: spec.confinement.shm_inodes,
    ),
    Limit(
        *("cpus", "cpus", show_number),
        lambda ask: None if ask.cpu_millis is None else ask.cpu_millis / 1000,
        lambda spec: spec.requirements.cpu_millis / 1000,
    ),
    Limit(
        *("gpus", "gpus", show_number),
        lambda ask: ask.gpus,
        lambda spec: spec.requirements.gpus,
    ),
    Limit(
        *("time", "wall", show_seconds),
        lambda ask: ask.wall_s,
        lambda spec: spec.wall_s,
    ),
    Limit(*("cpu_time", "cpu_time", show_seconds), lambda ask: ask.cpu_s, _cpu_s),
    Limit(
        *("pids", "pids", show_number),
        lambda ask: ask.pids,
        lambda spec: spec.pids,
    ),
    Limit(
        *("file_size", "file_size", show_bytes),
        lambda ask: ask.file_bytes,
        lambda spec: spec.confinement.file_bytes,
    ),
    Limit(
        *("open_files", "open_files", show_number),
        lambda ask: ask.open_files,
        lambda spec: spec.confinement.open_files,
    ),
    Limit(
        *("output", "output", show_bytes),
        lambda ask: ask.output_bytes,
        lambda spec: spec.output_bytes,
    ),
    Limit(
        *("result", "result", show_bytes),
        lambda ask: ask.result_bytes,
        lambda spec: spec.result_bytes,
    ),
    Limit(*("retries", "retries", show_number), lambda ask: ask.retries, lambda _: None),
    Limit(*("priority", "priority", show_number), lambda ask: ask.priority, lambda _: None),
)

MODES = (
    ModeLimit("network", lambda ask: ask.network, lambda spec: spec.confinement.network),
    ModeLimit("seccomp", lambda ask: ask.seccomp, lambda spec: spec.confinement.seccomp),
    # A node that reuses less than a task would put up with takes nothing away from it.
    ModeLimit("reuse", lambda ask: ask.reuse, lambda _: None),
)
