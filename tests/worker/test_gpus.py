import sys
from types import ModuleType, SimpleNamespace

import pytest

from hivemind.worker.gpus import GpuLoad, open_gpus


class NVMLError(Exception):
    pass


def fake_nvml(*, fails: bool = False) -> ModuleType:
    """Two GPUs, the second of which does not tell how busy it is."""
    nvml = ModuleType("pynvml")
    said: list[str] = []

    def init() -> None:
        if fails:
            raise NVMLError("no driver")
        said.append("init")

    def utilisation(handle: int) -> SimpleNamespace:
        if handle == 1:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=60)

    nvml.__dict__.update(
        NVMLError=NVMLError,
        said=said,
        nvmlInit=init,
        nvmlShutdown=lambda: said.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=utilisation,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=1000),
    )
    return nvml


def test_all_gpus_count_together_and_a_silent_one_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with open_gpus() as gpus:
        assert gpus.load() == GpuLoad(percent=30.0, memory_used_bytes=1000)
    assert nvml.said == ["init", "shutdown"]


@pytest.mark.parametrize("module", [None, fake_nvml(fails=True)])
def test_a_missing_library_or_driver_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with open_gpus() as gpus:
        assert gpus.load() == GpuLoad()
