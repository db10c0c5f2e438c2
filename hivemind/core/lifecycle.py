"""What happens to a task, and when: one table from (state, event) to a rule.

``step`` is the only way in; the rules themselves are in ``transitions``. It changes nothing; it
returns the task and its newest attempt as they are afterwards, and what must be done about it once
that is on disk. Every pair of state and event is in ``TABLE`` or in ``ILLEGAL``.

A stop is a flag, never a state: whatever would put a flagged task back into the queue makes it
stopped instead. An end is for ever.
"""

import math
from collections.abc import Callable, Mapping

from hivemind.core import transitions
from hivemind.core.errors import CoreError
from hivemind.core.events import (
    Admit,
    Assign,
    Event,
    Finished,
    NodeLost,
    Refused,
    Started,
    Stop,
    TimedOut,
)
from hivemind.core.policy import PoolRules
from hivemind.core.records import Attempt, Ending, Outcome, Task, TaskState
from hivemind.core.transitions import Step, kill
from hivemind.core.wording import one_line

__all__ = [
    "ILLEGAL",
    "TABLE",
    "BadReport",
    "FromTheFuture",
    "IllegalTransition",
    "LifecycleError",
    "Step",
    "step",
    "story",
]


class LifecycleError(CoreError):
    """An event that cannot have happened to this task; nothing was changed."""


class IllegalTransition(LifecycleError):
    """The event makes no sense in the task's state."""


class FromTheFuture(LifecycleError):
    """A report on an attempt that was never made."""


class BadReport(LifecycleError):
    """A report that contradicts itself, or comes from a node that does not hold the attempt."""


def step(task: Task, attempt: Attempt | None, event: Event, now: float, rules: PoolRules) -> Step:
    """The task after ``event``.

    Reports are idempotent by (attempt, seq): a repeat changes nothing and has no effects. What a
    node still says about an attempt that is over is answered with ``KillAttempt``.

    Args:
        task: as it is now.
        attempt: its newest attempt; None exactly when it has had none.
        event: what happened.
        now: seconds since the epoch, for the records' ``*_at``.
        rules: the pool's.

    Raises:
        IllegalTransition: the pair is in ``ILLEGAL``.
        FromTheFuture: the event names an attempt later than the newest; never at an end.
        BadReport: a report that cannot be true; never at an end.
        ValueError: ``attempt`` is not the task's newest.
    """
    number = 0 if attempt is None else attempt.number
    if number != task.attempt or (attempt is not None and attempt.task_id != task.id):
        raise ValueError(f"{story(task)}: attempt {number} is not its newest")
    if not task.state.is_end:
        settled = _screen(task, attempt, event)
        if settled is not None:
            return settled
    rule = TABLE.get((task.state, type(event)))
    if rule is None:
        raise IllegalTransition(f"{story(task)}: {type(event).__name__} cannot happen now")
    return rule(task, attempt, event, now, rules)


def story(task: Task) -> str:
    """Where a task is and how it came there, in one line."""
    parts = [task.state.value]
    if task.attempt:
        parts.append(f"attempt {task.attempt}" + (f" on {task.node_id}" if task.node_id else ""))
    if task.failures:
        parts.append(f"{task.failures} failed of {task.retries + 1}")
    if task.crashes:
        parts.append(f"{task.crashes} lost")
    if task.stop_requested:
        parts.append(f"stop asked by {task.stopped_by}")
    if task.reason is not None:
        parts.append(task.reason.value)
    return one_line(f"task {task.id} of {task.account} ({', '.join(parts)})")


def _screen(task: Task, attempt: Attempt | None, event: Event) -> Step | None:
    """What an event about some attempt comes to before the table is asked; None: ask the table."""
    if isinstance(event, Admit | Assign | Stop):
        return None
    if event.attempt > task.attempt:
        raise FromTheFuture(f"{story(task)}: attempt {event.attempt} was never made")
    if isinstance(event, TimedOut | NodeLost):
        return Step(task, attempt) if event.attempt < task.attempt else None
    if event.attempt < 1 or event.seq < 1:
        raise BadReport(f"{story(task)}: attempts and their reports are numbered from 1")
    if attempt is None or event.attempt < attempt.number:
        return Step(task, attempt, (kill(task, event),))
    if event.node_id and event.node_id != attempt.node_id:
        raise BadReport(
            f"{story(task)}: node {event.node_id} reports on attempt {attempt.number}, "
            f"which was given to node {attempt.node_id}"
        )
    if event.seq <= attempt.report_seq:
        return Step(task, attempt)
    if isinstance(event, Finished):
        _check_ending(task, event.ending)
    return None


def _check_ending(task: Task, ending: Ending) -> None:
    usage = ending.usage
    amounts = (
        usage.wall_s,
        usage.cpu_s,
        usage.memory_peak_bytes,
        usage.gpu_memory_peak_bytes,
        ending.result_bytes,
    )
    if not all(math.isfinite(amount) and amount >= 0 for amount in amounts):
        raise BadReport(f"{story(task)}: its node reports an impossible usage")
    if ending.outcome in {Outcome.LOST, Outcome.REFUSED}:
        raise BadReport(f"{story(task)}: a final report cannot say {ending.outcome.value}")
    if ending.outcome is Outcome.SUCCEEDED and ending.exit_code not in {0, None}:
        raise BadReport(f"{story(task)}: success with exit status {ending.exit_code}")


Rule = Callable[..., Step]
Pair = tuple[TaskState, type[Event]]

_S = TaskState

_LIVE: dict[Pair, Rule] = {
    (_S.SUBMITTED, Admit): transitions.admit,
    (_S.SUBMITTED, Stop): transitions.stop_waiting,
    (_S.QUEUED, Assign): transitions.assign,
    (_S.QUEUED, Stop): transitions.stop_waiting,
    (_S.QUEUED, Started): transitions.over_already,
    (_S.QUEUED, Refused): transitions.over_already,
    (_S.QUEUED, Finished): transitions.over_already,
    (_S.QUEUED, TimedOut): transitions.nothing,
    (_S.QUEUED, NodeLost): transitions.nothing,
    (_S.ASSIGNED, Started): transitions.started,
    (_S.ASSIGNED, Refused): transitions.refused,
    (_S.ASSIGNED, Finished): transitions.finished,
    (_S.ASSIGNED, TimedOut): transitions.timed_out,
    (_S.ASSIGNED, NodeLost): transitions.node_lost,
    (_S.ASSIGNED, Stop): transitions.stop_under_way,
    (_S.RUNNING, Started): transitions.started_again,
    (_S.RUNNING, Finished): transitions.finished,
    (_S.RUNNING, TimedOut): transitions.timed_out,
    (_S.RUNNING, NodeLost): transitions.node_lost,
    (_S.RUNNING, Stop): transitions.stop_under_way,
}
_ENDED: dict[type[Event], Rule] = {
    Admit: transitions.nothing,
    Assign: transitions.nothing,
    Started: transitions.absorb,
    Refused: transitions.absorb,
    Finished: transitions.absorb,
    TimedOut: transitions.nothing,
    NodeLost: transitions.nothing,
    Stop: transitions.nothing,
}

TABLE: Mapping[Pair, Rule] = _LIVE | {
    (end, kind): rule for end in TaskState if end.is_end for kind, rule in _ENDED.items()
}

ILLEGAL: frozenset[Pair] = frozenset(
    {
        (_S.SUBMITTED, Assign),
        (_S.SUBMITTED, Started),
        (_S.SUBMITTED, Refused),
        (_S.SUBMITTED, Finished),
        (_S.SUBMITTED, TimedOut),
        (_S.SUBMITTED, NodeLost),
        (_S.QUEUED, Admit),
        (_S.ASSIGNED, Admit),
        (_S.ASSIGNED, Assign),
        (_S.RUNNING, Admit),
        (_S.RUNNING, Assign),
        (_S.RUNNING, Refused),
    }
)
"""Pairs that only a fault in this program, or a lying node, could bring about."""
