from pathlib import Path

import psutil

from hivemind.worker.gpus import Gpus
from hivemind.worker.vitals import VitalSigns


def test_vitals_are_this_machines(tmp_path: Path) -> None:
    vitals = VitalSigns(tmp_path, Gpus(None, [])).measure(3)
    assert vitals.running == 3
    assert vitals.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < vitals.memory_used_bytes < vitals.memory_total_bytes
    assert 0 <= vitals.cpu_percent <= 100
    assert vitals.disk_free_bytes > 0
    assert (vitals.gpu_percent, vitals.gpu_memory_used_bytes) == (0.0, 0)


def test_a_disk_that_cannot_be_asked_has_nothing_free(tmp_path: Path) -> None:
    signs = VitalSigns(tmp_path / "gone", Gpus(None, []))
    assert signs.measure(0).disk_free_bytes == 0
