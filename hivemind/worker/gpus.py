"""The machine's NVIDIA GPUs, where there are any: no library, no driver and no GPU are the same."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import attrs
import structlog

from sandbox.gpu import Gpu, GpuGrant, Places, grant_gpus

_MIG_ENABLED = 1  # NVML_DEVICE_MIG_ENABLE

log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class GpuLoad:
    """All GPUs together: the mean of how busy they are, the sum of what is used."""

    percent: float = 0.0
    memory_used_bytes: int = 0


@attrs.frozen(kw_only=True)
class GpuDevice:
    """A GPU that can be given to a task whole."""

    gpu: Gpu
    name: str
    memory_bytes: int


class Gpus:
    """The GPUs that were there at the start; made by ``open_gpus``."""

    def __init__(
        self, nvml: ModuleType | None, handles: Sequence[Any], places: Places | None = None
    ) -> None:
        self._nvml = nvml
        self._handles = handles
        self._places = places
        self.devices = tuple(self._describe_all())
        """Those that tasks can be given; one that is split by MIG, or will not tell, is not."""

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

    def used_bytes(self, devices: Iterable[GpuDevice]) -> int | None:
        """The memory in use on these together; None while the driver does not tell."""
        if self._nvml is None:
            return None
        used = 0
        for device in devices:
            try:
                used += self._nvml.nvmlDeviceGetMemoryInfo(self._handles[device.gpu.index]).used
            except self._nvml.NVMLError:
                return None
        return used

    def grant(self, devices: Iterable[GpuDevice], *, sees_usr: bool = True) -> GpuGrant:
        """What a sandbox needs to have these. Raises sandbox.Unavailable, which says why not.

        The driver's libraries below /usr are among it where the sandbox does not see that.
        """
        return grant_gpus(
            [device.gpu for device in devices], sees_usr=sees_usr, places=self._places
        )

    def _describe_all(self) -> Iterator[GpuDevice]:
        if self._nvml is None:
            return
        for index, handle in enumerate(self._handles):
            try:
                if _is_split(self._nvml, handle):
                    log.info("gpu_not_offered", index=index, reason="it is split by MIG")
                    continue
                yield GpuDevice(
                    gpu=Gpu(
                        index=index,
                        uuid=str(self._nvml.nvmlDeviceGetUUID(handle)),
                        minor=int(self._nvml.nvmlDeviceGetMinorNumber(handle)),
                    ),
                    name=str(self._nvml.nvmlDeviceGetName(handle)),
                    memory_bytes=int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total),
                )
            except self._nvml.NVMLError as error:
                log.info("gpu_not_offered", index=index, reason=str(error))


@contextmanager
def open_gpus(places: Places | None = None) -> Iterator[Gpus]:
    """The machine's GPUs for the length of the block; none where NVML is missing or will not."""
    nvml = _load_nvml()
    if nvml is None:
        yield Gpus(None, [])
        return
    try:
        yield Gpus(nvml, _handles(nvml), places)
    finally:
        with suppress(nvml.NVMLError):  # a driver that is gone has nothing left to close
            nvml.nvmlShutdown()


def _handles(nvml: ModuleType) -> list[Any]:
    """By index, and so up to the first that the driver does not give."""
    handles: list[Any] = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            handles.append(nvml.nvmlDeviceGetHandleByIndex(index))  # noqa: PERF401
    return handles


def _is_split(nvml: ModuleType, handle: Any) -> bool:  # noqa: ANN401 (NVML's own, opaque)
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # a GPU that knows no MIG
    return bool(current == _MIG_ENABLED)


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
