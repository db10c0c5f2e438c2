"""A task's state in the words of the public API, which has five."""

import enum

from hivemind.core.records import Reason, Task, TaskState
from hivemind.core.wording import one_line


class PublicStatus(enum.StrEnum):
    """What a client of the public API is told of a task."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


_OF_STATE = {
    TaskState.SUBMITTED: PublicStatus.PENDING,
    TaskState.QUEUED: PublicStatus.PENDING,
    TaskState.ASSIGNED: PublicStatus.PENDING,
    TaskState.RUNNING: PublicStatus.RUNNING,
    TaskState.SUCCEEDED: PublicStatus.COMPLETED,
    TaskState.FAILED: PublicStatus.FAILED,
    TaskState.TIMED_OUT: PublicStatus.FAILED,
    TaskState.STOPPED: PublicStatus.STOPPED,
}


def public_status(state: TaskState) -> PublicStatus:
    """The one of the five; one that ran out of time has failed."""
    return _OF_STATE[state]


def describe(task: Task) -> str:
    """Where the task is and why, in one line for people."""
    match task.state:
        case TaskState.SUBMITTED | TaskState.QUEUED:
            owner = task.requirements.only_account
            whose = f" of {owner}, where it costs nothing" if owner else ""
            words = f"it waits for a node{whose}"
            if task.attempt:
                last = f"attempt {task.attempt} is over ({task.detail})"
                words = f"{last}; it waits for another" + (f", on a node{whose}" if whose else "")
        case TaskState.ASSIGNED:
            words = f"a node is about to run it, attempt {task.attempt}"
        case TaskState.RUNNING:
            words = f"it runs, attempt {task.attempt}"
        case TaskState.SUCCEEDED:
            words = f"it succeeded; {task.detail}" if task.detail else "it succeeded"
        case TaskState.STOPPED:
            words = task.detail or "it was stopped"
        case _:
            words = task.detail or _why(task)
    if task.stop_requested and not task.state.is_end:
        words += f"; {task.stopped_by} asked for its stop"
    return one_line(words)


def _why(task: Task) -> str:
    """For a node that did not say."""
    match task.reason:
        case Reason.EXITED:
            words = f"it exited with status {task.exit_code}"
        case Reason.SIGNALLED:
            words = f"a signal ended it, status {task.exit_code}"
        case Reason.OUT_OF_MEMORY:
            words = "it needed more memory than it asked for"
        case Reason.TIME_LIMIT | Reason.CPU_TIME_LIMIT:
            words = "its time limit passed"
        case Reason.OUTPUT_LIMIT:
            words = "it wrote more output than it may"
        case None:
            words = "it failed"
        case _:
            words = task.reason.value.replace("_", " ")
    return words
