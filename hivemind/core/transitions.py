"""How each event changes a task: the rules that the table of ``lifecycle`` names.

Each takes a task, its newest attempt, the event, the time and the pool's rules, and returns a
``Step``. They rely on what ``lifecycle.step`` has checked before.
"""

import attrs

from hivemind.core import retry
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
from hivemind.core.records import Attempt, Outcome, Reason, RefusalKind, Task, TaskState
from hivemind.core.wording import one_line

Report = Started | Refused | Finished


@attrs.frozen
class Step:
    """A task and its newest attempt after an event, and what must now be done."""

    task: Task
    attempt: Attempt | None
    effects: tuple[Effect, ...] = ()


def kill(task: Task, report: Report) -> KillAttempt:
    """The answer to a report on an attempt that is over."""
    return KillAttempt(task_id=task.id, attempt=report.attempt, node_id=report.node_id)


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
        unconfirmed=was_under_way and attempt is not None and attempt.unconfirmed,
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


def admit(task: Task, attempt: None, event: Admit, now: float, rules: PoolRules) -> Step:
    """It may wait for a node."""
    queued = attrs.evolve(task, state=TaskState.QUEUED)
    return Step(queued, attempt, (Enqueue(task_id=task.id, delay_s=0.0),))


def assign(
    task: Task, attempt: Attempt | None, event: Assign, now: float, rules: PoolRules
) -> Step:
    """A node has been chosen: a new attempt begins."""
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


def started(task: Task, attempt: Attempt, event: Started, now: float, rules: PoolRules) -> Step:
    """The node runs it."""
    begun = attrs.evolve(attempt, started_at=now, report_seq=event.seq)
    running = attrs.evolve(task, state=TaskState.RUNNING, started_at=now)
    return Step(running, begun)


def started_again(
    task: Task, attempt: Attempt, event: Started, now: float, rules: PoolRules
) -> Step:
    """Nothing new, but the report counts as received."""
    return Step(task, attrs.evolve(attempt, report_seq=event.seq))


def refused(task: Task, attempt: Attempt, event: Refused, now: float, rules: PoolRules) -> Step:
    """Nothing was run. Back to the queue without that node, or failed where no other is left."""
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


def finished(task: Task, attempt: Attempt, event: Finished, now: float, rules: PoolRules) -> Step:
    """The node's last word: an end, or another try."""
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
    if reason is Reason.SANDBOX_FAILED:
        words = one_line(f"node {over.node_id} could not run it: {words or 'it gave no reason'}")
    may_retry = task.failures < task.retries and retry.is_retryable(reason)
    counted = attrs.evolve(task, failures=task.failures + 1)
    if not may_retry:
        return _end(counted, over, TaskState.FAILED, reason, now, detail=words)
    # A sandbox that did not start is the machine's fault: try another one if there is one.
    bar = _bar(over, rules.refusal_bar_s) if reason is Reason.SANDBOX_FAILED else None
    delay_s = retry.backoff_s(counted.failures, rules)
    return _requeue(counted, over, reason, now, detail=words, delay_s=delay_s, bar=bar)


def timed_out(task: Task, attempt: Attempt, event: TimedOut, now: float, rules: PoolRules) -> Step:
    """The node did not keep the time limit, so the master does."""
    detail = (
        f"its time limit of {task.wall_s:g} s passed and node {attempt.node_id} did not report; "
        "the master ended it"
    )
    over = attrs.evolve(
        _close(attempt, now, Outcome.TIMED_OUT, Reason.TIME_LIMIT, detail), unconfirmed=True
    )
    end_it = KillAttempt(task_id=task.id, attempt=attempt.number, node_id=attempt.node_id)
    return _end(
        task, over, TaskState.TIMED_OUT, Reason.TIME_LIMIT, now, detail=detail, before=(end_it,)
    )


def node_lost(task: Task, attempt: Attempt, event: NodeLost, now: float, rules: PoolRules) -> Step:
    """Nobody knows what became of the attempt: another try, or an end after too many."""
    detail = one_line(event.detail) or f"node {attempt.node_id} was lost"
    over = attrs.evolve(
        _close(attempt, now, Outcome.LOST, Reason.NODE_LOST, detail),
        unconfirmed=task.stop_requested and not event.is_over,
    )
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


def stop_waiting(
    task: Task, attempt: Attempt | None, event: Stop, now: float, rules: PoolRules
) -> Step:
    """Nothing of it is under way: it is stopped at once."""
    flagged = attrs.evolve(task, stop_requested=True, stopped_by=event.by)
    words = _stopped_by(flagged)
    return _end(flagged, attempt, TaskState.STOPPED, Reason.STOPPED, now, detail=words)


def stop_under_way(task: Task, attempt: Attempt, event: Stop, now: float, rules: PoolRules) -> Step:
    """The flag is set and the node told; its report will end the task. Once is enough."""
    if task.stop_requested:
        return Step(task, attempt)
    flagged = attrs.evolve(task, stop_requested=True, stopped_by=event.by)
    send = SendStop(task_id=task.id, attempt=attempt.number, node_id=attempt.node_id)
    return Step(flagged, attempt, (send,))


def over_already(task: Task, attempt: Attempt, event: Report, now: float, rules: PoolRules) -> Step:
    """A report on an attempt that is over: whatever still runs of it is not wanted."""
    return Step(task, attempt, (kill(task, event),))


def nothing(
    task: Task, attempt: Attempt | None, event: Event, now: float, rules: PoolRules
) -> Step:
    """The event comes too late to mean anything."""
    return Step(task, attempt)


def absorb(
    task: Task, attempt: Attempt | None, event: Report, now: float, rules: PoolRules
) -> Step:
    """An end takes any report. Only the repeat of one that was applied asks for no kill."""
    if attempt is not None and event.attempt == attempt.number and event.seq <= attempt.report_seq:
        return Step(task, attempt)
    return Step(task, attempt, (kill(task, event),))
