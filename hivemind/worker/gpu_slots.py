"""Which attempt holds which GPUs. Pure: a GPU is one attempt's alone, and whole."""

from collections.abc import Iterable, Sequence

from hivemind.core.messages import AttemptRef
from hivemind.core.records import RefusalKind, Requirements
from hivemind.core.sizes import show_size
from hivemind.worker.gpus import GpuDevice
from hivemind.worker.refusal import Refusal


class GpuSlots:
    """The GPUs that this machine offers, each free or held by one attempt."""

    def __init__(self, devices: Iterable[GpuDevice] = ()) -> None:
        self._devices = tuple(devices)
        self._held: dict[AttemptRef, tuple[GpuDevice, ...]] = {}

    @property
    def free(self) -> tuple[GpuDevice, ...]:
        """Those that no attempt holds."""
        taken = {device.gpu.index for held in self._held.values() for device in held}
        return tuple(device for device in self._devices if device.gpu.index not in taken)

    def take(self, ref: AttemptRef, needs: Requirements) -> tuple[GpuDevice, ...] | Refusal:
        """Hold as many GPUs as the attempt needs, or say why that cannot be.

        They are of the kind that it names, and have together the memory that it asks for; of those
        that do, the smallest are taken. An attempt that needs none holds none.
        """
        if ref in self._held:
            raise ValueError(f"attempt {ref.task_id}.{ref.attempt} holds GPUs already")
        if not needs.gpus:
            return ()
        chosen = _choose(self.free, needs)
        if chosen is not None:
            self._held[ref] = chosen
            return chosen
        if _choose(self._devices, needs) is not None:
            return Refusal(RefusalKind.BUSY, f"busy: {len(self.free)} GPUs are free here")
        wanted = f"{needs.gpus} GPUs" if needs.gpus > 1 else "a GPU"
        if needs.gpu_name:
            wanted += f" called {needs.gpu_name}"
        if needs.gpu_memory_bytes:
            wanted += f" with {show_size(needs.gpu_memory_bytes)} of memory"
        return Refusal(RefusalKind.POLICY, f"gpus: the task needs {wanted}, which is not here")

    def release(self, ref: AttemptRef) -> None:
        """Free what the attempt holds; one that holds none changes nothing."""
        self._held.pop(ref, None)


def _choose(devices: Sequence[GpuDevice], needs: Requirements) -> tuple[GpuDevice, ...] | None:
    fitting = sorted(
        (device for device in devices if needs.gpu_name.casefold() in device.name.casefold()),
        key=lambda device: (device.memory_bytes, device.gpu.index),
    )
    for start in range(len(fitting) - needs.gpus + 1):
        chosen = tuple(fitting[start : start + needs.gpus])
        if sum(device.memory_bytes for device in chosen) >= needs.gpu_memory_bytes:
            return chosen
    return None
