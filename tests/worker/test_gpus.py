import sys
from types import ModuleType

import pytest

from hivemind.worker.gpus import GpuLoad, open_gpus
from tests.sandbox.fake_gpus import fake_gpu
from tests.worker.fake_nvml import GIB, FakeGpu, NVMLError, fake_nvml


def use(monkeypatch: pytest.MonkeyPatch, *gpus: FakeGpu, vanishes: bool = False) -> ModuleType:
    nvml = fake_nvml(*gpus, vanishes=vanishes)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def test_all_gpus_count_together_and_a_silent_one_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = FakeGpu(fails={"nvmlDeviceGetUtilizationRates"}, used_bytes=1000)
    nvml = use(monkeypatch, FakeGpu(used_bytes=1000), silent)
    with open_gpus() as gpus:
        assert gpus.load() == GpuLoad(percent=30.0, memory_used_bytes=1000)
    assert nvml.said == ["init", "shutdown"]


def test_a_missing_library_or_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise NVMLError("no driver")

    broken = fake_nvml()
    broken.__dict__["nvmlInit"] = init
    for module in (None, broken):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        with open_gpus() as gpus:
            assert gpus.load() == GpuLoad()
            assert gpus.devices == ()
            assert gpus.used_bytes(()) is None


def test_a_driver_that_goes_after_the_start_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = use(monkeypatch, FakeGpu(), vanishes=True)
    with open_gpus() as gpus:
        assert gpus.devices == ()
    assert nvml.said == ["init", "shutdown"]


def test_devices_are_told_by_index_name_uuid_node_and_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, FakeGpu(minor=1), FakeGpu(minor=0, name="NVIDIA T4", total_bytes=16 * GIB))
    with open_gpus() as gpus:
        first, second = gpus.devices
    assert (first.gpu, first.name, first.memory_bytes) == (
        fake_gpu(0, minor=1),
        "NVIDIA H100",
        80 * GIB,
    )
    assert (second.gpu, second.name) == (fake_gpu(1, minor=0), "NVIDIA T4")


def test_a_gpu_that_is_split_or_will_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    use(
        monkeypatch,
        FakeGpu(mig=1),
        FakeGpu(mig=0, minor=7),
        FakeGpu(fails={"nvmlDeviceGetMinorNumber"}),
        FakeGpu(fails={"nvmlDeviceGetMemoryInfo"}),
        FakeGpu(minor=4, used_bytes=5),
    )
    with open_gpus() as gpus:
        assert [device.gpu for device in gpus.devices] == [fake_gpu(1, 7), fake_gpu(4, 4)]
        assert gpus.used_bytes(gpus.devices) == 5
        assert gpus.load().memory_used_bytes == 5


def test_an_index_that_fails_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeGpu(), FakeGpu(fails={"nvmlDeviceGetHandleByIndex"}), FakeGpu())
    with open_gpus() as gpus:
        assert [device.gpu.index for device in gpus.devices] == [0]


def test_memory_that_is_not_told_is_unknown_and_not_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = FakeGpu(used_bytes=3), FakeGpu(used_bytes=4)
    use(monkeypatch, one, other)
    with open_gpus() as gpus:
        assert gpus.used_bytes(gpus.devices) == 7
        other.fails = {"nvmlDeviceGetMemoryInfo"}
        assert gpus.used_bytes(gpus.devices) is None
        assert gpus.used_bytes(gpus.devices[:1]) == 3
