import os

import attrs
import psutil
import pytest

from hivemind.core.records import Capacity
from hivemind.worker.capacity import (
    ImpossibleOffer,
    Machine,
    Wish,
    measure_machine,
    plan_capacity,
    with_gpus,
)
from hivemind.worker.gpus import GpuDevice
from tests.sandbox.fake_gpus import fake_gpu

GIB = 1024**3
MACHINE = Machine(cpus=4, memory_bytes=10 * GIB)


def test_by_default_a_machine_offers_what_it_can_spare() -> None:
    assert plan_capacity(Wish(), MACHINE) == Capacity(
        slots=4, cpu_millis=4000, memory_bytes=8 * GIB
    )


def test_an_owner_may_offer_less() -> None:
    wish = Wish(slots=16, cpu_millis=1500, memory_bytes=GIB, location="attic")
    assert plan_capacity(wish, MACHINE) == Capacity(
        slots=16, cpu_millis=1500, memory_bytes=GIB, location="attic"
    )


def test_half_a_processor_is_still_a_slot() -> None:
    assert plan_capacity(Wish(cpu_millis=500), MACHINE).slots == 1


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(cpu_millis=5000), "cpus: 5 .* has 4"),
        (Wish(memory_bytes=11 * GIB), "memory: 11G .* has 10G"),
    ],
)
def test_nothing_is_offered_that_is_not_there(wish: Wish, words: str) -> None:
    with pytest.raises(ImpossibleOffer, match=words):
        plan_capacity(wish, MACHINE)


def device(index: int, name: str, gib: int = 16) -> GpuDevice:
    return GpuDevice(gpu=fake_gpu(index), name=name, memory_bytes=gib * GIB)


def test_gpus_are_offered_with_all_their_memory_and_each_name_once() -> None:
    plain = plan_capacity(Wish(), MACHINE)
    assert with_gpus(plain, ()) == plain
    capacity = with_gpus(plain, [device(0, "T4"), device(1, "H100", 80), device(2, "T4")])
    assert (capacity.gpus, capacity.gpu_memory_bytes) == (3, 112 * GIB)
    assert capacity.gpu_name == "H100, T4"
    assert attrs.evolve(capacity, gpus=0, gpu_memory_bytes=0, gpu_name="") == plain


def test_names_that_a_master_would_not_take_are_left_out() -> None:
    many = [device(number, f"{number:03}" + "x" * 60) for number in range(8)]
    capacity = with_gpus(plan_capacity(Wish(), MACHINE), [*many, device(8, "bad\x1b[2J")])
    assert capacity.gpus == 9
    assert len(capacity.gpu_name) <= 200
    assert capacity.gpu_name.isprintable()


def test_the_machine_is_measured_as_this_process_may_use_it() -> None:
    machine = measure_machine()
    assert machine.cpus == len(os.sched_getaffinity(0))
    assert 0 < machine.memory_bytes <= psutil.virtual_memory().total
