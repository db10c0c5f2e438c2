"""What the sandbox saw of a run, as the master is told it."""

import signal

import attrs

import sandbox
from hivemind.core import sizes
from hivemind.core.records import Ending, Outcome, Reason, TaskSpec, Usage
from hivemind.core.wording import one_line
from hivemind.worker.gpu_share import GpuShare

_KILLED = 128 + signal.SIGKILL

_OUTCOMES = {
    Reason.SIGNALLED: Outcome.FAILED,
    Reason.OUT_OF_MEMORY: Outcome.FAILED,
    Reason.OUTPUT_LIMIT: Outcome.FAILED,
    Reason.CPU_TIME_LIMIT: Outcome.FAILED,
    Reason.TIME_LIMIT: Outcome.TIMED_OUT,
    Reason.STOPPED: Outcome.STOPPED,
}


def ending_of(result: sandbox.Result, spec: TaskSpec) -> Ending:
    """How the attempt ended, its exit code as a shell would have it."""
    reason = Reason(result.reason.value)
    if reason is Reason.EXITED:
        outcome = Outcome.SUCCEEDED if result.exit_code == 0 else Outcome.FAILED
    else:
        outcome = _OUTCOMES[reason]
    return Ending(
        outcome=outcome,
        reason=reason,
        exit_code=result.exit_code,
        detail=_detail(reason, result, spec),
        usage=Usage(
            wall_s=result.usage.wall_s,
            cpu_s=result.usage.cpu_s,
            memory_peak_bytes=result.usage.memory_peak_bytes,
        ),
    )


def with_gpu(ending: Ending, gpu: GpuShare, *, stopped_for_it: bool) -> Ending:
    """The ending of an attempt with GPUs, which may have been stopped for using too much."""
    ending = attrs.evolve(
        ending, usage=attrs.evolve(ending.usage, gpu_memory_peak_bytes=gpu.peak_bytes)
    )
    if ending.reason is not Reason.STOPPED or not stopped_for_it:
        return ending
    return attrs.evolve(
        ending,
        outcome=Outcome.FAILED,
        reason=Reason.OUT_OF_MEMORY,
        exit_code=_KILLED,
        detail=gpu.why,
    )


def without_result(ending: Ending, why: str) -> Ending:
    """The ending of an attempt whose result is lost, which fails one that was a success."""
    detail = one_line(f"its result cannot be kept: {why}")
    if ending.outcome is Outcome.SUCCEEDED:
        return attrs.evolve(
            ending,
            outcome=Outcome.FAILED,
            reason=Reason.BAD_RESULT,
            detail=detail,
            result_bytes=0,
        )
    known = f"{ending.detail}; " if ending.detail else ""
    return attrs.evolve(ending, detail=one_line(known + detail), result_bytes=0)


def _detail(reason: Reason, result: sandbox.Result, spec: TaskSpec) -> str:
    match reason:
        case Reason.EXITED:
            return f"exit status {result.exit_code}" if result.exit_code else ""
        case Reason.SIGNALLED:
            return f"ended by {_signal_name(result.signal)}"
        case Reason.OUT_OF_MEMORY:
            needs = spec.requirements
            held = sizes.show_size(needs.memory_bytes + needs.scratch_bytes)
            return (
                f"memory limit of {held} ({sizes.show_size(needs.memory_bytes)}, and"
                f" {sizes.show_size(needs.scratch_bytes)} of scratch) reached;"
                " ask for more memory"
            )
        case Reason.TIME_LIMIT:
            limit = sizes.format_duration(spec.wall_s)
            return f"time limit of {limit} reached; ask for more time"
        case Reason.CPU_TIME_LIMIT:
            limit = sizes.format_duration(spec.cpu_s or 0)
            return f"CPU time limit of {limit} reached"
        case Reason.OUTPUT_LIMIT:
            return f"output limit of {sizes.show_size(spec.output_bytes)} reached"
        case _:
            return ""


def _signal_name(number: int | None) -> str:
    try:
        return f"{signal.Signals(number or 0).name} (signal {number})"
    except ValueError:
        return f"signal {number}"
