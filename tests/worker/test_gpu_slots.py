import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hivemind.core.messages import AttemptRef
from hivemind.core.records import RefusalKind, Requirements
from hivemind.worker.gpu_slots import GpuSlots
from hivemind.worker.gpus import GpuDevice
from hivemind.worker.refusal import Refusal
from tests.sandbox.fake_gpus import fake_gpu

GIB = 1024**3
ONE = Requirements(gpus=1)


def device(index: int, name: str = "NVIDIA H100", memory: int = 80) -> GpuDevice:
    return GpuDevice(gpu=fake_gpu(index), name=name, memory_bytes=memory * GIB)


MIXED = (device(0), device(1, "NVIDIA T4", 16), device(2, "NVIDIA T4", 16), device(3))


def ref(number: int) -> AttemptRef:
    return AttemptRef(f"task{number}", 1)


def indices(taken: tuple[GpuDevice, ...] | Refusal) -> list[int]:
    assert not isinstance(taken, Refusal), taken
    return [device.gpu.index for device in taken]


def refused(taken: tuple[GpuDevice, ...] | Refusal) -> RefusalKind:
    assert isinstance(taken, Refusal)
    return taken.kind


def test_no_two_attempts_share_a_gpu_and_what_is_released_is_free() -> None:
    slots = GpuSlots([device(0), device(1)])
    assert indices(slots.take(ref(1), ONE)) == [0]
    assert indices(slots.take(ref(2), ONE)) == [1]
    assert refused(slots.take(ref(3), ONE)) is RefusalKind.BUSY
    slots.release(ref(1))
    slots.release(ref(1))
    assert indices(slots.take(ref(3), ONE)) == [0]


def test_an_attempt_without_gpus_holds_none() -> None:
    slots = GpuSlots([device(0)])
    assert slots.take(ref(1), Requirements()) == ()
    slots.release(ref(1))
    assert len(slots.free) == 1


def test_the_smallest_that_do_are_taken() -> None:
    slots = GpuSlots(MIXED)
    assert indices(slots.take(ref(1), ONE)) == [1]
    assert indices(slots.take(ref(2), Requirements(gpus=1, gpu_memory_bytes=17 * GIB))) == [0]
    assert indices(slots.take(ref(3), Requirements(gpus=2, gpu_memory_bytes=90 * GIB))) == [2, 3]


def test_the_kind_that_is_named_is_given_whatever_its_case() -> None:
    slots = GpuSlots(MIXED)
    assert indices(slots.take(ref(1), Requirements(gpus=2, gpu_name="h100"))) == [0, 3]
    assert refused(slots.take(ref(2), Requirements(gpus=1, gpu_name="H100"))) is RefusalKind.BUSY
    assert indices(slots.take(ref(3), Requirements(gpus=1, gpu_name="t4"))) == [1]


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Requirements(gpus=5), "5 GPUs"),
        (Requirements(gpus=1, gpu_name="A100"), "a GPU called A100"),
        (Requirements(gpus=3, gpu_name="T4"), "3 GPUs called T4"),
        (Requirements(gpus=1, gpu_memory_bytes=81 * GIB), "a GPU with 81G of memory"),
    ],
)
def test_what_the_machine_never_has_is_refused_for_good(needs: Requirements, words: str) -> None:
    refusal = GpuSlots(MIXED).take(ref(1), needs)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.POLICY
    assert words in refusal.detail


def test_an_attempt_does_not_take_twice() -> None:
    slots = GpuSlots(MIXED)
    slots.take(ref(1), ONE)
    with pytest.raises(ValueError, match="already"):
        slots.take(ref(1), ONE)


needs = st.builds(
    Requirements,
    gpus=st.integers(0, 5),
    gpu_memory_bytes=st.sampled_from([0, GIB, 16 * GIB, 40 * GIB, 200 * GIB]),
    gpu_name=st.sampled_from(["", "T4", "h100", "none such"]),
)


@given(st.lists(st.sampled_from([("NVIDIA H100", 80), ("NVIDIA T4", 16)]), max_size=5), needs)
def test_what_a_machine_has_is_given_and_is_as_asked(
    kinds: list[tuple[str, int]], asked: Requirements
) -> None:
    devices = [device(index, name, memory) for index, (name, memory) in enumerate(kinds)]
    taken = GpuSlots(devices).take(ref(1), asked)
    fitting = sorted(
        (it.memory_bytes for it in devices if asked.gpu_name.casefold() in it.name.casefold()),
        reverse=True,
    )
    possible = (
        len(fitting) >= asked.gpus and sum(fitting[: asked.gpus]) >= asked.gpu_memory_bytes
    ) or not asked.gpus
    assert isinstance(taken, Refusal) is not possible
    if not isinstance(taken, Refusal) and asked.gpus:
        assert len({it.gpu.index for it in taken}) == asked.gpus
        assert sum(it.memory_bytes for it in taken) >= asked.gpu_memory_bytes
        assert all(asked.gpu_name.casefold() in it.name.casefold() for it in taken)


class Sharing(RuleBasedStateMachine):
    """Attempts come and go in any order; what they hold is kept beside."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = GpuSlots(MIXED)
        self.held: dict[AttemptRef, list[int]] = {}

    @rule(number=st.integers(0, 5), asked=needs)
    def take(self, number: int, asked: Requirements) -> None:
        if ref(number) in self.held:
            return
        taken = self.slots.take(ref(number), asked)
        if not isinstance(taken, Refusal) and taken:
            self.held[ref(number)] = indices(taken)

    @rule(number=st.integers(0, 5))
    def release(self, number: int) -> None:
        self.slots.release(ref(number))
        self.held.pop(ref(number), None)

    @invariant()
    def every_gpu_is_free_or_held_by_one(self) -> None:
        held = [index for indices in self.held.values() for index in indices]
        assert sorted([*held, *(it.gpu.index for it in self.slots.free)]) == [0, 1, 2, 3]


TestSharing = Sharing.TestCase
