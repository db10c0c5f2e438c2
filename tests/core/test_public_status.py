import attrs
import pytest

from hivemind.core.public_status import PublicStatus, describe, public_status
from hivemind.core.records import Reason, Requirements, Task, TaskState

TASK = Task(id="t", account="ann", state=TaskState.QUEUED)


def test_every_state_is_one_of_the_five() -> None:
    assert {public_status(state) for state in TaskState} == set(PublicStatus)
    assert public_status(TaskState.TIMED_OUT) is PublicStatus.FAILED
    assert public_status(TaskState.ASSIGNED) is PublicStatus.PENDING


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "it waits for a node"),
        (
            {"attempt": 1, "detail": "node lost"},
            "attempt 1 is over (node lost); it waits for another",
        ),
        (
            {"requirements": Requirements(only_account="ann")},
            "it waits for a node of ann, where it costs nothing",
        ),
        (
            {
                "requirements": Requirements(only_account="ann"),
                "attempt": 1,
                "detail": "node lost",
            },
            "attempt 1 is over (node lost); it waits for another, on a node of ann, where it costs"
            " nothing",
        ),
        ({"state": TaskState.ASSIGNED, "attempt": 2}, "a node is about to run it, attempt 2"),
        ({"state": TaskState.RUNNING, "attempt": 1}, "it runs, attempt 1"),
        (
            {
                "state": TaskState.RUNNING,
                "attempt": 1,
                "stop_requested": True,
                "stopped_by": "root",
            },
            "it runs, attempt 1; root asked for its stop",
        ),
        ({"state": TaskState.SUCCEEDED}, "it succeeded"),
        (
            {"state": TaskState.SUCCEEDED, "detail": "a link was left out"},
            "it succeeded; a link was left out",
        ),
        ({"state": TaskState.STOPPED}, "it was stopped"),
        (
            {"state": TaskState.FAILED, "reason": Reason.EXITED, "exit_code": 3},
            "it exited with status 3",
        ),
        (
            {"state": TaskState.FAILED, "reason": Reason.EXITED, "detail": "exit status 3"},
            "exit status 3",
        ),
        ({"state": TaskState.FAILED, "reason": Reason.BAD_PAYLOAD}, "bad payload"),
        ({"state": TaskState.FAILED}, "it failed"),
        ({"state": TaskState.TIMED_OUT, "reason": Reason.TIME_LIMIT}, "its time limit passed"),
    ],
)
def test_a_task_is_described_in_a_line(changes: dict[str, object], words: str) -> None:
    assert describe(attrs.evolve(TASK, **changes)) == words


def test_what_a_node_said_stays_one_line() -> None:
    task = attrs.evolve(TASK, state=TaskState.FAILED, detail="two\nlines\x1b[31m")
    assert "\n" not in describe(task)
    assert "\x1b" not in describe(task)
