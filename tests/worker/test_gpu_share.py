from hivemind.worker.gpu_share import GpuShare
from hivemind.worker.gpus import Gpus
from tests.worker.fake_nvml import GIB, FakeGpu, fake_nvml


def share_of(*fakes: FakeGpu, limit_bytes: int = 0) -> GpuShare:
    gpus = Gpus(fake_nvml(*fakes), range(len(fakes)))
    return GpuShare(gpus=gpus, devices=gpus.devices, limit_bytes=limit_bytes)


def test_what_was_in_use_before_is_not_the_attempts() -> None:
    one, other = FakeGpu(used_bytes=GIB), FakeGpu()
    share = share_of(one, other)
    share.look()
    assert share.peak_bytes == 0
    one.used_bytes, other.used_bytes = 3 * GIB, GIB
    share.look()
    one.used_bytes = other.used_bytes = 0
    share.look()
    assert share.peak_bytes == 3 * GIB
    assert not share.is_over


def test_more_than_was_asked_for_is_over_and_says_how_much() -> None:
    fake = FakeGpu()
    share = share_of(fake, limit_bytes=GIB)
    fake.used_bytes = GIB
    share.look()
    assert not share.is_over
    fake.used_bytes = GIB + 1
    share.look()
    fake.used_bytes = 0
    share.look()
    assert share.is_over
    assert "1G" in share.why


def test_a_driver_that_does_not_tell_charges_nothing() -> None:
    fake = FakeGpu(used_bytes=5 * GIB)
    gpus = Gpus(fake_nvml(fake), [0])
    fake.fails = {"nvmlDeviceGetMemoryInfo"}
    share = GpuShare(gpus=gpus, devices=gpus.devices, limit_bytes=GIB)
    share.look()
    fake.fails = set()
    share.look()
    assert (share.peak_bytes, share.is_over) == (0, False)
    fake.used_bytes = 7 * GIB
    share.look()
    assert (share.peak_bytes, share.is_over) == (2 * GIB, True)
