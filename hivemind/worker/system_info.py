"""What this machine is and how busy, for whoever asks the worker itself."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import psutil

from hivemind import version
from hivemind.core.direct import SystemInfo
from hivemind.core.records import Capacity

_LEAST_S = 1.0
"""Rates over less time than this say little: whoever asks sooner gets the last ones again."""
_LOOPBACK = "lo"


@attrs.frozen
class _Sample:
    at: float
    busy_s: float
    all_s: float
    network_bytes: int


class SystemSampler:
    """Measures rates between one question and the next; the first since it was made."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``folder`` is on the disk whose use is told."""
        self._folder = folder
        self._clock = clock
        self._hostname = socket.gethostname()
        self._last = self._sample()
        self._cpu_percent = 0.0
        self._network_mbps = 0.0
        self._has_rates = False

    def measure(self, capacity: Capacity) -> SystemInfo:
        """The machine now. Takes about a millisecond."""
        self._measure_rates()
        return SystemInfo(
            hostname=self._hostname,
            version=version(),
            cpu_millis=capacity.cpu_millis,
            memory_bytes=capacity.memory_bytes,
            gpus=capacity.gpus,
            cpu_percent=self._cpu_percent,
            memory_percent=psutil.virtual_memory().percent,
            disk_percent=_disk_percent(self._folder),
            network_mbps=self._network_mbps,
        )

    def _measure_rates(self) -> None:
        now = self._sample()
        passed_s = now.at - self._last.at
        if passed_s < _LEAST_S and (self._has_rates or passed_s <= 0):
            return
        all_s = now.all_s - self._last.all_s
        busy_s = now.busy_s - self._last.busy_s
        moved_bytes = now.network_bytes - self._last.network_bytes
        self._cpu_percent = min(100.0, max(0.0, 100 * busy_s / all_s)) if all_s > 0 else 0.0
        # An interface that is taken away takes its count along.
        self._network_mbps = max(0.0, 8 * moved_bytes / passed_s / 1e6)
        self._last, self._has_rates = now, True

    def _sample(self) -> _Sample:
        times = psutil.cpu_times()
        all_s = sum(times[:8])  # what guests use is in user and nice already
        interfaces = psutil.net_io_counters(pernic=True)
        return _Sample(
            at=self._clock(),
            busy_s=all_s - times.idle - getattr(times, "iowait", 0.0),
            all_s=all_s,
            network_bytes=sum(
                counts.bytes_sent + counts.bytes_recv
                for name, counts in interfaces.items()
                if name != _LOOPBACK
            ),
        )


def _disk_percent(folder: Path) -> float:
    try:
        return psutil.disk_usage(str(folder)).percent
    except OSError:
        return 0.0
