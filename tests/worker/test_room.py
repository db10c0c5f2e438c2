import attrs

from hivemind.core.messages import AttemptRef
from hivemind.core.policy import Profile
from hivemind.core.records import Capacity, PayloadKind, RefusalKind, Requirements, TaskSpec
from hivemind.worker.gpu_slots import GpuSlots
from hivemind.worker.gpus import GpuDevice, Gpus
from hivemind.worker.refusal import Refusal
from hivemind.worker.room import Place, Room
from tests.sandbox.fake_gpus import fake_gpu
from tests.worker.running import MIB, spec

TASK = spec(PayloadKind.COMMAND, argv=("true",))
GIB = 1024 * MIB


def make_room(*, accounts: tuple[str, ...] = ("*",), gpus: int = 0) -> Room:
    devices = [GpuDevice(gpu=fake_gpu(i), name="T4", memory_bytes=GIB) for i in range(gpus)]
    default = Profile(name="default", accounts=accounts)
    capacity = Capacity(
        slots=2, cpu_millis=4000, memory_bytes=4 * GIB, gpus=gpus, gpu_memory_bytes=gpus * GIB
    )
    return Room(
        capacity=capacity,
        profiles={"default": attrs.evolve(default, gpus=attrs.evolve(default.gpus, most=4))},
        gpus=Gpus(None, devices),
        gpu_slots=GpuSlots(devices),
    )


def ref(number: int) -> AttemptRef:
    return AttemptRef(f"task{number}", 1)


def refusal(given: Place | Refusal) -> RefusalKind:
    assert isinstance(given, Refusal)
    return given.kind


def test_nobody_is_given_more_than_there_is_whoever_asks() -> None:
    room = make_room()
    assert isinstance(room.take(ref(1), TASK, "alice"), Place)
    assert isinstance(room.take(ref(2), TASK, "bob", is_owner=True), Place)
    assert refusal(room.take(ref(3), TASK, "carol", is_owner=True)) is RefusalKind.BUSY
    assert room.taken == 2
    room.release(ref(1))
    room.release(ref(1))
    room.release(ref(9))
    assert isinstance(room.take(ref(3), TASK, "carol"), Place)
    assert refusal(room.take(ref(4), TASK, "carol")) is RefusalKind.BUSY


def test_the_owner_may_use_what_is_for_others() -> None:
    room = make_room(accounts=("alice",))
    assert refusal(room.take(ref(1), TASK, "bob")) is RefusalKind.POLICY
    place = room.take(ref(1), TASK, "bob", is_owner=True)
    assert isinstance(place, Place)
    assert place.profile is room.profiles["default"]


def test_the_owner_too_keeps_to_the_policys_limits() -> None:
    room = make_room()
    greedy = attrs.evolve(TASK, wall_s=1e9)
    assert refusal(room.take(ref(1), greedy, "bob", is_owner=True)) is RefusalKind.POLICY
    unknown = attrs.evolve(TASK, policy="no-such")
    assert refusal(room.take(ref(1), unknown, "bob", is_owner=True)) is RefusalKind.POLICY
    assert room.taken == 0


def test_a_gpu_is_freed_with_its_place_and_a_refusal_holds_none() -> None:
    room = make_room(gpus=1)
    needs = Requirements(memory_bytes=128 * MIB, scratch_bytes=64 * MIB, gpus=1)
    task: TaskSpec = attrs.evolve(TASK, requirements=needs)
    first = room.take(ref(1), task, "alice")
    assert isinstance(first, Place)
    assert first.gpu is not None
    assert refusal(room.take(ref(2), task, "bob")) is RefusalKind.BUSY
    assert room.taken == 1
    room.release(ref(1))
    assert isinstance(room.take(ref(2), task, "bob"), Place)
