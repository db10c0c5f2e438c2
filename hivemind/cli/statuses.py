"""The exit status of ``run``: a table from how the task ended to what the shell is told."""

import attrs

from hivemind.core.records import Reason, Task, TaskState
from hivemind.core.sizes import format_duration, show_size

TIME_LIMIT = 124
COULD_NOT_RUN = 125
OUT_OF_MEMORY = 137
OUTPUT_LIMIT = 137
STOPPED = 143
SIGNAL_BASE = 128


@attrs.frozen
class Verdict:
    """An exit status, and the line on standard error that explains it, where one is needed."""

    status: int
    line: str = ""


def verdict_on(task: Task) -> Verdict:
    """What ``run`` tells of an ended task that nobody interrupted here."""
    match task.reason:
        case Reason.TIME_LIMIT:
            limit = format_duration(task.wall_s)
            return Verdict(TIME_LIMIT, f"time limit of {limit} reached; give it more with --time")
        case Reason.CPU_TIME_LIMIT:
            return Verdict(TIME_LIMIT, "CPU time limit reached")
        case Reason.OUT_OF_MEMORY:
            needs = task.requirements
            limit = show_size(needs.memory_bytes + needs.scratch_bytes)
            return Verdict(
                OUT_OF_MEMORY,
                f"out of memory at {limit} ({show_size(needs.memory_bytes)}, and"
                f" {show_size(needs.scratch_bytes)} of scratch); give it more with --memory",
            )
        case Reason.OUTPUT_LIMIT:
            return Verdict(
                OUTPUT_LIMIT,
                "output limit reached; write large output to files in $HIVEMIND_OUTPUT",
            )
        case Reason.STOPPED:
            by = f" by {task.stopped_by}" if task.stopped_by else ""
            return Verdict(STOPPED, f"task {task.id} was stopped{by}")
        case Reason.EXITED | Reason.SIGNALLED if task.exit_code is not None:
            return Verdict(_own_status(task.exit_code))
    if task.state is TaskState.SUCCEEDED:
        return Verdict(0)
    if task.state is TaskState.STOPPED:
        return Verdict(STOPPED, f"task {task.id} was stopped{_detail(task)}")
    if task.state is TaskState.TIMED_OUT:
        return Verdict(TIME_LIMIT, f"time limit reached{_detail(task)}")
    return Verdict(COULD_NOT_RUN, f"task {task.id} could not be run{_detail(task)}")


def _own_status(exit_code: int) -> int:
    """A negative code is a signal's number, as Python's subprocess has it."""
    return SIGNAL_BASE - exit_code if exit_code < 0 else exit_code


def _detail(task: Task) -> str:
    return f": {task.detail}" if task.detail else ""
