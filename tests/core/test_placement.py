"""What a plan must be, in examples, against a naive planner, and in what it costs."""

import gc
import sys
from types import FrameType
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from hivemind.core.fleet import Fleet
from hivemind.core.placement import VAIN_LOOKS, Placement, Planner, plan
from hivemind.core.queue import TaskQueue
from hivemind.core.records import Requirements
from tests.core.builders import (
    GIB,
    MIB,
    carry_out,
    fleet_of,
    hold,
    machine,
    queue_of,
    queued,
    wants,
)
from tests.core.naive_plan import NaiveTask, naive_plan


def names(placements: tuple[Placement, ...]) -> list[str]:
    return [placement.task_id for placement in placements]


def place_of(placements: tuple[Placement, ...]) -> dict[str, str]:
    return {placement.task_id: placement.node_id for placement in placements}


# --- who is next ---------------------------------------------------------------------------------


def test_nothing_is_planned_without_nodes_room_or_leave() -> None:
    queue = queue_of(queued("t"))
    assert plan(queue, Fleet(), 0.0, 10) == ()
    full = fleet_of(n1=machine(slots=1))
    hold(full, "n1")
    assert plan(queue, full, 0.0, 10) == ()
    assert plan(queue, fleet_of(n1=machine()), 0.0, 0) == ()


def test_a_plan_changes_nothing_so_that_it_can_be_made_again() -> None:
    queue, fleet = queue_of(queued("a"), queued("b")), fleet_of(n1=machine())
    assert plan(queue, fleet, 0.0, 10) == plan(queue, fleet, 0.0, 10)
    assert len(queue) == 2
    assert fleet.node("n1").running == 0


def test_accounts_take_turns_however_many_tasks_one_of_them_has() -> None:
    greedy = [queued(f"g{n}", "greedy", submitted_at=n) for n in range(100)]
    queue = queue_of(*greedy, queued("m0", "modest", submitted_at=500))
    placed = plan(queue, fleet_of(n1=machine(slots=4)), 0.0, 10)
    assert names(placed) == ["g0", "m0", "g1", "g2"]


def test_whoever_holds_less_of_the_pool_is_next() -> None:
    fleet = fleet_of(n1=machine(slots=8, cpus=8))
    hold(fleet, "n1", account="greedy", needs=wants(cpus=4))
    queue = queue_of(
        *(queued(f"g{n}", "greedy", submitted_at=n, priority=9) for n in range(9)),
        *(queued(f"m{n}", "modest", submitted_at=50 + n) for n in range(9)),
    )
    assert names(plan(queue, fleet, 0.0, 3)) == ["m0", "m1", "m2"]


def test_between_accounts_that_are_level_the_priority_then_the_age_decides() -> None:
    queue = queue_of(
        queued("old", "alice", submitted_at=1),
        queued("young", "bob", submitted_at=2),
        queued("urgent", "carol", submitted_at=3, priority=1),
    )
    assert names(plan(queue, fleet_of(n1=machine()), 0.0, 10)) == ["urgent", "old", "young"]


def test_a_task_that_does_not_fit_now_lets_the_next_one_pass() -> None:
    fleet = fleet_of(n1=machine(cpus=4))
    hold(fleet, "n1", needs=wants(cpus=2))
    queue = queue_of(queued("big", needs=wants(cpus=4)), queued("small", submitted_at=1))
    assert names(plan(queue, fleet, 0.0, 10)) == ["small"]


def test_a_delayed_task_is_not_placed() -> None:
    queue, fleet = TaskQueue(), fleet_of(n1=machine())
    queue.add(queued("t"), ready_at=5.0)
    assert plan(queue, fleet, 4.9, 10) == ()
    assert names(plan(queue, fleet, 5.0, 10)) == ["t"]


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_nodes", "given_needs", "then_node"),
    [
        ({"n1": machine(cpus=8, slots=8), "n2": machine(cpus=2, slots=8)}, wants(), "n2"),
        ({"n1": machine(memory_bytes=GIB), "n2": machine()}, wants(memory_bytes=2 * GIB), "n2"),
        ({"n1": machine(gpus=1, slots=1), "n2": machine(slots=64, cpus=64)}, wants(), "n2"),
        ({"n1": machine(slots=1), "n2": machine(gpus=2)}, wants(gpus=1), "n2"),
        (
            {"n1": machine(gpus=1, gpu_name="A100"), "n2": machine(gpus=1, gpu_name="RTX 4090")},
            wants(gpus=1, gpu_name="4090"),
            "n2",
        ),
        ({"n1": machine(), "n2": machine(location="Taipei")}, wants(location="Taipei"), "n2"),
        ({"n2": machine(), "n1": machine()}, wants(), "n1"),
    ],
    ids=["tightest", "memory", "spares GPUs", "needs a GPU", "GPU's name", "location", "id"],
)
def test_the_node_is_one_that_fits_and_fits_tightest(
    given_nodes: dict[str, Any], given_needs: Requirements, then_node: str
) -> None:
    placed = plan(queue_of(queued("t", needs=given_needs)), fleet_of(**given_nodes), 0.0, 10)
    assert place_of(placed) == {"t": then_node}


def test_of_nodes_that_fit_alike_the_least_loaded_is_taken_then_the_most_trusted() -> None:
    fleet = fleet_of(n1=machine(cpus=2, slots=2), n2=machine(cpus=1, slots=2))
    hold(fleet, "n1")
    assert place_of(plan(queue_of(queued("t")), fleet, 0.0, 1)) == {"t": "n2"}
    level = fleet_of(n1=machine(), n2=machine())
    level.set_trust("n2", 80)
    assert place_of(plan(queue_of(queued("t")), level, 0.0, 1)) == {"t": "n2"}


@pytest.mark.parametrize(("trust", "gets"), [(9, 0), (10, 1)])
def test_a_node_trusted_less_than_ten_gets_nothing(trust: int, gets: int) -> None:
    fleet = fleet_of(n1=machine())
    fleet.set_trust("n1", trust)
    assert len(plan(queue_of(queued("t")), fleet, 0.0, 10)) == gets


def test_a_node_that_is_trusted_little_comes_last_however_tight_the_fit() -> None:
    large = machine(cpus=64, slots=64, gpus=2, memory_bytes=64 * GIB)
    fleet = fleet_of(n1=machine(cpus=1, slots=1), n2=large)
    fleet.set_trust("n1", 39)
    queue = queue_of(*(queued(f"t{n}", submitted_at=n) for n in range(65)))
    placed = place_of(plan(queue, fleet, 0.0, 100))
    assert [task for task, node in placed.items() if node == "n1"] == ["t64"]


def test_a_node_without_a_whole_sandbox_is_trusted_little() -> None:
    fleet = fleet_of(n1=machine(sandbox="disabled"), n2=machine(cpus=64, slots=64))
    fleet.set_trust("n1", 100)
    assert fleet.node("n1").effective_trust == 39
    assert place_of(plan(queue_of(queued("t")), fleet, 0.0, 1)) == {"t": "n2"}


def test_a_task_goes_only_where_it_may() -> None:
    fleet = fleet_of(n1=machine(), n2=machine())
    fleet.join(node_id="n3", account="alice", name="n3", capabilities=machine())
    fleet.set_trust("n2", 80)
    queue = queue_of(
        queued("mine", needs=wants(only_account="alice")),
        queued("safe", needs=wants(least_trust=80)),
        queued("both", needs=wants(only_account="alice", least_trust=80)),
    )
    assert place_of(plan(queue, fleet, 0.0, 10)) == {"mine": "n3", "safe": "n2"}
    # A trust that it gains lets it have what it was not trusted with.
    fleet.set_trust("n3", 80)
    assert place_of(plan(queue, fleet, 1.0, 10))["both"] == "n3"


def test_a_task_never_goes_to_a_node_it_is_barred_from_but_others_do() -> None:
    queue, fleet = queue_of(queued("a"), queued("b", submitted_at=1)), fleet_of(n1=machine())
    queue.bar("a", "n1", until=10.0)
    assert names(plan(queue, fleet, 0.0, 10)) == ["b"]
    assert names(plan(queue, fleet, 10.0, 10)) == ["a", "b"]


def test_a_task_that_no_node_could_run_is_placed_as_soon_as_one_that_can_joins() -> None:
    queue, fleet = queue_of(queued("t", needs=wants(cpus=64))), fleet_of(n1=machine())
    assert plan(queue, fleet, 0.0, 10) == ()
    fleet.join(node_id="n2", account="o", name="n2", capabilities=machine(cpus=64))
    assert place_of(plan(queue, fleet, 1.0, 10)) == {"t": "n2"}


# --- large tasks do not starve -------------------------------------------------------------------


def ticks_until_the_big_task_runs(claim_after_s: float) -> int | None:
    """A node of four CPUs, a task that needs all, and others of one CPU and three seconds, of which
    there is always one waiting. None: it did not run within 200 seconds.
    """
    fleet = fleet_of(n1=machine(slots=4, cpus=4))
    queue = TaskQueue(claim_after_s=claim_after_s)
    queue.add(queued("big", "alice", needs=wants(cpus=4)), ready_at=0.0)
    ends: list[tuple[int, str]] = []
    serial = 0
    for now in range(200):
        for due, task_id in [end for end in ends if end[0] <= now]:
            fleet.release(task_id, 1)
            ends.remove((due, task_id))
        while sum(waiting.startswith("s") for waiting in queue._waiting) < 4:
            serial += 1
            queue.add(queued(f"s{serial}", "bob", priority=1), ready_at=0.0)
        placed = plan(queue, fleet, float(now), 2)
        carry_out(queue, fleet, placed)
        ends += [(now + 3, task_id) for task_id in names(placed)]
        if "big" in names(placed):
            return now
    return None


def test_a_large_task_runs_although_small_ones_never_cease() -> None:
    assert ticks_until_the_big_task_runs(claim_after_s=float("inf")) is None
    assert ticks_until_the_big_task_runs(claim_after_s=20.0) in range(20, 26)


def test_only_the_node_closest_to_having_room_is_kept_free() -> None:
    fleet = fleet_of(n1=machine(cpus=4), n2=machine(cpus=4))
    hold(fleet, "n1", "h1", needs=wants(cpus=3))
    hold(fleet, "n2", "h2", needs=wants(cpus=2))
    queue = queue_of(
        queued("big", needs=wants(cpus=4)),
        *(queued(f"s{n}", submitted_at=1 + n) for n in range(9)),
    )
    assert place_of(plan(queue, fleet, 59.0, 10)) == {"s0": "n1", "s1": "n2", "s2": "n2"}
    assert place_of(plan(queue, fleet, 60.0, 10)) == {"s0": "n1"}
    fleet.release("h2", 1)
    assert place_of(plan(queue, fleet, 61.0, 10)) == {"big": "n2", "s0": "n1"}


def test_a_claim_ends_with_its_task() -> None:
    fleet = fleet_of(n1=machine(cpus=4))
    hold(fleet, "n1")
    queue = queue_of(queued("big", needs=wants(cpus=4)), queued("small", submitted_at=1))
    assert plan(queue, fleet, 60.0, 10) == ()
    queue.remove("big")
    assert names(plan(queue, fleet, 61.0, 10)) == ["small"]


def test_a_claim_ends_when_no_node_could_run_its_task_any_more() -> None:
    fleet = fleet_of(n1=machine(cpus=4), n2=machine(cpus=2))
    hold(fleet, "n1")
    hold(fleet, "n2", "other")
    queue = queue_of(queued("big", needs=wants(cpus=4)), queued("small", submitted_at=1))
    assert place_of(plan(queue, fleet, 60.0, 10)) == {"small": "n2"}
    fleet.leave("n1")
    assert place_of(plan(queue, fleet, 61.0, 10)) == {"small": "n2"}
    assert queue.claimant is None


# --- against a naive planner ---------------------------------------------------------------------

NODE_IDS = st.sampled_from(["n1", "n2", "n3"])
SMALL = st.integers(min_value=1, max_value=4)
NEEDS = st.builds(
    wants,
    cpus=SMALL,
    memory_bytes=st.sampled_from([GIB, 2 * GIB, 6 * GIB]),
    gpus=st.sampled_from([0, 0, 0, 1]),
    location=st.sampled_from(["", "", "here"]),
    only_account=st.sampled_from(["", "", "", "a"]),
    least_trust=st.sampled_from([0, 0, 0, 40, 80]),
)
MACHINES = st.builds(
    machine,
    slots=SMALL,
    cpus=st.integers(min_value=1, max_value=6),
    memory_bytes=st.sampled_from([4 * GIB, 8 * GIB]),
    gpus=st.sampled_from([0, 1]),
    location=st.sampled_from(["", "here"]),
    sandbox=st.sampled_from(["enabled", "enabled", "disabled"]),
)


class PlanLife(RuleBasedStateMachine):
    """A pool's life; every plan must be the one that the naive planner makes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TaskQueue(claim_after_s=20.0)
        self.fleet = Fleet()
        self.now = 0.0
        self.serial = 0
        self.tasks: dict[str, NaiveTask] = {}
        self.claimant: str | None = None
        self.running: list[str] = []

    @rule(
        account=st.sampled_from(["a", "b", "c"]),
        priority=st.sampled_from([0, 0, 1]),
        needs=NEEDS,
        delay_s=st.sampled_from([0.0, 0.0, 7.0]),
    )
    def add(self, account: str, priority: int, needs: Requirements, delay_s: float) -> None:
        self.serial += 1
        # Submitted at equal instants now and then, so that the id must decide.
        task = queued(
            f"t{self.serial:03}",
            account,
            priority=priority,
            submitted_at=self.serial // 2,
            needs=needs,
        )
        self.queue.add(task, self.now + delay_s)
        self.tasks[task.id] = NaiveTask(task, self.now + delay_s)

    @rule(data=st.data())
    @precondition(lambda self: self.tasks)
    def remove(self, data: st.DataObject) -> None:
        self._forget(data.draw(st.sampled_from(sorted(self.tasks))))

    @rule(data=st.data(), node_id=NODE_IDS, for_s=st.sampled_from([5.0, None]))
    @precondition(lambda self: self.tasks)
    def bar(self, data: st.DataObject, node_id: str, for_s: float | None) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        until = None if for_s is None else self.now + for_s
        self.queue.bar(task_id, node_id, until)
        bars = self.tasks[task_id].bars
        if node_id not in bars or bars[node_id] is not None:
            bars[node_id] = until

    @rule(
        node_id=NODE_IDS,
        capabilities=MACHINES,
        trust=st.sampled_from([9, 39, 50, 80]),
        owner=st.sampled_from(["o", "a"]),
    )
    def join(self, node_id: str, capabilities: Any, trust: int, owner: str) -> None:
        self.fleet.join(
            node_id=node_id, account=owner, name=node_id, capabilities=capabilities, trust=trust
        )

    @rule(node_id=NODE_IDS, trust=st.sampled_from([9, 39, 50, 80]))
    def set_trust(self, node_id: str, trust: int) -> None:
        if node_id in self.fleet:
            self.fleet.set_trust(node_id, trust)

    @rule(node_id=NODE_IDS, draining=st.booleans())
    def drain(self, node_id: str, draining: bool) -> None:
        if node_id in self.fleet:
            self.fleet.set_draining(node_id, draining)

    @rule(node_id=NODE_IDS)
    def leave(self, node_id: str) -> None:
        if node_id in self.fleet:
            self.fleet.leave(node_id)
            self.queue.lift_bars(node_id)
            for task in self.tasks.values():
                task.bars.pop(node_id, None)

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def end(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(self.running))
        self.running.remove(task_id)
        self.fleet.release(task_id, 1)

    @rule(seconds=st.sampled_from([1.0, 6.0, 25.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(min_value=1, max_value=8), commits=st.booleans())
    def make_a_plan(self, limit: int, commits: bool) -> None:
        expected, self.claimant = naive_plan(
            list(self.tasks.values()), self.fleet, self.claimant, self.now, 20.0, limit
        )
        placed = plan(self.queue, self.fleet, self.now, limit)
        assert [(each.task_id, each.node_id) for each in placed] == expected
        assert self.queue.claimant == self.claimant
        if commits:
            carry_out(self.queue, self.fleet, placed)
            for placement in placed:
                self.running.append(placement.task_id)
                self._drop(placement.task_id)

    def _forget(self, task_id: str) -> None:
        self.queue.remove(task_id)
        self.queue.forget(task_id)
        self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        del self.tasks[task_id]
        if self.claimant == task_id:
            self.claimant = None

    def teardown(self) -> None:
        for task_id in list(self.tasks):
            self._forget(task_id)
        self.queue.wake(1e9, -1)
        assert (len(self.queue), list(self.queue.lines)) == (0, [])


PlanLife.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, derandomize=True, deadline=None
)
TestPlanLife = PlanLife.TestCase


# --- what it costs -------------------------------------------------------------------------------


def calls_made_by_a_plan(queue: TaskQueue, fleet: Fleet, now: float = 1.0) -> int:
    """How many Python functions one plan calls; the queue has been woken before."""
    plan(queue, fleet, now, 0)
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    # Else what earlier tests left to be collected could be finalized, by calls, within the plan.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        plan(queue, fleet, now, 50)
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def pool_of(slots: int, cpus: float) -> Fleet:
    return fleet_of(**{f"n{n}": machine(slots=slots, cpus=cpus) for n in range(8)})


def a_queue_of(count: int) -> TaskQueue:
    return queue_of(*(queued(f"t{n:06}", f"a{n % 5}", submitted_at=n) for n in range(count)))


@pytest.mark.parametrize(
    ("slots", "cpus"), [(0, 4), (4, 0.5), (4, 4)], ids=["full", "no CPU left", "room"]
)
def test_a_plan_costs_the_same_with_a_hundred_thousand_waiting_as_with_a_hundred(
    slots: int, cpus: float
) -> None:
    few = calls_made_by_a_plan(a_queue_of(100), pool_of(slots, cpus))
    many = calls_made_by_a_plan(a_queue_of(100_000), pool_of(slots, cpus))
    assert many == few


def test_a_full_fleet_costs_no_look_at_any_node() -> None:
    planner = Planner(a_queue_of(100), pool_of(slots=0, cpus=4), 1.0)
    assert planner.plan(50) == ()
    assert planner.nodes_looked_at == 0


def test_tasks_that_fit_nowhere_now_cost_one_look_per_distinct_need() -> None:
    fleet = pool_of(slots=4, cpus=4)
    for number in range(8):
        hold(fleet, f"n{number}", f"h{number}", needs=wants(cpus=2))
    tasks = [queued(f"t{n:04}", f"a{n % 5}", needs=wants(cpus=3 + n % 2)) for n in range(2000)]
    planner = Planner(queue_of(*tasks), fleet, 1.0)
    assert planner.plan(50) == ()
    looks_for_room, looks_for_hope = 2 * 8, 2
    assert planner.nodes_looked_at == looks_for_room + looks_for_hope


def test_an_account_with_countless_needs_that_do_not_fit_cannot_hold_up_the_others() -> None:
    fleet = fleet_of(n1=machine(slots=8, memory_bytes=16 * GIB))
    hold(fleet, "n1", needs=wants(memory_bytes=8 * GIB))
    odd = [
        queued(f"t{n:05}", "odd", needs=wants(memory_bytes=9 * GIB + n * MIB)) for n in range(5000)
    ]
    queue = queue_of(*odd, queued("fine", "bob", submitted_at=9))
    planner = Planner(queue, fleet, 1.0)
    assert names(planner.plan(50)) == ["fine"]
    assert planner.nodes_looked_at <= 2 * VAIN_LOOKS + 2


def test_how_many_distinct_needs_wait_behind_the_first_does_not_matter() -> None:
    def needing_all_sorts(count: int) -> TaskQueue:
        return queue_of(
            *(queued(f"t{n:05}", needs=wants(memory_bytes=GIB + n)) for n in range(count))
        )

    few = calls_made_by_a_plan(needing_all_sorts(50), fleet_of(n1=machine()))
    many = calls_made_by_a_plan(needing_all_sorts(5000), fleet_of(n1=machine()))
    assert many == few


def test_needs_that_no_node_meets_are_not_looked_at_again_and_stop_hiding_what_fits() -> None:
    fleet = fleet_of(n1=machine(slots=8))
    hopeless = [
        queued(f"t{n:05}", needs=wants(memory_bytes=99 * GIB + n * MIB)) for n in range(1000)
    ]
    queue = queue_of(*hopeless, queued("fine", submitted_at=9))
    plans = [plan(queue, fleet, 1.0, 50) for _ in range(1000 // VAIN_LOOKS + 1)]
    assert not any(plans[:-1])
    placed = plans[-1]
    assert names(placed) == ["fine"]
    carry_out(queue, fleet, placed)
    planner = Planner(queue, fleet, 1.0)
    assert planner.plan(50) == ()
    assert planner.nodes_looked_at == 0


def test_tasks_barred_from_the_only_open_node_cost_one_look() -> None:
    queue, fleet = a_queue_of(500), fleet_of(n1=machine(), n2=machine(slots=1))
    hold(fleet, "n2")
    for number in range(500):
        queue.bar(f"t{number:06}", "n1", until=None)
    planner = Planner(queue, fleet, 1.0)
    assert planner.plan(50) == ()
    assert planner.nodes_looked_at <= 3


def test_a_plan_of_many_placements_looks_at_each_open_node_once_for_each() -> None:
    planner = Planner(a_queue_of(200), pool_of(slots=16, cpus=16), 1.0)
    assert len(planner.plan(50)) == 50
    assert planner.nodes_looked_at <= 50 * 8


def test_records_of_a_plan_are_plain_values() -> None:
    assert attrs.asdict(Placement("t", "n")) == {"task_id": "t", "node_id": "n"}
