"""What this machine gives to tasks, and what of it is taken: one account for all that runs here.

The master's attempts and the tasks of direct callers take from the same room, so that both kinds
together never have more than the machine offers.
"""

from collections.abc import Mapping

import attrs

from hivemind.core.messages import AttemptRef
from hivemind.core.policy import Profile
from hivemind.core.records import Capacity, TaskSpec
from hivemind.core.resources import NOTHING, Amounts, needed
from hivemind.worker.gpu_share import GpuShare
from hivemind.worker.gpu_slots import GpuSlots
from hivemind.worker.gpus import Gpus
from hivemind.worker.refusal import Refusal, judge


@attrs.frozen(kw_only=True)
class Place:
    """What one attempt was given; ``Room.release`` takes it back."""

    profile: Profile
    """This machine's own policy, which the attempt's spec fits."""
    gpu: GpuShare | None
    """None where it has no GPU."""


class Room:
    """Gives places to attempts while there are any. Nothing here waits."""

    def __init__(
        self,
        *,
        capacity: Capacity,
        profiles: Mapping[str, Profile],
        gpus: Gpus,
        gpu_slots: GpuSlots,
    ) -> None:
        self.capacity = capacity
        self.profiles = profiles
        """This machine's own policies; those who come from now on are judged by them."""
        self.is_draining = False
        """Give no place to anybody: for whoever asks for one to look at first."""
        self._gpus = gpus
        self._gpu_slots = gpu_slots
        self._needs: dict[AttemptRef, Amounts] = {}
        self._reserved = NOTHING

    @property
    def taken(self) -> int:
        """How many attempts have a place."""
        return len(self._needs)

    def take(
        self, ref: AttemptRef, spec: TaskSpec, account: str, *, is_owner: bool = False
    ) -> Place | Refusal:
        """A place for the attempt, or why there is none for it.

        Args:
            ref: an attempt that has no place yet.
            spec: what it needs, and under which policy.
            account: whose it is.
            is_owner: whether that is the machine's owner, who may use every policy of its.
        """
        profiles = self.profiles
        profile = profiles.get(spec.policy)
        if is_owner and profile is not None:
            profiles = {profile.name: attrs.evolve(profile, accounts=("*",))}
        refusal = judge(
            spec, account, profiles=profiles, capacity=self.capacity, reserved=self._reserved
        )
        if refusal is not None:
            return refusal
        devices = self._gpu_slots.take(ref, spec.requirements)
        if isinstance(devices, Refusal):
            return devices
        self._needs[ref] = needed(spec.requirements)
        self._reserved = self._reserved.plus(self._needs[ref])
        limit_bytes = spec.requirements.gpu_memory_bytes
        return Place(
            profile=self.profiles[spec.policy],
            gpu=GpuShare(gpus=self._gpus, devices=devices, limit_bytes=limit_bytes)
            if devices
            else None,
        )

    def release(self, ref: AttemptRef) -> None:
        """Free the attempt's place; one that has none changes nothing."""
        needs = self._needs.pop(ref, None)
        if needs is not None:
            self._gpu_slots.release(ref)
            self._reserved = self._reserved.minus(needs)
