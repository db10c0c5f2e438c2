import attrs
import pytest

import sandbox
from hivemind.core.records import Outcome, PayloadKind, Reason, Requirements, Usage
from hivemind.worker.ending import ending_of, with_gpu
from hivemind.worker.gpu_share import GpuShare
from hivemind.worker.gpus import Gpus
from tests.worker.fake_nvml import FakeGpu, fake_nvml
from tests.worker.running import MIB, spec

TASK = attrs.evolve(
    spec(PayloadKind.COMMAND, argv=("true",)),
    requirements=Requirements(memory_bytes=256 * MIB),
    wall_s=90.0,
    cpu_s=5.0,
    output_bytes=MIB,
)


def result(reason: sandbox.Reason, exit_code: int, number: int | None = None) -> sandbox.Result:
    usage = sandbox.Usage(wall_s=1.5, cpu_s=0.5, memory_peak_bytes=77)
    return sandbox.Result(reason=reason, exit_code=exit_code, signal=number, usage=usage)


@pytest.mark.parametrize(
    ("seen", "outcome", "reason", "detail"),
    [
        (result(sandbox.Reason.EXITED, 0), Outcome.SUCCEEDED, Reason.EXITED, ""),
        (result(sandbox.Reason.EXITED, 3), Outcome.FAILED, Reason.EXITED, "exit status 3"),
        (
            result(sandbox.Reason.SIGNALLED, 139, 11),
            Outcome.FAILED,
            Reason.SIGNALLED,
            "ended by SIGSEGV (signal 11)",
        ),
        (
            result(sandbox.Reason.SIGNALLED, 165, 37),
            Outcome.FAILED,
            Reason.SIGNALLED,
            "ended by signal 37",
        ),
        (
            result(sandbox.Reason.OUT_OF_MEMORY, 137),
            Outcome.FAILED,
            Reason.OUT_OF_MEMORY,
            "memory limit of 768M (256M, and 512M of scratch) reached; ask for more memory",
        ),
        (
            result(sandbox.Reason.TIME_LIMIT, 124),
            Outcome.TIMED_OUT,
            Reason.TIME_LIMIT,
            "time limit of 90s reached; ask for more time",
        ),
        (
            result(sandbox.Reason.CPU_TIME_LIMIT, 124),
            Outcome.FAILED,
            Reason.CPU_TIME_LIMIT,
            "CPU time limit of 5s reached",
        ),
        (
            result(sandbox.Reason.OUTPUT_LIMIT, 137),
            Outcome.FAILED,
            Reason.OUTPUT_LIMIT,
            "output limit of 1M reached",
        ),
        (result(sandbox.Reason.STOPPED, 143), Outcome.STOPPED, Reason.STOPPED, ""),
    ],
)
def test_each_way_to_end_is_told_as_it_was(
    seen: sandbox.Result, outcome: Outcome, reason: Reason, detail: str
) -> None:
    ending = ending_of(seen, TASK)
    assert (ending.outcome, ending.reason, ending.detail) == (outcome, reason, detail)
    assert ending.exit_code == seen.exit_code
    assert ending.usage == Usage(wall_s=1.5, cpu_s=0.5, memory_peak_bytes=77)


def test_every_reason_of_the_sandbox_is_one_that_the_master_knows() -> None:
    for reason in sandbox.Reason:
        assert ending_of(result(reason, 1), TASK).reason == Reason(reason.value)


def over_gpu_memory() -> GpuShare:
    fake = FakeGpu()
    gpus = Gpus(fake_nvml(fake), [0])
    share = GpuShare(gpus=gpus, devices=gpus.devices, limit_bytes=MIB)
    fake.used_bytes = 2 * MIB
    share.look()
    return share


def test_an_attempt_stopped_for_its_gpu_memory_was_out_of_memory() -> None:
    stopped = ending_of(result(sandbox.Reason.STOPPED, 143), TASK)
    ending = with_gpu(stopped, over_gpu_memory(), stopped_for_it=True)
    assert (ending.outcome, ending.reason, ending.exit_code) == (
        Outcome.FAILED,
        Reason.OUT_OF_MEMORY,
        137,
    )
    assert "GPU memory limit of 1M" in ending.detail
    assert ending.usage == attrs.evolve(stopped.usage, gpu_memory_peak_bytes=2 * MIB)


@pytest.mark.parametrize(
    ("seen", "stopped_for_it"),
    [
        (result(sandbox.Reason.STOPPED, 143), False),
        (result(sandbox.Reason.EXITED, 0), True),
        (result(sandbox.Reason.TIME_LIMIT, 124), True),
    ],
)
def test_an_attempt_that_ended_otherwise_keeps_its_ending(
    seen: sandbox.Result, stopped_for_it: bool
) -> None:
    plain = ending_of(seen, TASK)
    ending = with_gpu(plain, over_gpu_memory(), stopped_for_it=stopped_for_it)
    assert ending.usage.gpu_memory_peak_bytes == 2 * MIB
    assert attrs.evolve(ending, usage=plain.usage) == plain
