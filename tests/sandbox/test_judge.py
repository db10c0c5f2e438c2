"""How evidence becomes a result."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Reason, Usage
from sandbox.judge import Evidence, judge, judge_unstarted

_NOTHING: dict[str, Any] = {
    "exit_code": None,
    "killed_for": None,
    "out_of_memory": False,
    "over_output": False,
    "cpu_limit_s": None,
    "usage": Usage(wall_s=1.0, cpu_s=2.0, memory_peak_bytes=3),
}


@pytest.mark.parametrize(
    ("seen", "reason", "code", "number"),
    [
        ({"exit_code": 0}, Reason.EXITED, 0, None),
        ({"exit_code": 200}, Reason.EXITED, 200, None),
        ({"exit_code": 130}, Reason.SIGNALLED, 130, 2),
        ({"exit_code": 128 + 17}, Reason.EXITED, 145, None),
        ({"killed_for": Reason.TIME_LIMIT}, Reason.TIME_LIMIT, 124, None),
        ({"killed_for": Reason.STOPPED}, Reason.STOPPED, 143, None),
        ({"exit_code": 0, "killed_for": Reason.TIME_LIMIT}, Reason.EXITED, 0, None),
        ({"exit_code": 0, "killed_for": Reason.STOPPED}, Reason.EXITED, 0, None),
        ({"exit_code": 137, "out_of_memory": True}, Reason.OUT_OF_MEMORY, 137, None),
        ({"out_of_memory": True, "killed_for": Reason.STOPPED}, Reason.OUT_OF_MEMORY, 137, None),
        ({"exit_code": 0, "over_output": True}, Reason.OUTPUT_LIMIT, 137, None),
        ({"exit_code": 152, "cpu_limit_s": 2.0}, Reason.CPU_TIME_LIMIT, 124, None),
        ({"exit_code": 152, "cpu_limit_s": 2.1}, Reason.SIGNALLED, 152, 24),
        ({"exit_code": 152}, Reason.SIGNALLED, 152, 24),
    ],
)
def test_the_reason_follows_from_what_was_seen(
    seen: dict[str, Any], reason: Reason, code: int, number: int | None
) -> None:
    result = judge(Evidence(**{**_NOTHING, **seen}))
    assert result is not None
    assert (result.reason, result.exit_code, result.signal) == (reason, code, number)


def test_a_program_that_never_ran_has_no_result() -> None:
    assert judge(Evidence(**_NOTHING)) is None


@pytest.mark.parametrize("forged", [256, -5, -(2**31), 2**31 - 1])
def test_an_exit_code_that_no_program_has_cannot_read_as_a_success(forged: int) -> None:
    result = judge(Evidence(**{**_NOTHING, "exit_code": forged}))
    assert result is not None
    assert (result.reason, result.exit_code) == (Reason.EXITED, 255)


def _unstarted(text: str) -> int | None:
    usage = Usage(wall_s=0.1, cpu_s=0.0, memory_peak_bytes=0)
    result = judge_unstarted(text, usage)
    return None if result is None else result.exit_code


def test_a_command_that_cannot_be_executed_is_told_as_a_shell_does() -> None:
    assert _unstarted("bwrap: execvp x: No such file or directory") == 127
    assert _unstarted("bwrap: execvp /etc/passwd/x: Not a directory") == 127
    assert _unstarted("bwrap: execvp /etc/passwd: Permission denied") == 126
    assert _unstarted("bwrap: execvp x: Exec format error") == 126
    assert _unstarted("bwrap: execvp xxxxxxxx (cut") == 126


def test_any_other_failure_before_the_program_is_no_result() -> None:
    for text in ("", "bwrap: Can't mount proc: Permission denied", "No such file or directory"):
        assert _unstarted(text) is None
