"""How this machine is doing, for the heartbeat."""

import os
from pathlib import Path

import psutil

from hivemind.core.records import Vitals
from hivemind.worker.gpus import Gpus


class VitalSigns:
    """Measures the machine; each measurement covers the time since the one before."""

    def __init__(self, home: Path, gpus: Gpus) -> None:
        self._home = home
        self._gpus = gpus
        # The first call has nothing to compare with and always answers 0.
        psutil.cpu_percent(interval=None)

    def measure(self, running: int) -> Vitals:
        """The machine now, with so many attempts under way. Takes well under a millisecond."""
        memory = psutil.virtual_memory()
        load_1m, _, _ = os.getloadavg()
        gpu = self._gpus.load()
        return Vitals(
            cpu_percent=psutil.cpu_percent(interval=None),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            load_1m=load_1m,
            disk_free_bytes=_disk_free_bytes(self._home),
            running=running,
            gpu_percent=gpu.percent,
            gpu_memory_used_bytes=gpu.memory_used_bytes,
        )


def _disk_free_bytes(path: Path) -> int:
    try:
        return psutil.disk_usage(str(path)).free
    except OSError:
        return 0
