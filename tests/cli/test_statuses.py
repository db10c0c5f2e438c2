"""The contract's table of exit statuses, row by row."""

import pytest

from hivemind.cli.statuses import verdict_on
from hivemind.core.records import Reason, Requirements, Task, TaskState


def _ended(state: TaskState, reason: Reason | None, exit_code: int | None = None) -> Task:
    return Task(
        id="t1",
        account="ann",
        state=state,
        reason=reason,
        exit_code=exit_code,
        wall_s=90.0,
        requirements=Requirements(memory_bytes=64 << 20),
        stopped_by="bob" if reason is Reason.STOPPED else "",
        detail="its node said so",
    )


@pytest.mark.parametrize(
    ("task", "status"),
    [
        (_ended(TaskState.SUCCEEDED, Reason.EXITED, 0), 0),
        (_ended(TaskState.SUCCEEDED, None), 0),
        (_ended(TaskState.FAILED, Reason.EXITED, 3), 3),
        (_ended(TaskState.FAILED, Reason.EXITED, 127), 127),
        (_ended(TaskState.FAILED, Reason.EXITED, 126), 126),
        (_ended(TaskState.FAILED, Reason.SIGNALLED, 139), 139),
        (_ended(TaskState.FAILED, Reason.SIGNALLED, -11), 139),
    ],
)
def test_an_end_of_its_own_is_passed_on_without_a_word(task: Task, status: int) -> None:
    verdict = verdict_on(task)
    assert (verdict.status, verdict.line) == (status, "")


@pytest.mark.parametrize(
    ("task", "status", "words"),
    [
        (_ended(TaskState.TIMED_OUT, Reason.TIME_LIMIT, 124), 124, "time limit of 90s"),
        (_ended(TaskState.FAILED, Reason.CPU_TIME_LIMIT, 137), 124, "CPU time limit"),
        (
            _ended(TaskState.FAILED, Reason.OUT_OF_MEMORY, 137),
            137,
            "out of memory at 576M (64M, and 512M of scratch)",
        ),
        (_ended(TaskState.FAILED, Reason.OUTPUT_LIMIT, 137), 137, "output limit"),
        (_ended(TaskState.STOPPED, Reason.STOPPED, 143), 143, "stopped by bob"),
        (_ended(TaskState.STOPPED, None), 143, "stopped"),
        (_ended(TaskState.FAILED, Reason.NODE_LOST), 125, "its node said so"),
        (_ended(TaskState.FAILED, Reason.REFUSED), 125, "its node said so"),
        (_ended(TaskState.FAILED, Reason.BAD_PAYLOAD), 125, "its node said so"),
        (_ended(TaskState.FAILED, Reason.BAD_RESULT), 125, "its node said so"),
        (_ended(TaskState.FAILED, Reason.SANDBOX_FAILED), 125, "its node said so"),
    ],
)
def test_an_end_that_was_forced_on_it_is_named_in_one_line(
    task: Task, status: int, words: str
) -> None:
    verdict = verdict_on(task)
    assert verdict.status == status
    assert words in verdict.line
    assert "\n" not in verdict.line


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("state", [state for state in TaskState if state.is_end])
def test_every_end_has_a_status(state: TaskState, reason: Reason) -> None:
    assert 0 <= verdict_on(_ended(state, reason, 1)).status <= 255
