"""The planner as one would write it first: lists, full scans, the rules of ``placement`` in order.

Slow and plain; what the real one is held against.
"""

import attrs

from hivemind.core.fleet import Fleet, NodeState
from hivemind.core.records import Requirements, Task
from hivemind.core.trust import LEAST_TRUST


@attrs.define
class NaiveTask:
    task: Task
    ready_at: float
    bars: dict[str, float | None] = attrs.field(factory=dict)


@attrs.define
class NaiveRoom:
    slots: int
    cpu_millis: int
    memory_bytes: int
    gpus: int


def naive_plan(
    tasks: list[NaiveTask],
    fleet: Fleet,
    claimant: str | None,
    now: float,
    claim_after_s: float,
    limit: int,
) -> tuple[list[tuple[str, str]], str | None]:
    """The placements, and who claims a node afterwards."""
    for each in tasks:
        each.bars = {
            node: until for node, until in each.bars.items() if until is None or until > now
        }
    able = [
        node
        for node in fleet.nodes.values()
        if node.connected and not node.draining and node.effective_trust >= LEAST_TRUST
    ]
    rooms = {node.id: _room(fleet, node) for node in able}
    held: dict[str, list[Requirements]] = {}
    for node_id in ("n1", "n2", "n3"):
        for kept in fleet.reservations_on(node_id):
            held.setdefault(kept.account, []).append(kept.requirements)
    placed: list[tuple[str, str]] = []
    kept_free: set[str] = set()
    left_out: set[str] = set()
    by_id = {each.task.id: each for each in tasks}
    ready = [each for each in tasks if each.ready_at <= now]

    def candidates(each: NaiveTask) -> list[NodeState]:
        return [
            node
            for node in able
            if node.id not in kept_free
            and node.id not in each.bars
            and _allowed(each.task.requirements, node)
            and _within(each.task.requirements, rooms[node.id])
        ]

    def possible(each: NaiveTask) -> list[NodeState]:
        return [
            node
            for node in able
            if node.id not in each.bars
            and _allowed(each.task.requirements, node)
            and _within(each.task.requirements, _empty(node))
        ]

    def put(each: NaiveTask, nodes: list[NodeState]) -> None:
        needs = each.task.requirements
        node = min(nodes, key=lambda one: _score(needs, one, rooms[one.id]))
        room = rooms[node.id]
        room.slots -= 1
        room.cpu_millis -= needs.cpu_millis
        room.memory_bytes -= needs.memory_bytes + needs.scratch_bytes
        room.gpus -= needs.gpus
        held.setdefault(each.task.account, []).append(needs)
        placed.append((each.task.id, node.id))
        left_out.add(each.task.id)

    def keep_free(each: NaiveTask) -> None:
        needs = each.task.requirements
        kept_free.add(
            min(possible(each), key=lambda one: (_missing(needs, rooms[one.id]), one.id)).id
        )

    def share(account: str) -> float:
        mine = held.get(account, [])
        sums = [
            (len(mine), sum(node.capacity.slots for node in able)),
            (sum(n.cpu_millis for n in mine), sum(node.capacity.cpu_millis for node in able)),
            (
                sum(n.memory_bytes + n.scratch_bytes for n in mine),
                sum(node.capacity.memory_bytes for node in able),
            ),
            (sum(n.gpus for n in mine), sum(node.capacity.gpus for node in able)),
        ]
        return max((part / whole for part, whole in sums if whole), default=0.0)

    def any_room() -> bool:
        return any(rooms[node.id].slots > 0 for node in able if node.id not in kept_free)

    if not any_room():
        return [], claimant
    if claimant is not None:
        each = by_id[claimant]
        if each not in ready or not possible(each):
            claimant = None
        elif nodes := candidates(each):
            put(each, nodes)
        else:
            keep_free(each)
    while any_room() and len(placed) < limit:
        waiting = [each for each in ready if each.task.id not in left_out]
        if not waiting:
            break
        best = min(waiting, key=lambda each: (share(each.task.account), *_rank(each.task)))
        if nodes := candidates(best):
            put(best, nodes)
            continue
        left_out.update(each.task.id for each in waiting if _alike(each, best))
        overdue = best.ready_at + claim_after_s <= now
        if overdue and claimant is None and possible(best):
            claimant = best.task.id
            keep_free(best)
    return placed, claimant


def _alike(one: NaiveTask, other: NaiveTask) -> bool:
    return (
        one.task.account == other.task.account
        and one.task.requirements == other.task.requirements
        and set(one.bars) == set(other.bars)
    )


def _rank(task: Task) -> tuple[int, float, str]:
    return (-task.priority, task.submitted_at, task.id)


def _empty(node: NodeState) -> NaiveRoom:
    has = node.capacity
    return NaiveRoom(has.slots, has.cpu_millis, has.memory_bytes, has.gpus)


def _room(fleet: Fleet, node: NodeState) -> NaiveRoom:
    room = _empty(node)
    for kept in fleet.reservations_on(node.id):
        room.slots -= 1
        room.cpu_millis -= kept.requirements.cpu_millis
        room.memory_bytes -= kept.requirements.memory_bytes + kept.requirements.scratch_bytes
        room.gpus -= kept.requirements.gpus
    return room


def _pairs(needs: Requirements, room: NaiveRoom) -> list[tuple[int, int]]:
    pairs = [
        (1, room.slots),
        (needs.cpu_millis, room.cpu_millis),
        (needs.memory_bytes + needs.scratch_bytes, room.memory_bytes),
        (needs.gpus, room.gpus),
    ]
    return [(need, there) for need, there in pairs if need]


def _within(needs: Requirements, room: NaiveRoom) -> bool:
    return all(need <= there for need, there in _pairs(needs, room))


def _missing(needs: Requirements, room: NaiveRoom) -> float:
    return max((need - there) / need for need, there in _pairs(needs, room))


def _allowed(needs: Requirements, node: NodeState) -> bool:
    trust = node.trust if node.capabilities.sandbox == "enabled" else min(node.trust, 39)
    return (
        needs.location in {"", node.capacity.location}
        and needs.only_account in {"", node.account}
        and trust >= needs.least_trust
    )


def _score(
    needs: Requirements, node: NodeState, room: NaiveRoom
) -> tuple[bool, int, int, float, int, str]:
    idle_gpus = 0 if needs.gpus else room.gpus
    copies = min(there // need for need, there in _pairs(needs, room))
    load = 1 - room.slots / node.capacity.slots
    trust = node.trust if node.capabilities.sandbox == "enabled" else min(node.trust, 39)
    return (trust < 40, idle_gpus, copies, load, -trust, node.id)
