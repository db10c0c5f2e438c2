from collections.abc import Callable, Iterable

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hivemind.core.fleet import (
    Fleet,
    NoRoom,
    Reservation,
    ReservationError,
    UnknownNode,
    free_capacity,
    largest,
)
from hivemind.core.records import Capabilities, Requirements
from hivemind.core.resources import NOTHING, Amounts, needed, offered
from tests.core.builders import GIB, fleet_of, hold, machine, wants


def test_a_node_that_joins_is_open_for_work() -> None:
    fleet = fleet_of(n1=machine(slots=2))
    assert [node.id for node in fleet.open] == ["n1"]
    assert fleet.node("n1").room == offered(machine(slots=2).capacity)


def test_a_reservation_takes_from_the_node_and_a_release_gives_it_back() -> None:
    fleet = fleet_of(n1=machine(cpus=4, memory_bytes=8 * GIB))
    before = fleet.node("n1")
    hold(fleet, "n1", "t1", needs=wants(cpus=3, memory_bytes=GIB))
    assert fleet.node("n1").running == 1
    assert free_capacity(fleet.node("n1")).cpu_millis == 1000
    assert free_capacity(fleet.node("n1")).memory_bytes == 7 * GIB
    fleet.release("t1", 1)
    assert fleet.node("n1") == before


def test_a_node_never_gives_more_than_it_has() -> None:
    fleet = fleet_of(n1=machine(cpus=4))
    hold(fleet, "n1", "t1", needs=wants(cpus=3))
    with pytest.raises(NoRoom, match="node n1 has no room for attempt 1 of task t2"):
        hold(fleet, "n1", "t2", needs=wants(cpus=2))
    assert fleet.node("n1").running == 1


def test_releasing_twice_is_an_error() -> None:
    fleet = fleet_of(n1=machine())
    hold(fleet, "n1", "t1")
    fleet.release("t1", 1)
    with pytest.raises(ReservationError, match="attempt 1 of task t1 has no reservation"):
        fleet.release("t1", 1)
    assert fleet.node("n1").reserved == NOTHING


def test_reserving_twice_for_an_attempt_is_an_error_even_on_another_node() -> None:
    fleet = fleet_of(n1=machine(), n2=machine())
    hold(fleet, "n1", "t1")
    with pytest.raises(ReservationError):
        hold(fleet, "n2", "t1")
    assert fleet.node("n2").reserved == NOTHING


def test_reserving_of_a_node_that_is_not_here_is_an_error() -> None:
    with pytest.raises(UnknownNode):
        hold(Fleet(), "n1")


def test_a_full_node_is_not_open() -> None:
    fleet = fleet_of(n1=machine(slots=1), n2=machine(slots=1))
    hold(fleet, "n1")
    assert [node.id for node in fleet.open] == ["n2"]
    assert {node.id for node in fleet.schedulable} == {"n1", "n2"}


@pytest.mark.parametrize(
    "close",
    [
        lambda fleet: fleet.set_connected("n1", False),
        lambda fleet: fleet.set_draining("n1", True),
        lambda fleet: fleet.set_trust("n1", 9),
        lambda fleet: fleet.leave("n1"),
    ],
)
def test_a_node_that_is_away_draining_or_distrusted_gets_no_work(
    close: Callable[[Fleet], object],
) -> None:
    fleet = fleet_of(n1=machine())
    before = fleet.membership
    close(fleet)
    assert not fleet.open
    assert not fleet.schedulable
    assert fleet.total == NOTHING
    assert fleet.membership != before


def test_a_reservation_outlives_its_nodes_absence() -> None:
    fleet = fleet_of(n1=machine())
    kept = hold(fleet, "n1", "t1")
    fleet.leave("n1")
    assert fleet.reservations_on("n1") == (kept,)
    back = fleet.join(node_id="n1", account="owner", name="n1", capabilities=machine())
    assert back.running == 1
    fleet.release("t1", 1)
    assert fleet.node("n1").running == 0


def test_a_reservation_read_from_the_store_awaits_its_node() -> None:
    fleet = Fleet()
    fleet.adopt(
        Reservation(task_id="t", attempt=3, account="a", node_id="n1", requirements=wants(cpus=9))
    )
    back = fleet.join(node_id="n1", account="o", name="n1", capabilities=machine(cpus=4))
    assert back.room.cpu_millis == -5000
    with pytest.raises(NoRoom):
        hold(fleet, "n1", "other")


def test_an_accounts_share_is_that_of_the_resource_it_holds_most_of() -> None:
    fleet = fleet_of(n1=machine(slots=10, cpus=10, memory_bytes=10 * GIB))
    hold(fleet, "n1", "t1", account="alice", needs=wants(cpus=2, memory_bytes=5 * GIB))
    assert fleet.share_of("alice") == 0.5
    assert fleet.share_of("bob") == 0.0


def test_the_largest_is_item_by_item() -> None:
    fleet = fleet_of(n1=machine(cpus=8, memory_bytes=GIB), n2=machine(cpus=2, memory_bytes=9 * GIB))
    assert largest(fleet.nodes.values()) == Amounts(4, 8000, 9 * GIB)
    assert largest([]) == NOTHING


NODE_IDS = st.sampled_from(["n1", "n2", "n3"])
MACHINES = st.builds(
    machine,
    slots=st.integers(min_value=0, max_value=3),
    cpus=st.integers(min_value=1, max_value=4),
    gpus=st.integers(min_value=0, max_value=1),
)
NEEDS = st.builds(
    wants, cpus=st.integers(min_value=1, max_value=3), gpus=st.integers(min_value=0, max_value=1)
)


class FleetLife(RuleBasedStateMachine):
    """Nodes come and go while attempts take and give back; a plain list keeps the books."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.books: list[Reservation] = []
        self.serial = 0

    @rule(node_id=NODE_IDS, capabilities=MACHINES)
    def join(self, node_id: str, capabilities: Capabilities) -> None:
        self.fleet.join(
            node_id=node_id,
            account="o",
            name=node_id,
            capabilities=capabilities,
        )

    @rule(node_id=NODE_IDS, what=st.sampled_from(["leave", "away", "back", "drain", "distrust"]))
    def change(self, node_id: str, what: str) -> None:
        if node_id not in self.fleet:
            with pytest.raises(UnknownNode):
                self.fleet.leave(node_id)
            return
        if what == "leave":
            self.fleet.leave(node_id)
        elif what == "drain":
            self.fleet.set_draining(node_id, not self.fleet.node(node_id).draining)
        elif what == "distrust":
            self.fleet.set_trust(node_id, 59 - self.fleet.node(node_id).trust)
        else:
            self.fleet.set_connected(node_id, what == "back")

    @rule(node_id=NODE_IDS, account=st.sampled_from(["a", "b"]), needs=NEEDS, adopt=st.booleans())
    def take(self, node_id: str, account: str, needs: Requirements, adopt: bool) -> None:
        self.serial += 1
        reservation = Reservation(
            task_id=f"t{self.serial}",
            attempt=1,
            account=account,
            node_id=node_id,
            requirements=needs,
        )
        if adopt:
            self.fleet.adopt(reservation)
        else:
            known = self.fleet.nodes.get(node_id)
            if known is None or not needed(needs).within(known.room):
                with pytest.raises((UnknownNode, NoRoom)):
                    self.fleet.reserve(reservation)
                return
            self.fleet.reserve(reservation)
        self.books.append(reservation)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.books:
            reservation = data.draw(st.sampled_from(self.books))
            self.books.remove(reservation)
            assert self.fleet.release(reservation.task_id, 1) == reservation
            with pytest.raises(ReservationError):
                self.fleet.release(reservation.task_id, 1)

    @invariant()
    def every_index_agrees_with_the_books(self) -> None:
        fleet = self.fleet
        for node in fleet.nodes.values():
            here = [kept for kept in self.books if kept.node_id == node.id]
            assert node.reserved == _sum(needed(kept.requirements) for kept in here)
            assert sorted(map(str, fleet.reservations_on(node.id))) == sorted(map(str, here))
        for account in ("a", "b"):
            mine = (needed(kept.requirements) for kept in self.books if kept.account == account)
            assert fleet.held_by(account) == _sum(mine)
        able = [node for node in fleet.nodes.values() if node.is_schedulable]
        assert sorted(able, key=str) == sorted(fleet.schedulable, key=str)
        assert sorted((n for n in able if n.has_free_slot), key=str) == sorted(fleet.open, key=str)
        assert fleet.total == _sum(offered(node.capacity) for node in able)

    def teardown(self) -> None:
        for reservation in self.books:
            self.fleet.release(reservation.task_id, 1)
        assert all(node.reserved == NOTHING for node in self.fleet.nodes.values())
        assert self.fleet.held_by("a") == self.fleet.held_by("b") == NOTHING


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    total = NOTHING
    for each in amounts:
        total = total.plus(each)
    return total


FleetLife.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, derandomize=True, deadline=None
)
TestFleetLife = FleetLife.TestCase


def test_a_snapshot_of_a_node_does_not_change_when_the_fleet_does() -> None:
    fleet = fleet_of(n1=machine())
    before = fleet.node("n1")
    copy = attrs.evolve(before)
    hold(fleet, "n1")
    assert before == copy
