"""The machine's NVIDIA GPUs, where there are any: no library, no driver and no GPU are the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class GpuLoad:
    """All GPUs together: the mean of how busy they are, the sum of what is used."""

    percent: float = 0.0
    memory_used_bytes: int = 0


class Gpus:
    """The GPUs that were there at the start; made by ``open_gpus``."""

    def __init__(self, nvml: ModuleType | None, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def load(self) -> GpuLoad:
        """How busy they are; what a driver does not tell counts as nothing."""
        if self._nvml is None or not self._handles:
            return GpuLoad()
        busy = used = 0
        for handle in self._handles:
            try:
                busy += self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                used += self._nvml.nvmlDeviceGetMemoryInfo(handle).used
            except self._nvml.NVMLError:
                continue
        return GpuLoad(percent=busy / len(self._handles), memory_used_bytes=used)


@contextmanager
def open_gpus() -> Iterator[Gpus]:
    """The machine's GPUs for the length of the block; none where NVML is missing or will not."""
    nvml = _load_nvml()
    if nvml is None:
        yield Gpus(None, [])
        return
    try:
        count = nvml.nvmlDeviceGetCount()
        yield Gpus(nvml, [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)])
    finally:
        nvml.nvmlShutdown()


def _load_nvml() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    nvml: ModuleType = pynvml
    return nvml
