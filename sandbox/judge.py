"""How a run ended: what was seen of it, turned into a reason and an exit code."""

from __future__ import annotations

import signal

import attrs

from sandbox.result import Reason, Result, Usage

_EXIT_CODES = {
    Reason.TIME_LIMIT: 124,
    Reason.CPU_TIME_LIMIT: 124,
    Reason.OUT_OF_MEMORY: 137,
    Reason.OUTPUT_LIMIT: 137,
    Reason.STOPPED: 143,
}
_NOT_EXECUTED = "bwrap: execvp "
_MISSING = (": No such file or directory", ": Not a directory")
# Signals that end no process by default: a shell's 128+n cannot mean one of these.
_HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}


@attrs.frozen(kw_only=True)
class Evidence:
    """What was seen of a run that is over.

    Attributes:
        exit_code: what bubblewrap reported of the program; None if it ended before the program.
        killed_for: why we killed it, if we did.
        out_of_memory: whether the kernel killed something for lack of memory.
        over_output: whether more was written than allowed.
        cpu_limit_s: the limit of processor time.
    """

    exit_code: int | None
    killed_for: Reason | None
    out_of_memory: bool
    over_output: bool
    cpu_limit_s: float | None
    usage: Usage


def judge(seen: Evidence) -> Result | None:
    """The result, or None where the program never ran and nobody killed it: a failed set-up.

    What the kernel and the pipes say comes first. An exit code that was reported before our kill
    took hold is the task's own end; a kill leaves none.
    """
    if seen.out_of_memory:
        return _limit(Reason.OUT_OF_MEMORY, seen.usage)
    if seen.over_output:
        return _limit(Reason.OUTPUT_LIMIT, seen.usage)
    if seen.exit_code is None:
        return None if seen.killed_for is None else _limit(seen.killed_for, seen.usage)
    if (
        seen.exit_code == 128 + signal.SIGXCPU
        and seen.cpu_limit_s is not None
        and seen.usage.cpu_s >= seen.cpu_limit_s
    ):
        return _limit(Reason.CPU_TIME_LIMIT, seen.usage)
    exit_code = _plausible(seen.exit_code)
    number = _signal_of(exit_code)
    return Result(
        reason=Reason.EXITED if number is None else Reason.SIGNALLED,
        exit_code=exit_code,
        signal=number,
        usage=seen.usage,
    )


def judge_unstarted(error_text: str, usage: Usage) -> Result | None:
    """The result of a command that bubblewrap could not execute, or None for another failure.

    The sandbox is whole by then, and what cannot be executed is the task's own fault; a shell says
    127 where there is no such file and 126 where it cannot be executed.

    Args:
        error_text: what stderr began with, where bubblewrap reported no exit code.
        usage: what the run used.
    """
    if not error_text.startswith(_NOT_EXECUTED):
        return None
    missing = error_text.endswith(_MISSING)
    return Result(reason=Reason.EXITED, exit_code=127 if missing else 126, signal=None, usage=usage)


def _limit(reason: Reason, usage: Usage) -> Result:
    return Result(reason=reason, exit_code=_EXIT_CODES[reason], signal=None, usage=usage)


def _plausible(exit_code: int) -> int:
    """What bubblewrap reports is a word of its init's, and a task may write that one's memory: a
    number that no program can exit with is a forgery, and must not wrap round to a success.
    """
    return exit_code if exit_code in range(256) else 255


def _signal_of(exit_code: int) -> int | None:
    number = exit_code - 128
    return number if 0 < number <= 64 and number not in _HARMLESS else None
