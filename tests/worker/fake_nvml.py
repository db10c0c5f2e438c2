"""NVML of a machine that has no GPU, as the module that the worker imports."""

from types import ModuleType, SimpleNamespace
from typing import Any

import attrs

from tests.sandbox.fake_gpus import uuid_of

GIB = 1024**3


class NVMLError(Exception):
    pass


@attrs.define(kw_only=True)
class FakeGpu:
    """One GPU as the driver tells of it; what fails is a set of NVML's own function names."""

    name: str = "NVIDIA H100"
    minor: int = 0
    total_bytes: int = 80 * GIB
    used_bytes: int = 0
    mig: int | None = None
    fails: set[str] = attrs.field(factory=set)


def fake_nvml(*gpus: FakeGpu, vanishes: bool = False) -> ModuleType:
    """A module with what the worker uses; ``said`` holds what was begun and ended."""
    nvml = ModuleType("pynvml")
    said: list[str] = []

    def told(function: str, value: Any) -> Any:
        def ask(index: int) -> Any:
            if function in gpus[index].fails:
                raise NVMLError(f"{function} failed")
            return value(index)

        return ask

    def mig_mode(index: int) -> tuple[int, int]:
        mig = gpus[index].mig
        if mig is None:
            raise NVMLError("not supported")
        return mig, mig

    def shut_down() -> None:
        said.append("shutdown")
        if vanishes:
            raise NVMLError("driver not loaded")

    def count() -> int:
        if vanishes:
            raise NVMLError("driver not loaded")
        return len(gpus)

    answers = {
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": uuid_of,
        "nvmlDeviceGetMinorNumber": lambda index: gpus[index].minor,
        "nvmlDeviceGetName": lambda index: gpus[index].name,
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=60),
        "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(
            used=gpus[index].used_bytes, total=gpus[index].total_bytes
        ),
    }
    nvml.__dict__.update(
        {name: told(name, value) for name, value in answers.items()},
        NVMLError=NVMLError,
        said=said,
        nvmlInit=lambda: said.append("init"),
        nvmlShutdown=shut_down,
        nvmlDeviceGetCount=count,
        nvmlDeviceGetMigMode=mig_mode,
    )
    return nvml
