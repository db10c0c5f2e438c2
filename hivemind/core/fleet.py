"""The machines that are here, and what of them is reserved.

The reactor owns one ``Fleet`` and changes it as it publishes a turn. Every operation takes constant
time. A reservation belongs to an attempt; it outlives its node's link, and even its node, until it
is released, once.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import attrs

from hivemind.core.errors import CoreError
from hivemind.core.records import Capabilities, Capacity, Requirements
from hivemind.core.resources import NOTHING, Amounts, could_ever_fit, needed, offered
from hivemind.core.trust import LEAST_TRUST, TrustLevel, effective_trust


class FleetError(CoreError):
    """The fleet was asked for something that cannot be; nothing was changed."""


class UnknownNode(FleetError):
    """No such node is in the fleet."""


class NoRoom(FleetError):
    """The node has less free than was to be reserved."""


class ReservationError(FleetError):
    """An attempt's reservation was made twice, or released when there was none."""


@attrs.frozen(kw_only=True)
class Reservation:
    """What one attempt holds of one node."""

    task_id: str
    attempt: int
    account: str
    node_id: str
    requirements: Requirements


@attrs.frozen(kw_only=True)
class NodeState:
    """A node that is in the fleet, and how much of it is taken."""

    id: str
    account: str
    name: str
    capabilities: Capabilities
    reserved: Amounts = NOTHING
    trust: int = 50
    connected: bool = True
    draining: bool = False
    effective_trust: int = attrs.field(init=False)
    """What its trust counts as, given the isolation that it has."""

    @effective_trust.default
    def _count_trust(self) -> int:
        whole = self.capabilities.has_whole_sandbox
        return effective_trust(self.trust, has_whole_sandbox=whole)

    @property
    def capacity(self) -> Capacity:
        """What it has altogether."""
        return self.capabilities.capacity

    @property
    def running(self) -> int:
        """How many attempts hold a slot of it."""
        return self.reserved.slots

    @property
    def room(self) -> Amounts:
        """What is free; negative where it came back smaller than what it had taken on."""
        return offered(self.capacity).minus(self.reserved)

    @property
    def is_trusted_little(self) -> bool:
        """Whether others are to be given work first."""
        return self.effective_trust < TrustLevel.NORMAL

    @property
    def is_schedulable(self) -> bool:
        """Whether it may be given work at all, room permitting."""
        return self.connected and not self.draining and self.effective_trust >= LEAST_TRUST

    @property
    def has_free_slot(self) -> bool:
        """Whether it may be given work right now."""
        return self.is_schedulable and self.reserved.slots < self.capacity.slots

    def may_have(self, requirements: Requirements) -> bool:
        """Whether the task may come here, whatever there is room for: by owner and by trust."""
        return (
            not requirements.only_account or requirements.only_account == self.account
        ) and self.effective_trust >= requirements.least_trust

    def takes(self, requirements: Requirements) -> bool:
        """Whether it can give the task what is not counted: all that it needs to be told."""
        return requirements.pushable or not self.capabilities.is_pushed

    def could_ever_run(self, requirements: Requirements) -> bool:
        """Whether the task may come here, and would fit if nothing else ran."""
        return (
            self.may_have(requirements)
            and self.takes(requirements)
            and could_ever_fit(requirements, self.capacity)
        )


class Fleet:
    """The nodes by id, what each has free, and what each account holds of all of them."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self._schedulable: dict[str, NodeState] = {}
        self._open: dict[str, NodeState] = {}
        self._total = NOTHING
        self._reservations: dict[tuple[str, int], Reservation] = {}
        self._on_node: dict[str, dict[tuple[str, int], Reservation]] = {}
        self._held_of_node: dict[str, Amounts] = {}
        self._held_by_account: dict[str, Amounts] = {}
        self._membership = 0

    # --- nodes ------------------------------------------------------------------------------

    def join(
        self,
        *,
        node_id: str,
        account: str,
        name: str,
        capabilities: Capabilities,
        trust: int = 50,
        draining: bool = False,
    ) -> NodeState:
        """The node said hello: it is here, with these capabilities.

        One that was here before is replaced; what is reserved of it stays reserved, even where that
        is now more than it has.
        """
        state = NodeState(
            id=node_id,
            account=account,
            name=name,
            capabilities=capabilities,
            reserved=self._held_of_node.get(node_id, NOTHING),
            trust=trust,
            draining=draining,
        )
        self._put(state)
        return state

    def set_connected(self, node_id: str, connected: bool) -> NodeState:
        """The node's link broke, or is back; its reservations stay. Raises ``UnknownNode``."""
        return self._change(attrs.evolve(self.node(node_id), connected=connected))

    def set_draining(self, node_id: str, draining: bool) -> NodeState:
        """The node takes no new work, or does again. Raises ``UnknownNode``."""
        return self._change(attrs.evolve(self.node(node_id), draining=draining))

    def set_trust(self, node_id: str, trust: int) -> NodeState:
        """How far the node is trusted, 0 to 100. Raises ``UnknownNode``."""
        return self._change(attrs.evolve(self.node(node_id), trust=trust))

    def leave(self, node_id: str) -> NodeState:
        """The node is no longer in the fleet; reservations of it wait for their release.

        Raises:
            UnknownNode: it was not.
        """
        state = self.node(node_id)
        self._forget(state)
        self._membership += 1
        return state

    def node(self, node_id: str) -> NodeState:
        """The node as it is now. Raises ``UnknownNode``."""
        try:
            return self._nodes[node_id]
        except KeyError:
            raise UnknownNode(f"node {node_id} is not in the fleet") from None

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def nodes(self) -> Mapping[str, NodeState]:
        """All nodes by id; a live view."""
        return MappingProxyType(self._nodes)

    @property
    def schedulable(self) -> Collection[NodeState]:
        """The nodes that may be given work, full ones included; a live view."""
        return self._schedulable.values()

    @property
    def open(self) -> Collection[NodeState]:
        """The nodes that may be given work and have a free slot; a live view."""
        return self._open.values()

    @property
    def total(self) -> Amounts:
        """What all schedulable nodes have together."""
        return self._total

    @property
    def membership(self) -> int:
        """A number that changes whenever a task that fitted nowhere might fit an empty fleet."""
        return self._membership

    # --- reservations -----------------------------------------------------------------------

    def reserve(self, reservation: Reservation) -> None:
        """Take what an attempt needs from its node.

        Raises:
            UnknownNode: the node is not here.
            NoRoom: it has not enough left.
            ReservationError: the attempt has a reservation already.
        """
        state = self.node(reservation.node_id)
        if not needed(reservation.requirements).within(state.room):
            raise NoRoom(
                f"node {state.id} has no room for attempt {reservation.attempt} "
                f"of task {reservation.task_id}"
            )
        self.adopt(reservation)

    def adopt(self, reservation: Reservation) -> None:
        """Note a reservation that exists already: one read from the store at a start.

        Its node may not have joined yet, or may by now have less than it took on.

        Raises:
            ReservationError: the attempt has a reservation already.
        """
        key = (reservation.task_id, reservation.attempt)
        if key in self._reservations:
            raise ReservationError(f"attempt {key[1]} of task {key[0]} has a reservation already")
        self._reservations[key] = reservation
        self._on_node.setdefault(reservation.node_id, {})[key] = reservation
        self._hold(reservation, needed(reservation.requirements))

    def release(self, task_id: str, attempt: int) -> Reservation:
        """Give back what an attempt had taken.

        Raises:
            ReservationError: it has no reservation; in particular, if it was released before.
        """
        key = (task_id, attempt)
        reservation = self._reservations.pop(key, None)
        if reservation is None:
            raise ReservationError(f"attempt {attempt} of task {task_id} has no reservation")
        there = self._on_node[reservation.node_id]
        del there[key]
        if not there:
            del self._on_node[reservation.node_id]
        self._hold(reservation, NOTHING.minus(needed(reservation.requirements)))
        return reservation

    def reservation(self, task_id: str, attempt: int) -> Reservation | None:
        """What the attempt holds; None if nothing."""
        return self._reservations.get((task_id, attempt))

    def reservations_on(self, node_id: str) -> tuple[Reservation, ...]:
        """What is reserved of a node, in the order in which it was."""
        return tuple(self._on_node.get(node_id, {}).values())

    def held_by(self, account: str) -> Amounts:
        """What all the account's attempts hold together."""
        return self._held_by_account.get(account, NOTHING)

    def share_of(self, account: str) -> float:
        """The account's dominant share: its largest fraction of any one resource of the fleet."""
        return self.held_by(account).dominant_share(self._total)

    # --- the indexes ------------------------------------------------------------------------

    def _hold(self, reservation: Reservation, change: Amounts) -> None:
        _add(self._held_by_account, reservation.account, change)
        _add(self._held_of_node, reservation.node_id, change)
        state = self._nodes.get(reservation.node_id)
        if state is not None:
            held = self._held_of_node.get(state.id, NOTHING)
            self._index(attrs.evolve(state, reserved=held))

    def _change(self, state: NodeState) -> NodeState:
        self._put(state)
        return state

    def _put(self, state: NodeState) -> None:
        if state.id in self._nodes:
            self._forget(self._nodes[state.id])
        if state.is_schedulable:
            self._total = self._total.plus(offered(state.capacity))
        self._index(state)
        self._membership += 1

    def _forget(self, state: NodeState) -> None:
        if state.is_schedulable:
            self._total = self._total.minus(offered(state.capacity))
        del self._nodes[state.id]
        self._schedulable.pop(state.id, None)
        self._open.pop(state.id, None)

    def _index(self, state: NodeState) -> None:
        self._nodes[state.id] = state
        for index, belongs in (
            (self._schedulable, state.is_schedulable),
            (self._open, state.has_free_slot),
        ):
            if belongs:
                index[state.id] = state
            else:
                index.pop(state.id, None)


def _add(held: dict[str, Amounts], key: str, change: Amounts) -> None:
    total = held.get(key, NOTHING).plus(change)
    if total == NOTHING:
        held.pop(key, None)
    else:
        held[key] = total


def free_capacity(state: NodeState) -> Capacity:
    """What is free on a node, in the form in which capacities are compared and shown."""
    room = state.room
    return attrs.evolve(
        state.capacity,
        slots=room.slots,
        cpu_millis=room.cpu_millis,
        memory_bytes=room.memory_bytes,
        gpus=room.gpus,
        gpu_memory_bytes=room.gpu_memory_bytes,
    )


def largest(states: Iterable[NodeState]) -> Amounts:
    """The most of each thing that any one of the nodes has; nothing where there are none."""
    sizes = [offered(state.capacity) for state in states]
    if not sizes:
        return NOTHING
    return Amounts(
        max(size.slots for size in sizes),
        max(size.cpu_millis for size in sizes),
        max(size.memory_bytes for size in sizes),
        max(size.gpus for size in sizes),
        max(size.gpu_memory_bytes for size in sizes),
    )
