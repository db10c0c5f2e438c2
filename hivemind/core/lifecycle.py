"""What happens to a task, and when: one table from (state, event) to a rule.

``step`` is the only way in. It changes nothing; it returns the task and its newest attempt as they
are afterwards, and what must be done about it once that is on disk. Every pair of state and event
is in ``TABLE`` or in ``ILLEGAL``.

A stop is a flag, never a state: whatever would put a flagged task back into the queue makes it
stopped instead. An end is for ever.
"""

import math
from collections.abc import Callable, Mapping

import attrs

from hivemind.core import retry
from hivemind.core.errors import CoreError
from hivemind.core.events import (
    Admit,
    Assign,
    BarNode,
    Effect,
    Ended,
    Enqueue,
    Event,
    Finished,
    KillAttempt,
    NodeLost,
    Refused,
    Release,
    SendAssign,
    SendStop,
    Started,
    Stop,
    TimedOut,
)
from hivemind.core.policy import PoolRules
from hivemind.core.records import (
    Attempt,
    Ending,
    Outcome,
    Reason,
    RefusalKind,
    Task,
    TaskState,
)
from hivemind.core.wording import one_line


class LifecycleError(CoreError):
    """An event that cannot have happened to this task; nothing was changed."""


class IllegalTransition(LifecycleError):
    """The event makes no sense in the task's state."""


class FromTheFuture(LifecycleError):
    """A report on an attempt that was never made."""


class BadReport(LifecycleError):
    """A report that contradicts itself, or comes from a node that does not hold the attempt."""


@attrs.frozen
class Step:
    """A task and its newest attempt after an event, and what must now be done."""

    task: Task
    attempt: Attempt | None
    effects: tuple[Effect, ...] = ()


Report = Started | Refused | Finished


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
        return Step(task, attempt, (_kill(task, event),))
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


def _kill(task: Task, report: Report) -> KillAttempt:
    return KillAttempt(task_id=task.id, attempt=report.attempt, node_id=report.node_id)


def _check_ending(task: Task, ending: Ending) -> None:
    usage = ending.usage
    amounts = (usage.wall_s, usage.cpu_s, usage.memory_peak_bytes, ending.result_bytes)
    if not all(math.isfinite(amount) and amount >= 0 for amount in amounts):
        raise BadReport(f"{story(task)}: its node reports an impossible usage")
    if ending.outcome in {Outcome.LOST, Outcome.REFUSED}:
        raise BadReport(f"{story(task)}: a final report cannot say {ending.outcome.value}")
    if ending.outcome is Outcome.SUCCEEDED and ending.exit_code not in {0, None}:
        raise BadReport(f"{story(task)}: success with exit status {ending.exit_code}")


# --- leaving an attempt ---------------------------------------------------------------------


def _close(attempt: Attempt, now: float, outcome: Outcome, reason: Reason, detail: str) -> Attempt:
    return attrs.evolve(attempt, ended_at=now, outcome=outcome, reason=reason, detail=detail)


def _end(
    task: Task,
    attempt: Attempt | None,
    state: TaskState,
    reason: Reason,
    now: float,
    *,
    detail: str = "",
    before: tuple[Effect, ...] = (),
) -> Step:
    """``task`` at an end. The attempt, if it was under way, must be closed already."""
    was_under_way = task.state in {TaskState.ASSIGNED, TaskState.RUNNING}
    done = attrs.evolve(
        task,
        state=state,
        reason=reason,
        detail=detail,
        exit_code=attempt.exit_code if was_under_way and attempt is not None else None,
        started_at=attempt.started_at if was_under_way and attempt is not None else None,
        finished_at=now,
        node_id="",
        backoff_s=0.0,
    )
    effects: list[Effect] = list(before)
    if was_under_way and attempt is not None:
        effects.append(_release(attempt))
    effects.append(Ended(task_id=task.id))
    return Step(done, attempt, tuple(effects))


def _requeue(
    task: Task,
    attempt: Attempt,
    reason: Reason,
    now: float,
    *,
    detail: str,
    delay_s: float = 0.0,
    bar: BarNode | None = None,
) -> Step:
    """``task`` back in the queue, or stopped if somebody asked for that meanwhile."""
    if task.stop_requested:
        words = one_line(f"{_stopped_by(task)}; its last attempt: {detail}")
        return _end(task, attempt, TaskState.STOPPED, Reason.STOPPED, now, detail=words)
    back = attrs.evolve(
        task,
        state=TaskState.QUEUED,
        node_id="",
        reason=reason,
        detail=detail,
        exit_code=None,
        started_at=None,
        backoff_s=delay_s,
    )
    effects: list[Effect] = [_release(attempt)]
    if bar is not None:
        effects.append(bar)
    effects.append(Enqueue(task_id=task.id, delay_s=delay_s))
    return Step(back, attempt, tuple(effects))


def _release(attempt: Attempt) -> Release:
    return Release(task_id=attempt.task_id, attempt=attempt.number, node_id=attempt.node_id)


def _bar(attempt: Attempt, for_s: float | None) -> BarNode:
    return BarNode(task_id=attempt.task_id, node_id=attempt.node_id, for_s=for_s)


def _stopped_by(task: Task) -> str:
    return f"stopped by {task.stopped_by}" if task.stopped_by else "stopped"


# --- the rules of the table -----------------------------------------------------------------


def _admit(task: Task, attempt: None, event: Admit, now: float, rules: PoolRules) -> Step:
    queued = attrs.evolve(task, state=TaskState.QUEUED)
    return Step(queued, attempt, (Enqueue(task_id=task.id, delay_s=0.0),))


def _assign(
    task: Task, attempt: Attempt | None, event: Assign, now: float, rules: PoolRules
) -> Step:
    fresh = Attempt(
        task_id=task.id,
        number=task.attempt + 1,
        node_id=event.node_id,
        lease_id=event.lease_id,
        assigned_at=now,
    )
    assigned = attrs.evolve(
        task,
        state=TaskState.ASSIGNED,
        attempt=fresh.number,
        node_id=event.node_id,
        reason=None,
        detail="",
        backoff_s=0.0,
    )
    send = SendAssign(task_id=task.id, attempt=fresh.number, node_id=event.node_id)
    return Step(assigned, fresh, (send,))


def _started(task: Task, attempt: Attempt, event: Started, now: float, rules: PoolRules) -> Step:
    begun = attrs.evolve(attempt, started_at=now, report_seq=event.seq)
    running = attrs.evolve(task, state=TaskState.RUNNING, started_at=now)
    return Step(running, begun)


def _started_again(
    task: Task, attempt: Attempt, event: Started, now: float, rules: PoolRules
) -> Step:
    return Step(task, attrs.evolve(attempt, report_seq=event.seq))


def _refused(task: Task, attempt: Attempt, event: Refused, now: float, rules: PoolRules) -> Step:
    words = one_line(event.detail) or "it gave no reason"
    detail = f"node {attempt.node_id} refused it: {words}"
    over = attrs.evolve(
        _close(attempt, now, Outcome.REFUSED, Reason.REFUSED, words),
        report_seq=event.seq,
        refusal=event.kind,
    )
    for_good = event.kind is RefusalKind.POLICY
    if for_good and event.is_last_hope and not task.stop_requested:
        return _end(task, over, TaskState.FAILED, Reason.REFUSED, now, detail=detail)
    bar = _bar(attempt, None if for_good else rules.refusal_bar_s)
    return _requeue(task, over, Reason.REFUSED, now, detail=detail, bar=bar)


def _finished(task: Task, attempt: Attempt, event: Finished, now: float, rules: PoolRules) -> Step:
    ending = event.ending
    words = one_line(ending.detail)
    over = attrs.evolve(
        _close(attempt, now, ending.outcome, ending.reason, words),
        # A report that came without its `started` still says how long it ran.
        started_at=attempt.started_at
        if attempt.started_at is not None
        else max(attempt.assigned_at, now - ending.usage.wall_s),
        exit_code=ending.exit_code,
        usage=ending.usage,
        result_bytes=ending.result_bytes,
        report_seq=event.seq,
    )
    match ending.outcome:
        case Outcome.SUCCEEDED:
            state = TaskState.SUCCEEDED
        case Outcome.TIMED_OUT:
            state = TaskState.TIMED_OUT
        case Outcome.STOPPED if task.stop_requested:
            detail = words or _stopped_by(task)
            return _end(task, over, TaskState.STOPPED, Reason.STOPPED, now, detail=detail)
        case Outcome.STOPPED:
            # Nobody asked: the node shut down, or could not renew its lease. The work is lost.
            lost = attrs.evolve(over, outcome=Outcome.LOST)
            detail = f"node {attempt.node_id} stopped it unasked" + (f": {words}" if words else "")
            bar = _bar(attempt, rules.refusal_bar_s)
            return _lost(task, lost, one_line(detail), now, rules, bar=bar)
        case _:
            return _failed(task, over, ending.reason, words, now, rules)
    return _end(task, over, state, ending.reason, now, detail=words)


def _failed(
    task: Task, over: Attempt, reason: Reason, words: str, now: float, rules: PoolRules
) -> Step:
    may_retry = task.failures < task.retries and retry.is_retryable(reason)
    counted = attrs.evolve(task, failures=task.failures + 1)
    if not may_retry:
        return _end(counted, over, TaskState.FAILED, reason, now, detail=words)
    # A sandbox that did not start is the machine's fault: try another one if there is one.
    bar = _bar(over, rules.refusal_bar_s) if reason is Reason.SANDBOX_FAILED else None
    delay_s = retry.backoff_s(counted.failures, rules)
    return _requeue(counted, over, reason, now, detail=words, delay_s=delay_s, bar=bar)


def _timed_out(task: Task, attempt: Attempt, event: TimedOut, now: float, rules: PoolRules) -> Step:
    detail = (
        f"its time limit of {task.wall_s:g} s passed and node {attempt.node_id} did not report; "
        "the master ended it"
    )
    over = _close(attempt, now, Outcome.TIMED_OUT, Reason.TIME_LIMIT, detail)
    kill = KillAttempt(task_id=task.id, attempt=attempt.number, node_id=attempt.node_id)
    return _end(
        task, over, TaskState.TIMED_OUT, Reason.TIME_LIMIT, now, detail=detail, before=(kill,)
    )


def _node_lost(task: Task, attempt: Attempt, event: NodeLost, now: float, rules: PoolRules) -> Step:
    detail = one_line(event.detail) or f"node {attempt.node_id} was lost"
    over = _close(attempt, now, Outcome.LOST, Reason.NODE_LOST, detail)
    bar = _bar(attempt, rules.refusal_bar_s) if task.state is TaskState.ASSIGNED else None
    return _lost(task, over, detail, now, rules, bar=bar)


def _lost(
    task: Task, over: Attempt, detail: str, now: float, rules: PoolRules, *, bar: BarNode | None
) -> Step:
    if task.state is TaskState.ASSIGNED:
        return _requeue(task, over, Reason.NODE_LOST, now, detail=detail, bar=bar)
    counted = attrs.evolve(task, crashes=task.crashes + 1)
    if counted.crashes >= rules.crash_limit and not task.stop_requested:
        words = one_line(f"its node was lost {counted.crashes} times; the last time: {detail}")
        return _end(counted, over, TaskState.FAILED, Reason.NODE_LOST, now, detail=words)
    return _requeue(counted, over, Reason.NODE_LOST, now, detail=detail, bar=bar)


def _stop_waiting(
    task: Task, attempt: Attempt | None, event: Stop, now: float, rules: PoolRules
) -> Step:
    flagged = attrs.evolve(task, stop_requested=True, stopped_by=event.by)
    words = _stopped_by(flagged)
    return _end(flagged, attempt, TaskState.STOPPED, Reason.STOPPED, now, detail=words)


def _stop_under_way(
    task: Task, attempt: Attempt, event: Stop, now: float, rules: PoolRules
) -> Step:
    if task.stop_requested:
        return Step(task, attempt)
    flagged = attrs.evolve(task, stop_requested=True, stopped_by=event.by)
    send = SendStop(task_id=task.id, attempt=attempt.number, node_id=attempt.node_id)
    return Step(flagged, attempt, (send,))


def _over_already(
    task: Task, attempt: Attempt, event: Report, now: float, rules: PoolRules
) -> Step:
    return Step(task, attempt, (_kill(task, event),))


def _nothing(
    task: Task, attempt: Attempt | None, event: Event, now: float, rules: PoolRules
) -> Step:
    return Step(task, attempt)


def _absorb(
    task: Task, attempt: Attempt | None, event: Report, now: float, rules: PoolRules
) -> Step:
    """An end takes any report. Only the repeat of one that was applied asks for no kill."""
    if attempt is not None and event.attempt == attempt.number and event.seq <= attempt.report_seq:
        return Step(task, attempt)
    return Step(task, attempt, (_kill(task, event),))


Rule = Callable[..., Step]
Pair = tuple[TaskState, type[Event]]

_S = TaskState

_LIVE: dict[Pair, Rule] = {
    (_S.SUBMITTED, Admit): _admit,
    (_S.SUBMITTED, Stop): _stop_waiting,
    (_S.QUEUED, Assign): _assign,
    (_S.QUEUED, Stop): _stop_waiting,
    (_S.QUEUED, Started): _over_already,
    (_S.QUEUED, Refused): _over_already,
    (_S.QUEUED, Finished): _over_already,
    (_S.QUEUED, TimedOut): _nothing,
    (_S.QUEUED, NodeLost): _nothing,
    (_S.ASSIGNED, Started): _started,
    (_S.ASSIGNED, Refused): _refused,
    (_S.ASSIGNED, Finished): _finished,
    (_S.ASSIGNED, TimedOut): _timed_out,
    (_S.ASSIGNED, NodeLost): _node_lost,
    (_S.ASSIGNED, Stop): _stop_under_way,
    (_S.RUNNING, Started): _started_again,
    (_S.RUNNING, Finished): _finished,
    (_S.RUNNING, TimedOut): _timed_out,
    (_S.RUNNING, NodeLost): _node_lost,
    (_S.RUNNING, Stop): _stop_under_way,
}
_ENDED: dict[type[Event], Rule] = {
    Admit: _nothing,
    Assign: _nothing,
    Started: _absorb,
    Refused: _absorb,
    Finished: _absorb,
    TimedOut: _nothing,
    NodeLost: _nothing,
    Stop: _nothing,
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
