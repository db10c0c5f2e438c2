"""Given a pool, when one asks why a task waits, then this is the answer."""

import attrs
import pytest

from hivemind.core.explain import COUNTED_AHEAD, explain, explain_impossible
from hivemind.core.explanation import Cause, CauseKind
from hivemind.core.fleet import Fleet
from hivemind.core.placement import plan
from hivemind.core.queue import TaskQueue
from hivemind.core.records import Reason, Requirements, Task, TaskState
from tests.core.builders import GIB, fleet_of, hold, machine, queue_of, queued, wants

WAITING = queued("t", submitted_at=5)


def woken(*tasks: Task) -> TaskQueue:
    queue = queue_of(*tasks)
    queue.wake(0.0, 0)
    return queue


def why(fleet: Fleet, needs: Requirements | None = None) -> list[Cause]:
    task = WAITING if needs is None else attrs.evolve(WAITING, requirements=needs)
    explanation = explain(task, fleet, woken(task), 0.0)
    assert explanation.headline == explanation.causes[0].text
    return list(explanation.causes)


@pytest.mark.parametrize(
    ("given_task", "then_headline"),
    [
        ({"state": TaskState.SUBMITTED}, "it has not been admitted yet"),
        (
            {"state": TaskState.ASSIGNED, "node_id": "n1"},
            "node n1 has it and has not started it yet",
        ),
        ({"state": TaskState.RUNNING, "node_id": "n1"}, "it runs on node n1"),
        (
            {"state": TaskState.RUNNING, "node_id": "n1", "stop_requested": True},
            "it is being stopped on node n1",
        ),
        ({"state": TaskState.SUCCEEDED}, "it has ended: succeeded"),
        (
            {"state": TaskState.FAILED, "detail": "exit status 3"},
            "it has ended: failed, exit status 3",
        ),
    ],
)
def test_a_task_that_does_not_wait_is_said_to_be_where_it_is(
    given_task: dict[str, object], then_headline: str
) -> None:
    task = attrs.evolve(WAITING, **given_task)  # type: ignore[arg-type]
    explanation = explain(task, Fleet(), TaskQueue(), 0.0)
    assert (explanation.headline, explanation.causes) == (then_headline, ())


def test_a_pool_without_nodes_says_so() -> None:
    assert why(Fleet())[0] == Cause(CauseKind.NO_NODE, "no node is connected", 1)


def test_nodes_that_take_nobodys_work_are_counted_by_reason() -> None:
    fleet = fleet_of(**{f"n{n}": machine() for n in range(6)})
    fleet.set_connected("n0", False)
    fleet.set_draining("n1", True)
    fleet.set_draining("n2", True)
    fleet.set_trust("n3", 5)
    fleet.set_trust("n4", 5)
    fleet.set_draining("n4", True)
    fleet.set_draining("n5", True)
    assert why(fleet) == [
        Cause(CauseKind.NO_NODE, "no node takes new work", 1),
        Cause(CauseKind.AWAY, "1 node is away", 1),
        Cause(CauseKind.DRAINING, "3 nodes are draining", 3),
        Cause(CauseKind.DISTRUSTED, "2 nodes are not trusted enough", 2),
    ]


def test_nodes_that_may_not_have_it_are_counted_by_reason() -> None:
    fleet = fleet_of(n1=machine(), n2=machine())
    fleet.join(node_id="n3", account="alice", name="n3", capabilities=machine(slots=1))
    hold(fleet, "n3")
    not_own = Cause(
        CauseKind.NOT_OWN,
        "it costs nothing, so that it runs on nodes of alice alone: 2 nodes are somebody else's",
        2,
    )
    assert why(fleet, wants(only_account="alice")) == [
        Cause(CauseKind.FULL, "1 node is full", 1),
        not_own,
    ]
    assert why(fleet, wants(only_account="alice", least_trust=51)) == [
        not_own,
        Cause(CauseKind.DISTRUSTED, "it asks for a trust of 51: 1 node is trusted less", 1),
    ]


def test_why_no_node_could_ever_run_a_task_is_one_line() -> None:
    fleet = fleet_of(n1=machine(), n2=machine())
    fleet.set_trust("n2", 80)
    assert explain_impossible(wants(), fleet) == ""
    assert explain_impossible(wants(cpus=64, least_trust=80), fleet) == (
        "it asks for a trust of 80: 1 node is trusted less; 1 node has less than 64 CPUs"
    )
    fleet.set_connected("n1", False)
    fleet.set_connected("n2", False)
    assert explain_impossible(wants(cpus=64), fleet) == ""


def test_a_task_for_ones_own_nodes_says_so_where_none_of_them_is_there() -> None:
    text = (
        "it costs nothing, so that it runs on nodes of alice alone: none of them takes work now,"
        " and 1 node is somebody else's"
    )
    fleet = fleet_of(n1=machine())
    assert why(fleet, wants(only_account="alice")) == [Cause(CauseKind.NOT_OWN, text, 1)]


def test_full_nodes_are_counted() -> None:
    fleet = fleet_of(n1=machine(slots=1), n2=machine(slots=1))
    hold(fleet, "n1", "h1")
    hold(fleet, "n2", "h2")
    assert why(fleet) == [Cause(CauseKind.FULL, "2 nodes are full", 2)]


def test_a_node_that_has_too_little_free_is_told_from_one_that_is_full() -> None:
    fleet = fleet_of(n1=machine(cpus=4), n2=machine(slots=1))
    hold(fleet, "n1", "h1", needs=wants(cpus=3))
    hold(fleet, "n2", "h2")
    assert why(fleet, wants(cpus=2)) == [
        Cause(CauseKind.FULL, "1 node has less than 2 CPUs free", 1),
        Cause(CauseKind.FULL, "1 node is full", 1),
    ]


@pytest.mark.parametrize(
    ("given_needs", "then_text"),
    [
        (wants(memory_bytes=64 * GIB), "no node has 64G of memory (the largest has 16G)"),
        (wants(memory_bytes=16 * GIB + 1), "no node has 17179869185 of memory"),
        (wants(cpus=1.5 + 8), "no node has 9.5 CPUs (the largest has 8)"),
        (wants(gpus=2), "no node has 2 GPUs (the largest has 1)"),
        (wants(gpu_memory_bytes=GIB), "no node has 1G of GPU memory (the largest has 0)"),
        (wants(gpus=1, gpu_name="H100"), "no node has a GPU called H100"),
        (wants(location="Taipei"), "no node is in Taipei"),
        (wants(location="x\x1b[2J\n"), "no node is in x [2J"),
    ],
)
def test_what_no_node_has_is_named_with_the_most_that_there_is(
    given_needs: Requirements, then_text: str
) -> None:
    fleet = fleet_of(n1=machine(cpus=8), n2=machine(gpus=1, gpu_name="A100", location="Oslo"))
    [cause] = why(fleet, given_needs)
    assert (cause.kind, cause.count) == (CauseKind.TOO_SMALL, 2)
    assert cause.text.startswith(then_text)


def test_nodes_that_will_never_do_come_after_those_that_might() -> None:
    fleet = fleet_of(
        n1=machine(slots=1, memory_bytes=64 * GIB),
        n2=machine(),
        n3=machine(location="Oslo"),
    )
    hold(fleet, "n1")
    assert why(fleet, wants(memory_bytes=32 * GIB)) == [
        Cause(CauseKind.FULL, "1 node is full", 1),
        Cause(CauseKind.TOO_SMALL, "2 nodes have less than 32G of memory", 2),
    ]
    assert why(fleet, wants(location="Oslo", memory_bytes=GIB)) == [
        Cause(CauseKind.TURN, "its turn comes with the next plan", 1),
        Cause(CauseKind.TOO_SMALL, "2 nodes are not in Oslo", 2),
    ]


def test_a_refusal_is_told_in_the_nodes_words() -> None:
    queue, fleet = woken(WAITING), fleet_of(n1=machine())
    queue.bar("t", "n1", until=None, detail="node n1 refused it: policy gpu is not here")
    explanation = explain(WAITING, fleet, queue, 0.0)
    assert explanation.headline == "node n1 refused it: policy gpu is not here"
    assert explanation.causes[0].kind is CauseKind.BARRED


def test_a_bar_without_a_word_is_told_all_the_same() -> None:
    queue = woken(WAITING)
    queue.bar("t", "n1", until=None)
    headline = explain(WAITING, fleet_of(n1=machine()), queue, 0.0).headline
    assert headline == "node n1 must not have it for now"


def test_a_bar_that_is_over_is_no_cause() -> None:
    queue, fleet = woken(WAITING), fleet_of(n1=machine())
    queue.bar("t", "n1", until=10.0, detail="no free slot")
    assert explain(WAITING, fleet, queue, 9.0).causes[0].kind is CauseKind.BARRED
    assert explain(WAITING, fleet, queue, 10.0).causes[0].kind is CauseKind.TURN


def test_backing_off_is_told_with_what_is_left_of_it_and_why() -> None:
    queue = TaskQueue()
    task = attrs.evolve(WAITING, reason=Reason.EXITED, detail="exit status 3")
    queue.add(task, ready_at=10.0)
    explanation = explain(task, fleet_of(n1=machine()), queue, 7.5)
    assert explanation.headline == "backing off for 3 s after a failure: exit status 3"
    assert [cause.kind for cause in explanation.causes] == [CauseKind.BACKOFF]


def test_the_tasks_ahead_are_those_of_the_same_account() -> None:
    mine = [queued(f"m{n}", submitted_at=n) for n in range(4)]
    others = [queued(f"o{n}", "bob") for n in range(9)]
    queue = woken(WAITING, *mine, *others)
    explanation = explain(WAITING, fleet_of(n1=machine()), queue, 0.0)
    assert explanation.causes == (Cause(CauseKind.BEHIND, "behind 4 others of your account", 4),)


def test_a_long_queue_is_not_counted_to_its_end() -> None:
    queue = woken(WAITING, *(queued(f"m{n}") for n in range(COUNTED_AHEAD + 5)))
    explanation = explain(WAITING, fleet_of(n1=machine()), queue, 0.0)
    assert explanation.headline == "behind 1000 or more others of your account"


def test_a_node_kept_free_is_told_to_the_one_it_is_for_and_to_the_one_it_is_not_for() -> None:
    fleet = fleet_of(n1=machine(cpus=4))
    hold(fleet, "n1")
    big, small = queued("big", needs=wants(cpus=4)), queued("small", "bob", submitted_at=1)
    queue = queue_of(big, small)
    assert plan(queue, fleet, 60.0, 10) == ()
    assert [cause.text for cause in explain(big, fleet, queue, 60.0).causes] == [
        "1 node has less than 4 CPUs free",
        "it has waited longest for room: a node is being kept free for it",
    ]
    assert explain(small, fleet, queue, 60.0).headline == (
        "a node is being kept free for a task that has waited longer"
    )


def test_a_task_that_is_not_in_the_queue_yet_is_explained_by_the_fleet_alone() -> None:
    explanation = explain(WAITING, fleet_of(n1=machine()), TaskQueue(), 0.0)
    assert explanation.headline == "its turn comes with the next plan"
