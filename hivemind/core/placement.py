"""Who runs next, and where: a plan from the queue and the fleet, changing neither.

**Order.** Of all ready tasks that fit somewhere now, the next is one of the account whose dominant
share of the fleet (``Fleet.share_of``, with what this plan gives it) is least; then the one of
highest priority; then the oldest, by submission and by id. So a newcomer's task runs before the
hundredth of somebody who fills the pool, and a priority only orders tasks of accounts that are
level, one's own above all.

**Node.** A node may have a task if it is trusted as far as the task asks, and is its owner's where
the task is for those alone; one below ``LEAST_TRUST`` gets nothing. Of the nodes that can take
it, those that are trusted little come last, however well it would fit there. Then, for a task
without GPUs, those with the fewest idle GPUs; then the tightest fit: where the fewest tasks of the
very same needs would fit, which keeps large holes for large tasks. Then the least loaded, then the
most trusted, then by id.

**A large task does not starve.** One that some node could run, and that has been ready for
``claim_after_s`` without fitting anywhere, becomes the claimant, one at a time in the whole pool.
From then on the node that is closest to having room for it gets nothing else, and the claimant runs
there, or anywhere else, as soon as it fits. Since nothing is added to that node, the distance to
the closest node can only shrink.

**Cost.** What no empty node could run is parked until the fleet changes. What does not fit now is
looked at once per distinct shape; an account with more than ``VAIN_LOOKS`` distinct shapes that do
not fit now waits with the rest of its line until the next plan. So a plan costs accounts that wait
+ placements * open nodes + distinct shapes, however many tasks there are.
"""

import heapq
from collections.abc import Collection, Iterator

import attrs

from hivemind.core.fleet import Fleet, NodeState
from hivemind.core.ordered import Key
from hivemind.core.queue import Group, Line, Shape, TaskQueue
from hivemind.core.resources import NOTHING, Amounts, has_labels, offered

VAIN_LOOKS = 64


@attrs.frozen
class Placement:
    """A task and the node that should have it."""

    task_id: str
    node_id: str


def plan(queue: TaskQueue, fleet: Fleet, now_mono: float, limit: int) -> tuple[Placement, ...]:
    """At most ``limit`` placements, in the order in which they should be made.

    The caller carries out what it commits (``TaskQueue.remove``, ``Fleet.reserve``); whatever it
    does not carry out is planned again next time.
    """
    return Planner(queue, fleet, now_mono).plan(limit)


class Planner:
    """One plan in the making; it counts its own work."""

    def __init__(self, queue: TaskQueue, fleet: Fleet, now: float) -> None:
        self._queue = queue
        self._fleet = fleet
        self._now = now
        self._rooms: dict[str, Amounts] = {}
        self._given: dict[str, Amounts] = {}
        self._unfit: set[Shape] = set()
        self._placements: list[Placement] = []
        self._placed: set[str] = set()
        self._kept_free = ""
        self.nodes_looked_at = 0
        self.groups_looked_at = 0

    def plan(self, limit: int) -> tuple[Placement, ...]:
        """The plan; to be called once."""
        self._queue.wake(self._now, self._fleet.membership)
        self._rooms = {node.id: node.room for node in self._fleet.open}
        if not self._rooms or limit < 1:
            return ()
        self._serve_claimant()
        cursors = [_Cursor(self._queue, line) for line in self._queue.lines]
        accounts = [
            (self._share(cursor.account), first[0], cursor)
            for cursor in cursors
            if (first := cursor.candidate(self._placed)) is not None
        ]
        heapq.heapify(accounts)
        while accounts and self._rooms and len(self._placements) < limit:
            _, _, cursor = heapq.heappop(accounts)
            self._serve(cursor)
            following = cursor.candidate(self._placed)
            if following is not None and cursor.vain_looks < VAIN_LOOKS:
                heapq.heappush(accounts, (self._share(cursor.account), following[0], cursor))
        return tuple(self._placements)

    def _serve(self, cursor: "_Cursor") -> None:
        """Place the account's best task, or leave all that are like it out of this plan."""
        candidate = cursor.candidate(self._placed)
        if candidate is None:
            return
        _, task_id, group = candidate
        node_id = self._choose(group.shape)
        if node_id is not None:
            self._give(task_id, group, node_id)
            return
        cursor.leave_out()
        if not self._is_possible(group.shape):
            self._queue.park(group)
        elif self._queue.claimant is None and self._is_overdue(task_id):
            self._queue.claimant = task_id
            self._keep_a_node_free(group.shape)

    def _serve_claimant(self) -> None:
        """Let the claimant run if it fits anywhere, else keep the closest node free for it."""
        task_id = self._queue.claimant
        if task_id is None:
            return
        group = self._queue.waiting(task_id).group
        if group is None or not self._is_possible(group.shape):
            self._queue.claimant = None
            return
        node_id = self._choose(group.shape)
        if node_id is not None:
            self._give(task_id, group, node_id)
        else:
            self._keep_a_node_free(group.shape)

    def _choose(self, shape: Shape) -> str | None:
        """The best node that has room for the shape; None if no node has."""
        if shape in self._unfit:
            return None
        best: tuple[bool, int, int, float, int, str] | None = None
        for node_id, room in self._rooms.items():
            self.nodes_looked_at += 1
            node = self._fleet.nodes[node_id]
            if not shape.need.within(room) or not self._may_run(shape, node):
                continue
            score = (
                node.is_trusted_little,
                0 if shape.need.gpus else room.gpus,
                shape.need.times_in(room),
                1 - room.slots / node.capacity.slots,
                -node.effective_trust,
                node_id,
            )
            if best is None or score < best:
                best = score
        if best is None:
            self._unfit.add(shape)  # Rooms only shrink while a plan is made.
            return None
        return best[-1]

    def _give(self, task_id: str, group: Group, node_id: str) -> None:
        self._placements.append(Placement(task_id, node_id))
        self._placed.add(task_id)
        need = group.shape.need
        self._given[group.account] = self._given.get(group.account, NOTHING).plus(need)
        room = self._rooms[node_id].minus(need)
        if room.slots > 0:
            self._rooms[node_id] = room
        else:
            del self._rooms[node_id]

    def _keep_a_node_free(self, shape: Shape) -> None:
        """Give nothing more to the node that is closest to having room for the shape."""
        closest = min(
            (shape.need.shortage(self._rooms.get(node.id, node.room)), node.id)
            for node in self._fleet.schedulable
            if self._could_ever_run(shape, node)
        )
        self._rooms.pop(closest[1], None)

    def _is_possible(self, shape: Shape) -> bool:
        """Whether some node, if it were empty, could run the shape; remembered by the shape."""
        if shape.judged_at != self._fleet.membership:
            shape.judged_at = self._fleet.membership
            shape.is_possible = False
            for node in self._fleet.schedulable:
                self.nodes_looked_at += 1
                if self._could_ever_run(shape, node):
                    shape.is_possible = True
                    break
        return shape.is_possible

    def _could_ever_run(self, shape: Shape, node: NodeState) -> bool:
        return shape.need.within(offered(node.capacity)) and self._may_run(shape, node)

    def _may_run(self, shape: Shape, node: NodeState) -> bool:
        return (
            node.id not in shape.barred
            and node.takes(shape.requirements)
            and has_labels(shape.requirements, node.capacity)
            and node.may_have(shape.requirements)
        )

    def _is_overdue(self, task_id: str) -> bool:
        return self._queue.waiting(task_id).ready_at + self._queue.claim_after_s <= self._now

    def _share(self, account: str) -> float:
        given = self._given.get(account, NOTHING)
        return self._fleet.held_by(account).plus(given).dominant_share(self._fleet.total)


class _Cursor:
    """Goes through one account's ready tasks in order without taking them from the queue.

    A group is opened when its best task is due; from each open group the next task is at hand.
    """

    def __init__(self, queue: TaskQueue, line: Line) -> None:
        self.account = line.account
        self.vain_looks = 0
        self._queue = queue
        self._closed = line.groups.in_order()
        self._next_closed = next(self._closed, None)
        self._open: list[tuple[Key, str, Group, Iterator[str]]] = []

    def candidate(self, placed: Collection[str]) -> tuple[Key, str, Group] | None:
        """The best task that is not in ``placed``, and whose group was not left out."""
        while True:
            self._open_groups()
            if not self._open:
                return None
            rank, task_id, group, rest = self._open[0]
            if task_id not in placed:
                return rank, task_id, group
            heapq.heappop(self._open)
            self._push_next(group, rest)

    def leave_out(self) -> None:
        """Pass over the rest of the candidate's group."""
        heapq.heappop(self._open)
        self.vain_looks += 1

    def _open_groups(self) -> None:
        """Open groups until the best task of all that are closed is no better than an open one."""
        while self._next_closed is not None:
            group = self._next_closed
            head = group.ready.first()
            if self._open and head is not None and self._open[0][0] < self._queue.rank(head):
                return
            self._next_closed = next(self._closed, None)
            self._push_next(group, group.ready.in_order())

    def _push_next(self, group: Group, rest: Iterator[str]) -> None:
        task_id = next(rest, None)
        if task_id is not None:
            heapq.heappush(self._open, (self._queue.rank(task_id), task_id, group, rest))
