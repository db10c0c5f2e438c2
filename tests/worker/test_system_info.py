import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind.core.records import Capacity
from hivemind.worker.system_info import SystemSampler

CAPACITY = Capacity(slots=2, cpu_millis=1500, memory_bytes=1 << 30, gpus=1)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


COUNTED = psutil.net_io_counters()


def counters(sent: int, received: int) -> Any:
    counts = COUNTED._replace(bytes_sent=sent, bytes_recv=received)
    loud = COUNTED._replace(bytes_sent=10**12 * received, bytes_recv=10**12)
    return {"eth0": counts, "lo": loud}


def test_the_network_is_measured_in_megabits_without_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: counters(1000, 1000))
    sampler = SystemSampler(tmp_path, clock=clock)
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: counters(1_001_000, 1_501_000))
    clock.now += 2
    assert sampler.measure(CAPACITY).network_mbps == pytest.approx(10.0)
    # Too soon for another measurement: the last one is told again.
    clock.now += 0.5
    assert sampler.measure(CAPACITY).network_mbps == pytest.approx(10.0)
    clock.now += 2
    assert sampler.measure(CAPACITY).network_mbps == 0.0


def test_an_interface_that_goes_away_is_no_negative_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: counters(10**9, 0))
    sampler = SystemSampler(tmp_path, clock=clock)
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: {})
    clock.now += 2
    assert sampler.measure(CAPACITY).network_mbps == 0.0


def test_what_is_told_is_this_machine(tmp_path: Path) -> None:
    seen = SystemSampler(tmp_path).measure(CAPACITY)
    assert seen.hostname == os.uname().nodename
    assert (seen.cpu_millis, seen.memory_bytes, seen.gpus) == (1500, 1 << 30, 1)
    assert 0 <= seen.cpu_percent <= 100
    assert 0 < seen.memory_percent <= 100
    assert 0 < seen.disk_percent <= 100
    gone = SystemSampler(tmp_path / "gone").measure(CAPACITY)
    assert gone.disk_percent == 0.0
