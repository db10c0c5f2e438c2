"""Given a task, when an event comes, then this is what it is and what must be done."""

from itertools import product
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from hivemind.core.lifecycle import (
    ILLEGAL,
    TABLE,
    BadReport,
    FromTheFuture,
    IllegalTransition,
    LifecycleError,
    Step,
    step,
    story,
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
    Usage,
)
from hivemind.core.retry import is_retryable

S = TaskState
RULES = PoolRules(refusal_bar_s=10.0, crash_limit=3, retry_backoff_s=1.0)
NEW = Task(id="t", account="alice", state=S.SUBMITTED, submitted_at=1.0)

OK = Ending(outcome=Outcome.SUCCEEDED, reason=Reason.EXITED, exit_code=0, usage=Usage(wall_s=2.0))
EXIT_3 = Ending(outcome=Outcome.FAILED, reason=Reason.EXITED, exit_code=3, detail="exit status 3")
KILLED = Ending(outcome=Outcome.STOPPED, reason=Reason.STOPPED, exit_code=143)
TOO_LONG = Ending(outcome=Outcome.TIMED_OUT, reason=Reason.TIME_LIMIT, exit_code=137)

ADMIT = Admit()
ASSIGN = Assign(node_id="n1", lease_id="lease-1")
STARTED = Started(attempt=1, seq=1)
BUSY = Refused(attempt=1, seq=1, kind=RefusalKind.BUSY, detail="no free slot")
NEVER = Refused(attempt=1, seq=1, kind=RefusalKind.POLICY, detail="policy gpu is not here")
NEVER_ANYWHERE = attrs.evolve(NEVER, is_last_hope=True)
DONE = Finished(attempt=1, seq=9, ending=OK)
FAILED = Finished(attempt=1, seq=9, ending=EXIT_3)
STOPPED = Finished(attempt=1, seq=9, ending=KILLED)
LATE = Finished(attempt=1, seq=9, ending=TOO_LONG)
BACKUP = TimedOut(attempt=1)
LOST = NodeLost(attempt=1, detail="node n1 was silent for 15 s")
STOP = Stop(by="alice")

RELEASE = Release(task_id="t", attempt=1, node_id="n1")
ENDED = Ended(task_id="t")
KILL = KillAttempt(task_id="t", attempt=1, node_id="n1")
SEND_STOP = SendStop(task_id="t", attempt=1, node_id="n1")
AGAIN = Enqueue(task_id="t", delay_s=0.0)
BAR = BarNode(task_id="t", node_id="n1", for_s=10.0)
BAR_FOR_GOOD = BarNode(task_id="t", node_id="n1", for_s=None)


def after(*events: Event, task: Task = NEW) -> Step:
    """The last step of what happened; each event comes one second after the one before."""
    now = Step(task, None)
    for second, event in enumerate(events, start=10):
        now = step(now.task, now.attempt, event, float(second), RULES)
    return now


WITH_RETRY = attrs.evolve(NEW, retries=1)
QUEUED = (ADMIT,)
ASSIGNED = (ADMIT, ASSIGN)
RUNNING = (ADMIT, ASSIGN, STARTED)
STOPPING = (ADMIT, ASSIGN, STOP)
STOPPING_RUN = (ADMIT, ASSIGN, STARTED, STOP)


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_events", "when", "then_state", "then_effects"),
    [
        ((), ADMIT, S.QUEUED, (AGAIN,)),
        ((), STOP, S.STOPPED, (ENDED,)),
        (QUEUED, STOP, S.STOPPED, (ENDED,)),
        (QUEUED, ASSIGN, S.ASSIGNED, (SendAssign(task_id="t", attempt=1, node_id="n1"),)),
        (ASSIGNED, STARTED, S.RUNNING, ()),
        (ASSIGNED, BUSY, S.QUEUED, (RELEASE, BAR, AGAIN)),
        (ASSIGNED, NEVER, S.QUEUED, (RELEASE, BAR_FOR_GOOD, AGAIN)),
        (ASSIGNED, NEVER_ANYWHERE, S.FAILED, (RELEASE, ENDED)),
        (ASSIGNED, attrs.evolve(BUSY, is_last_hope=True), S.QUEUED, (RELEASE, BAR, AGAIN)),
        (ASSIGNED, LOST, S.QUEUED, (RELEASE, BAR, AGAIN)),
        (ASSIGNED, BACKUP, S.TIMED_OUT, (KILL, RELEASE, ENDED)),
        (ASSIGNED, STOP, S.ASSIGNED, (SEND_STOP,)),
        (ASSIGNED, DONE, S.SUCCEEDED, (RELEASE, ENDED)),
        (ASSIGNED, FAILED, S.FAILED, (RELEASE, ENDED)),
        (ASSIGNED, STOPPED, S.QUEUED, (RELEASE, BAR, AGAIN)),
        (ASSIGNED, LATE, S.TIMED_OUT, (RELEASE, ENDED)),
        (RUNNING, attrs.evolve(STARTED, seq=2), S.RUNNING, ()),
        (RUNNING, LOST, S.QUEUED, (RELEASE, AGAIN)),
        (RUNNING, BACKUP, S.TIMED_OUT, (KILL, RELEASE, ENDED)),
        (RUNNING, STOP, S.RUNNING, (SEND_STOP,)),
        (RUNNING, DONE, S.SUCCEEDED, (RELEASE, ENDED)),
        (RUNNING, FAILED, S.FAILED, (RELEASE, ENDED)),
        (RUNNING, STOPPED, S.QUEUED, (RELEASE, BAR, AGAIN)),
        (RUNNING, LATE, S.TIMED_OUT, (RELEASE, ENDED)),
        (STOPPING, STARTED, S.RUNNING, ()),
        (STOPPING, STOP, S.ASSIGNED, ()),
        (STOPPING, BUSY, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING, NEVER, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING, NEVER_ANYWHERE, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING, LOST, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING, STOPPED, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING, DONE, S.SUCCEEDED, (RELEASE, ENDED)),
        (STOPPING_RUN, STOPPED, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING_RUN, DONE, S.SUCCEEDED, (RELEASE, ENDED)),
        (STOPPING_RUN, FAILED, S.FAILED, (RELEASE, ENDED)),
        (STOPPING_RUN, LATE, S.TIMED_OUT, (RELEASE, ENDED)),
        (STOPPING_RUN, LOST, S.STOPPED, (RELEASE, ENDED)),
        (STOPPING_RUN, BACKUP, S.TIMED_OUT, (KILL, RELEASE, ENDED)),
    ],
)
def test_given_a_task_when_an_event_comes_then_its_state_and_effects_are_these(
    given_events: tuple[Event, ...],
    when: Event,
    then_state: TaskState,
    then_effects: tuple[Effect, ...],
) -> None:
    came = after(*given_events, when)
    assert came.task.state is then_state
    assert came.effects == then_effects


def test_every_pair_of_state_and_event_is_in_the_table_or_illegal_and_never_both() -> None:
    pairs = set(product(TaskState, get_args(Event)))
    assert set(TABLE) | ILLEGAL == pairs
    assert not set(TABLE) & ILLEGAL


SAMPLES: dict[type, Event] = {
    Admit: ADMIT,
    Assign: ASSIGN,
    Started: STARTED,
    Refused: BUSY,
    Finished: DONE,
    TimedOut: BACKUP,
    NodeLost: LOST,
    Stop: STOP,
}
REACHING: dict[TaskState, tuple[Event, ...]] = {
    S.SUBMITTED: (),
    S.QUEUED: QUEUED,
    S.ASSIGNED: ASSIGNED,
    S.RUNNING: RUNNING,
}


@pytest.mark.parametrize(("state", "kind"), sorted(ILLEGAL, key=str))
def test_an_illegal_pair_raises_with_the_tasks_story_in_one_line(
    state: TaskState, kind: type[Event]
) -> None:
    event: Any = SAMPLES[kind]
    if state is S.RUNNING:
        event = attrs.evolve(event, seq=5) if kind is Refused else event
    expected: type[LifecycleError] = IllegalTransition
    if state is S.SUBMITTED and kind is not Assign:
        expected = FromTheFuture
    with pytest.raises(expected) as caught:
        after(*REACHING[state], event)
    assert str(caught.value).startswith(f"task t of alice ({state}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [TimedOut, NodeLost])
def test_a_task_that_was_never_admitted_has_no_attempt_zero_to_lose(kind: type) -> None:
    event: Any = SAMPLES[kind]
    with pytest.raises(IllegalTransition):
        after(attrs.evolve(event, attempt=0))


ENDS: dict[TaskState, tuple[Event, ...]] = {
    S.SUCCEEDED: (*RUNNING, DONE),
    S.FAILED: (*RUNNING, FAILED),
    S.STOPPED: (*STOPPING_RUN, STOPPED),
    S.TIMED_OUT: (*RUNNING, LATE),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("event", [*SAMPLES.values(), NEVER_ANYWHERE, FAILED, STOPPED, LATE])
def test_an_end_absorbs_every_event_unchanged(end: TaskState, event: Event) -> None:
    before = after(*ENDS[end])
    assert before.task.state is end
    now = step(before.task, before.attempt, event, 99.0, RULES)
    assert (now.task, now.attempt, now.effects) == (before.task, before.attempt, ())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("number", [2, 7])
def test_at_an_end_even_an_impossible_report_is_acknowledged_and_its_attempt_killed(
    end: TaskState, number: int
) -> None:
    before = after(*ENDS[end])
    event = Started(attempt=number, seq=1, node_id="n9")
    now = step(before.task, before.attempt, event, 99.0, RULES)
    assert (now.task, now.attempt) == (before.task, before.attempt)
    assert now.effects == (KillAttempt(task_id="t", attempt=number, node_id="n9"),)


def test_a_late_start_of_an_attempt_that_the_master_ended_is_killed() -> None:
    before = after(*ASSIGNED, BACKUP)
    now = step(before.task, before.attempt, attrs.evolve(STARTED, node_id="n1"), 99.0, RULES)
    assert now.task is before.task
    assert now.effects == (KILL,)


# --- reports -----------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [STARTED, BUSY, NEVER_ANYWHERE, DONE, FAILED, STOPPED, LATE])
def test_a_repeated_report_changes_nothing_and_has_no_effect(report: Event) -> None:
    once = after(*ASSIGNED, report, task=WITH_RETRY)
    twice = step(once.task, once.attempt, report, 99.0, RULES)
    assert (twice.task, twice.attempt, twice.effects) == (once.task, once.attempt, ())


def test_a_start_that_arrives_after_the_end_does_not_bring_a_task_back_to_running() -> None:
    came = after(*ASSIGNED, DONE, STARTED)
    assert came.task.state is S.SUCCEEDED
    assert came.effects == ()


@pytest.mark.parametrize("report", [STARTED, BUSY, DONE, FAILED])
@pytest.mark.parametrize("later", [(), (ASSIGN,), (ASSIGN, Started(attempt=2, seq=1))])
def test_a_report_of_an_attempt_that_is_over_is_acknowledged_and_the_attempt_killed(
    report: Any, later: tuple[Event, ...]
) -> None:
    before = after(*ASSIGNED, LOST, *later)
    now = step(before.task, before.attempt, attrs.evolve(report, node_id="n1"), 99.0, RULES)
    assert (now.task, now.attempt) == (before.task, before.attempt)
    assert now.effects == (KILL,)


@pytest.mark.parametrize("event", [BACKUP, LOST])
def test_what_the_master_finds_out_about_an_older_attempt_changes_nothing(event: Event) -> None:
    before = after(*ASSIGNED, LOST, ASSIGN)
    now = step(before.task, before.attempt, event, 99.0, RULES)
    assert (now.task, now.attempt, now.effects) == (before.task, before.attempt, ())


@pytest.mark.parametrize("event", [STARTED, BUSY, DONE, BACKUP, LOST])
@pytest.mark.parametrize("given_events", [(), QUEUED, ASSIGNED, RUNNING])
def test_a_report_of_an_attempt_never_made_is_a_protocol_error(
    event: Any, given_events: tuple[Event, ...]
) -> None:
    with pytest.raises(FromTheFuture, match="attempt 2 was never made"):
        after(*given_events, attrs.evolve(event, attempt=2))


def test_only_the_node_that_holds_an_attempt_may_report_on_it() -> None:
    assert after(*ASSIGNED, attrs.evolve(STARTED, node_id="n1")).task.state is S.RUNNING
    with pytest.raises(BadReport, match="n2 reports on attempt 1, which was given to node n1"):
        after(*ASSIGNED, attrs.evolve(STARTED, node_id="n2"))


@pytest.mark.parametrize(
    "ending",
    [
        attrs.evolve(OK, exit_code=3),
        attrs.evolve(OK, outcome=Outcome.LOST),
        attrs.evolve(OK, outcome=Outcome.REFUSED),
        attrs.evolve(OK, result_bytes=-1),
        attrs.evolve(OK, usage=Usage(wall_s=float("nan"))),
        attrs.evolve(OK, usage=Usage(cpu_s=float("inf"))),
        attrs.evolve(OK, usage=Usage(memory_peak_bytes=-5)),
        attrs.evolve(OK, usage=Usage(gpu_memory_peak_bytes=-5)),
    ],
)
def test_a_final_report_that_cannot_be_true_is_a_protocol_error(ending: Ending) -> None:
    with pytest.raises(BadReport):
        after(*RUNNING, Finished(attempt=1, seq=2, ending=ending))


@pytest.mark.parametrize("event", [Started(attempt=1, seq=0), Started(attempt=0, seq=1)])
def test_attempts_and_reports_are_numbered_from_one(event: Event) -> None:
    with pytest.raises(BadReport):
        after(*ASSIGNED, event)


def test_a_nodes_words_reach_people_as_one_bounded_line() -> None:
    rude = attrs.evolve(EXIT_3, detail="\x1b[2Jyou\nare owned" + "!" * 10_000)
    task = after(*RUNNING, Finished(attempt=1, seq=2, ending=rude)).task
    assert task.detail.startswith("[2Jyou are owned!")
    assert task.detail.isprintable()
    assert len(task.detail) <= 400


def test_an_attempt_that_is_not_the_tasks_newest_is_a_mistake_of_the_caller() -> None:
    came = after(*ASSIGNED)
    with pytest.raises(ValueError, match="not its newest"):
        step(came.task, None, STARTED, 1.0, RULES)


# --- retries, losses, stops ----------------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
def test_a_failure_is_retried_while_retries_are_left_and_only_if_that_can_help(
    reason: Reason,
) -> None:
    bad = Finished(attempt=1, seq=2, ending=attrs.evolve(EXIT_3, reason=reason))
    came = after(*RUNNING, bad, task=WITH_RETRY)
    if not is_retryable(reason):
        assert (came.task.state, came.task.reason) == (S.FAILED, reason)
        return
    assert came.task.state is S.QUEUED
    assert came.effects[-1] == Enqueue(task_id="t", delay_s=1.0)
    assert came.task.backoff_s == 1.0
    again = after(*RUNNING, bad, ASSIGN, attrs.evolve(bad, attempt=2), task=WITH_RETRY)
    assert (again.task.state, again.task.failures) == (S.FAILED, 2)


def test_a_sandbox_that_did_not_start_is_tried_on_another_node_first() -> None:
    broken = attrs.evolve(EXIT_3, reason=Reason.SANDBOX_FAILED, exit_code=None)
    came = after(*ASSIGNED, Finished(attempt=1, seq=1, ending=broken), task=WITH_RETRY)
    assert came.effects == (RELEASE, BAR, Enqueue(task_id="t", delay_s=1.0))
    assert came.task.detail == "node n1 could not run it: exit status 3"


def test_a_flagged_task_that_fails_with_retries_left_is_stopped_instead() -> None:
    came = after(*STOPPING_RUN, FAILED, task=WITH_RETRY)
    assert (came.task.state, came.task.reason) == (S.STOPPED, Reason.STOPPED)
    assert came.task.detail == "stopped by alice; its last attempt: exit status 3"
    assert came.attempt is not None
    assert (came.attempt.outcome, came.attempt.exit_code) == (Outcome.FAILED, 3)


def test_only_an_attempt_that_ran_counts_as_a_crash_when_its_node_is_lost() -> None:
    assert after(*ASSIGNED, LOST).task.crashes == 0
    assert after(*RUNNING, LOST).task.crashes == 1


def test_a_task_whose_nodes_were_lost_too_often_fails() -> None:
    events: list[Event] = [ADMIT]
    for number in (1, 2, 3):
        events += [ASSIGN, Started(attempt=number, seq=1), attrs.evolve(LOST, attempt=number)]
    came = after(*events)
    assert (came.task.state, came.task.reason) == (S.FAILED, Reason.NODE_LOST)
    assert came.task.crashes == 3
    assert came.task.detail == (
        "its node was lost 3 times; the last time: node n1 was silent for 15 s"
    )
    assert after(*events[:-1]).task.state is S.RUNNING


def test_a_node_that_stops_a_task_unasked_has_lost_it() -> None:
    came = after(*RUNNING, STOPPED)
    assert (came.task.state, came.task.crashes) == (S.QUEUED, 1)
    assert came.task.detail == "node n1 stopped it unasked"
    assert came.attempt is not None
    assert came.attempt.outcome is Outcome.LOST


def test_the_first_to_ask_for_a_stop_is_the_one_who_stopped_it() -> None:
    came = after(*RUNNING, STOP, Stop(by="bob"), STOPPED)
    assert (came.task.stopped_by, came.task.detail) == ("alice", "stopped by alice")


# --- the records ---------------------------------------------------------------------------------


def test_a_task_that_succeeded_has_its_times_its_status_and_no_node() -> None:
    came = after(*RUNNING, DONE)
    assert came.task == attrs.evolve(
        NEW,
        state=S.SUCCEEDED,
        attempt=1,
        reason=Reason.EXITED,
        exit_code=0,
        started_at=12.0,
        finished_at=13.0,
    )
    assert came.attempt == Attempt(
        task_id="t",
        number=1,
        node_id="n1",
        lease_id="lease-1",
        assigned_at=11.0,
        started_at=12.0,
        ended_at=13.0,
        outcome=Outcome.SUCCEEDED,
        reason=Reason.EXITED,
        exit_code=0,
        usage=Usage(wall_s=2.0),
        report_seq=9,
    )


def test_a_final_report_without_a_start_says_how_long_the_attempt_ran() -> None:
    quick = Finished(attempt=1, seq=1, ending=attrs.evolve(OK, usage=Usage(wall_s=0.25)))
    assert after(*ASSIGNED, quick).task.started_at == 11.75
    slow_clock = Finished(attempt=1, seq=1, ending=attrs.evolve(OK, usage=Usage(wall_s=500)))
    assert after(*ASSIGNED, slow_clock).task.started_at == 11.0


def test_a_task_that_waits_again_says_why_and_holds_nothing_of_the_last_attempt() -> None:
    task = after(*RUNNING, FAILED, task=WITH_RETRY).task
    assert (task.reason, task.detail) == (Reason.EXITED, "exit status 3")
    assert task.node_id == ""
    assert (task.exit_code, task.started_at, task.finished_at) == (None, None, None)


def test_assigning_again_forgets_why_the_task_waited() -> None:
    came = after(*RUNNING, FAILED, Assign(node_id="n2", lease_id="l2"), task=WITH_RETRY)
    assert (came.task.reason, came.task.detail, came.task.backoff_s) == (None, "", 0.0)
    assert (came.task.attempt, came.task.node_id) == (2, "n2")
    assert came.attempt == Attempt(
        task_id="t", number=2, node_id="n2", lease_id="l2", assigned_at=14.0
    )


def test_a_refusal_that_ends_a_task_carries_the_nodes_words() -> None:
    came = after(*ASSIGNED, NEVER_ANYWHERE)
    assert came.task.reason is Reason.REFUSED
    assert came.task.detail == "node n1 refused it: policy gpu is not here"
    assert came.attempt is not None
    assert came.attempt.refusal is RefusalKind.POLICY
    assert came.task.started_at is None


def test_a_story_tells_where_a_task_is_and_how_it_came_there() -> None:
    task = after(*RUNNING, FAILED, ASSIGN, STOP, task=WITH_RETRY).task
    assert story(task) == (
        "task t of alice (assigned, attempt 2 on n1, 1 failed of 2, stop asked by alice)"
    )


# --- any order of events -------------------------------------------------------------------------

NUMBERS = st.integers(min_value=0, max_value=4)
SEQS = st.integers(min_value=0, max_value=4)
NODES = st.sampled_from(["n1", "n2", ""])
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(ADMIT),
    st.builds(Assign, node_id=st.sampled_from(["n1", "n2"]), lease_id=st.just("l")),
    st.builds(Assign, node_id=st.sampled_from(["n1", "n2"]), lease_id=st.just("l")),
    st.builds(Started, attempt=NUMBERS, seq=SEQS, node_id=NODES),
    st.builds(
        Refused,
        attempt=NUMBERS,
        seq=SEQS,
        node_id=NODES,
        kind=st.sampled_from(RefusalKind),
        detail=st.just("no"),
        is_last_hope=st.booleans(),
    ),
    st.builds(
        Finished,
        attempt=NUMBERS,
        seq=SEQS,
        node_id=NODES,
        ending=st.builds(
            Ending,
            outcome=st.sampled_from(Outcome),
            reason=st.sampled_from(Reason),
            exit_code=st.sampled_from([None, 0, 3]),
        ),
    ),
    st.builds(TimedOut, attempt=NUMBERS),
    st.builds(NodeLost, attempt=NUMBERS, detail=st.just("lost")),
    st.just(STOP),
)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(EVENTS, max_size=30), st.integers(min_value=0, max_value=2))
def test_no_order_of_events_breaks_a_tasks_life(events: list[Event], retries: int) -> None:
    now = Step(attrs.evolve(NEW, retries=retries), None)
    reserved: set[int] = set()
    ends = 0
    for second, event in enumerate([ADMIT, *events]):
        before = now
        try:
            now = step(before.task, before.attempt, event, float(second), RULES)
        except LifecycleError:
            assert not before.task.state.is_end
            continue
        task, attempt = now.task, now.attempt
        for effect in now.effects:
            if isinstance(effect, SendAssign):
                assert effect.attempt not in reserved
                reserved.add(effect.attempt)
            elif isinstance(effect, Release):
                reserved.remove(effect.attempt)
            ends += isinstance(effect, Ended)
        under_way = task.state in {S.ASSIGNED, S.RUNNING}
        assert reserved == ({task.attempt} if under_way else set())
        assert ends == task.state.is_end
        assert bool(task.node_id) == under_way
        assert (task.finished_at is not None) == task.state.is_end
        assert not (task.stop_requested and task.state is S.QUEUED)
        assert (attempt is None) == (task.attempt == 0)
        if attempt is not None:
            assert (attempt.outcome is None) == under_way
            assert attempt.report_seq >= (
                before.attempt.report_seq
                if before.attempt is not None and before.attempt.number == attempt.number
                else 0
            )
        assert (task.state is S.RUNNING) <= (task.started_at is not None)
        assert task.failures <= task.retries + 1
        assert task.crashes <= RULES.crash_limit
        if before.task.state.is_end:
            assert (task, attempt) == (before.task, before.attempt)
        again = step(task, attempt, event, float(second), RULES) if _is_report(event) else now
        assert (again.task, again.attempt) == (task, attempt)


def _is_report(event: Event) -> bool:
    return isinstance(event, Started | Refused | Finished)


# --- ends that nobody showed ---


@pytest.mark.parametrize(
    ("events", "unconfirmed"),
    [
        ((*RUNNING, DONE), False),
        ((*STOPPING_RUN, STOPPED), False),
        ((*STOPPING_RUN, LOST), True),
        ((*STOPPING, LOST), True),
        ((*STOPPING_RUN, attrs.evolve(LOST, is_over=True)), False),
        ((*RUNNING, BACKUP), True),
        ((ADMIT, STOP), False),
    ],
)
def test_an_end_that_its_node_did_not_show_is_unconfirmed(
    events: tuple[Event, ...], unconfirmed: bool
) -> None:
    last = after(*events)
    assert last.task.state.is_end
    assert last.task.unconfirmed is unconfirmed
    if last.attempt is not None:
        assert last.attempt.unconfirmed is unconfirmed


def test_a_lost_attempt_whose_task_goes_on_is_lost_and_no_more() -> None:
    last = after(*RUNNING, LOST)
    assert last.attempt is not None
    assert (last.task.unconfirmed, last.attempt.unconfirmed) == (False, False)
