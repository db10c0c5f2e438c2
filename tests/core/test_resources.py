import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.records import Capacity, Requirements
from hivemind.core.resources import (
    Amounts,
    Shortage,
    ShortageKind,
    could_ever_fit,
    fits,
    needed,
    shortages,
)
from tests.core.builders import GIB, MIB, wants

NODE = Capacity(
    slots=2,
    cpu_millis=4000,
    memory_bytes=8 * GIB,
    gpus=1,
    gpu_memory_bytes=24 * GIB,
    gpu_name="NVIDIA GeForce RTX 4090",
    location="Asia/Taipei",
)
EVERYTHING = wants(
    cpus=4,
    memory_bytes=8 * GIB,
    gpus=1,
    gpu_memory_bytes=24 * GIB,
    gpu_name="rtx 4090",
    location="Asia/Taipei",
)


def test_a_task_that_needs_exactly_all_of_a_node_fits() -> None:
    assert fits(EVERYTHING, NODE)
    assert could_ever_fit(EVERYTHING, NODE)
    assert shortages(EVERYTHING, NODE) == ()


@pytest.mark.parametrize(
    ("given_free", "then_missing"),
    [
        ({"slots": 0}, Shortage(ShortageKind.SLOTS, 1, 0)),
        ({"cpu_millis": 3999}, Shortage(ShortageKind.CPU, 4000, 3999)),
        ({"memory_bytes": 4 * GIB}, Shortage(ShortageKind.MEMORY, 8 * GIB, 4 * GIB)),
        ({"gpus": 0}, Shortage(ShortageKind.GPUS, 1, 0)),
        ({"gpu_memory_bytes": -1}, Shortage(ShortageKind.GPU_MEMORY, 24 * GIB, -1)),
        ({"gpu_name": "A100"}, Shortage(ShortageKind.GPU_NAME, "rtx 4090", "A100")),
        ({"location": ""}, Shortage(ShortageKind.LOCATION, "Asia/Taipei", "")),
    ],
)
def test_what_is_missing_is_named_with_both_values(
    given_free: dict[str, object], then_missing: Shortage
) -> None:
    free = attrs.evolve(NODE, **given_free)  # type: ignore[arg-type]
    assert not fits(EVERYTHING, free)
    assert shortages(EVERYTHING, free) == (then_missing,)


def test_scratch_space_is_reserved_as_memory() -> None:
    needs = Requirements(memory_bytes=6 * GIB, scratch_bytes=3 * GIB)
    assert shortages(needs, NODE) == (Shortage(ShortageKind.MEMORY, 9 * GIB, 8 * GIB),)
    assert needed(needs).memory_bytes == 9 * GIB


def test_a_task_without_gpus_fits_a_node_whose_gpus_are_over_committed() -> None:
    assert fits(wants(), attrs.evolve(NODE, gpus=-1, gpu_memory_bytes=-5))


AMOUNT = st.integers(min_value=-3, max_value=6)
AMOUNTS = st.builds(Amounts, AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT)
NEEDS = st.builds(Amounts, st.just(1), *(st.integers(min_value=0, max_value=4) for _ in range(4)))


@given(NEEDS, AMOUNTS)
def test_what_fits_has_no_shortage_and_fits_at_least_once(need: Amounts, room: Amounts) -> None:
    assert need.within(room) == (need.shortage(room) <= 0) == (need.times_in(room) >= 1)


@given(NEEDS, AMOUNTS)
def test_it_fits_exactly_as_often_as_it_is_said_to(need: Amounts, room: Amounts) -> None:
    times = 0
    while need.within(room):
        room = room.minus(need)
        times += 1
    assert times == max(need.times_in(room.plus(_scaled(need, times))), 0)


def _scaled(need: Amounts, times: int) -> Amounts:
    total = Amounts()
    for _ in range(times):
        total = total.plus(need)
    return total


@given(AMOUNTS, AMOUNTS)
def test_taking_away_what_was_added_leaves_what_was(one: Amounts, other: Amounts) -> None:
    assert one.plus(other).minus(other) == one


def test_a_dominant_share_is_the_largest_fraction_and_ignores_what_the_pool_lacks() -> None:
    total = Amounts(slots=10, cpu_millis=1000, memory_bytes=64 * MIB)
    held = Amounts(slots=1, cpu_millis=500, memory_bytes=16 * MIB, gpus=3)
    assert held.dominant_share(total) == 0.5
    assert held.dominant_share(Amounts()) == 0.0
