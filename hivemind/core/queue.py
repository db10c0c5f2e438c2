"""The index of waiting tasks that the reactor owns; ``placement`` reads it to decide who is next.

Tasks of one account that need the same and are barred from the same nodes are interchangeable as
far as nodes are concerned. They form a *group*, so that a thousand tasks that fit nowhere cost one
look. An account's groups form its *line*, ordered by their best task: highest priority first, then
the oldest. Tasks that must wait for a while (a backoff) are in no group until their time has come.

Instants here (``now``, ``ready_at``, ``until``) are seconds of a monotonic clock.
"""

import heapq
import math
from collections.abc import Collection

import attrs

from hivemind.core.errors import CoreError
from hivemind.core.ordered import Key, Ordered
from hivemind.core.records import Requirements, Task
from hivemind.core.resources import Amounts, needed

RETURNS_AT_ONCE = 500
"""Each takes some microseconds, in which nothing else runs, and an account may have parked as many
groups as it has tasks."""


class QueueError(CoreError):
    """The queue was asked for something that cannot be; nothing was changed."""


class AlreadyQueued(QueueError):
    """The task is in the queue already."""


class NotQueued(QueueError):
    """The task is not in the queue."""


@attrs.frozen
class Bar:
    """A node that must not be given some task."""

    node_id: str
    until: float | None
    """None: as long as the node stays in this session."""
    detail: str = ""
    """Why, in a sentence that names the node."""


@attrs.define(eq=False)
class Shape:
    """What tasks need, and which nodes they are barred from: all that placing them depends on."""

    requirements: Requirements
    barred: frozenset[str]
    need: Amounts
    uses: int = 0
    judged_at: int = -1
    """The fleet's membership when ``is_possible`` was found out."""
    is_possible: bool = False
    """Whether some node, if it were empty, could take it."""


@attrs.define(eq=False)
class Group:
    """An account's ready tasks of one shape, in order."""

    account: str
    shape: Shape
    ready: Ordered[str]
    is_parked: bool = False


@attrs.define(eq=False)
class Line:
    """An account's ready tasks: its groups, ordered by the first task of each."""

    account: str
    groups: Ordered[Group] = attrs.field(factory=Ordered)
    by_shape: dict[Shape, Group] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Waiting:
    """One task in the queue."""

    id: str
    account: str
    requirements: Requirements
    rank: Key
    """Smaller is sooner, within an account: priority, then age, then id."""
    ready_at: float
    group: Group | None = None
    """None until ``ready_at`` has come."""


class TaskQueue:
    """Queued tasks by account, shape, priority and age.

    Every operation takes O(log n) amortised; none looks at all tasks.
    """

    def __init__(self, *, claim_after_s: float = 60.0) -> None:
        """
        Args:
            claim_after_s: how long a task that some node could run waits for room before a node is
                kept free for it (see ``placement``).
        """  # noqa: D212
        self.claim_after_s = claim_after_s
        self.claimant: str | None = None
        """The task for which a node is being kept free. A hint of ``placement``'s, not state."""
        self._waiting: dict[str, Waiting] = {}
        self._lines: dict[str, Line] = {}
        self._shapes: dict[tuple[Requirements, frozenset[str]], Shape] = {}
        self._delayed: Ordered[str] = Ordered()
        self._parked: set[Group] = set()
        self._returning: set[Group] = set()
        """Parked ones that the fleet's change lets try again, and that are not back yet."""
        self._parked_at = -1
        self._bars: dict[str, dict[str, Bar]] = {}
        self._barred_from: dict[str, set[str]] = {}
        self._bar_ends: list[tuple[float, str, str]] = []

    # --- tasks ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._waiting

    def add(self, task: Task, ready_at: float) -> None:
        """Let a task wait for a node, not to be placed before ``ready_at``.

        Raises:
            AlreadyQueued: it waits already.
        """
        if task.id in self._waiting:
            raise AlreadyQueued(f"task {task.id} is in the queue already")
        self._waiting[task.id] = Waiting(
            id=task.id,
            account=task.account,
            requirements=task.requirements,
            rank=(-task.priority, task.submitted_at, task.id),
            ready_at=ready_at,
        )
        self._delayed.put(task.id, (ready_at,))

    def remove(self, task_id: str) -> None:
        """Take a task out: it was assigned, or ended. Its bars stay until ``forget``.

        Raises:
            NotQueued: it is not in the queue.
        """
        waiting = self.waiting(task_id)
        del self._waiting[task_id]
        self._delayed.discard(task_id)
        self._leave_group(waiting)
        if self.claimant == task_id:
            self.claimant = None

    def waiting(self, task_id: str) -> Waiting:
        """The queue's own entry for a task, to be read. Raises ``NotQueued``."""
        try:
            return self._waiting[task_id]
        except KeyError:
            raise NotQueued(f"task {task_id} is not in the queue") from None

    def next_wake(self) -> float | None:
        """When a delayed task becomes ready or a bar ends, whichever is first; None: never. At once
        while parked groups are returning.
        """
        if self._returning:
            return -math.inf
        first = self._delayed.first()
        instants = [] if first is None else [self._waiting[first].ready_at]
        if self._bar_ends:
            instants.append(self._bar_ends[0][0])
        return min(instants, default=None)

    # --- bars -------------------------------------------------------------------------------

    def bar(self, task_id: str, node_id: str, until: float | None, detail: str = "") -> None:
        """Do not place the task on the node until ``until``; None: as long as the node stays.

        The task need not be in the queue now. Of two bars for a pair the longer one counts.
        """
        bars = self._bars.setdefault(task_id, {})
        old = bars.get(node_id)
        if old is not None and (old.until is None or (until is not None and until <= old.until)):
            return
        bars[node_id] = Bar(node_id, until, detail)
        self._barred_from.setdefault(node_id, set()).add(task_id)
        if until is not None:
            heapq.heappush(self._bar_ends, (until, task_id, node_id))
        self._regroup(task_id)

    def bars_of(self, task_id: str) -> tuple[Bar, ...]:
        """The nodes that must not be given the task. What ended is dropped by ``wake``."""
        return tuple(self._bars.get(task_id, {}).values())

    def lift_bars(self, node_id: str) -> None:
        """The node left, or came anew and may think otherwise: no task is barred from it."""
        for task_id in self._barred_from.pop(node_id, set()):
            self._drop_bar(task_id, node_id)

    def forget(self, task_id: str) -> None:
        """The task has ended: drop its bars."""
        for node_id in self._bars.pop(task_id, {}):
            self._unlink_bar(task_id, node_id)
        self._regroup(task_id)

    def _drop_bar(self, task_id: str, node_id: str) -> None:
        bars = self._bars[task_id]
        del bars[node_id]
        if not bars:
            del self._bars[task_id]
        self._unlink_bar(task_id, node_id)
        self._regroup(task_id)

    def _unlink_bar(self, task_id: str, node_id: str) -> None:
        barred = self._barred_from.get(node_id)
        if barred is not None:
            barred.discard(task_id)
            if not barred:
                del self._barred_from[node_id]

    # --- for placement and explain ------------------------------------------------------------

    def wake(self, now: float, membership: int) -> None:
        """Bring what ``placement`` reads up to date: delayed tasks whose time has come join their
        groups, bars that ended are dropped, and parked groups return if the fleet has changed,
        ``RETURNS_AT_ONCE`` at a time.
        """
        while (task_id := self._delayed.first()) is not None:
            waiting = self._waiting[task_id]
            if waiting.ready_at > now:
                break
            self._delayed.discard(task_id)
            self._join_group(waiting)
        while self._bar_ends and self._bar_ends[0][0] <= now:
            until, task_id, node_id = heapq.heappop(self._bar_ends)
            bar = self._bars.get(task_id, {}).get(node_id)
            if bar is not None and bar.until == until:
                self._drop_bar(task_id, node_id)
        if membership != self._parked_at:
            self._parked_at = membership
            if self._parked:
                self._returning.update(self._parked)
                self._parked = set()
        for _ in range(min(RETURNS_AT_ONCE, len(self._returning))):
            group = self._returning.pop()
            group.is_parked = False
            self._place_in_line(group)

    @property
    def lines(self) -> Collection[Line]:
        """The accounts that have ready tasks, parked ones included; a live view."""
        return self._lines.values()

    def line_of(self, account: str) -> Line | None:
        """One account's ready tasks; None if it has none."""
        return self._lines.get(account)

    def rank(self, task_id: str) -> Key:
        """Where the task stands within its account; smaller is sooner. Raises ``NotQueued``."""
        return self.waiting(task_id).rank

    def park(self, group: Group) -> None:
        """No node could ever run the group: leave it out of its line until the fleet changes."""
        group.is_parked = True
        self._parked.add(group)
        self._lines[group.account].groups.discard(group)

    def ahead_of(self, task_id: str, most: int) -> int:
        """How many ready tasks of the same account come before this one, counted up to ``most``.

        Parked ones do not count: they keep nobody waiting. Costs no more than what is counted.
        """
        rank = self.rank(task_id)
        line = self._lines.get(self.waiting(task_id).account)
        count = 0
        for group in line.groups.in_order() if line is not None else ():
            before = count
            for other in group.ready.in_order():
                if count >= most or self.rank(other) >= rank:
                    break
                count += 1
            if count == before:  # So has every group after this one.
                break
        return count

    # --- groups and lines ---------------------------------------------------------------------

    def _join_group(self, waiting: Waiting) -> None:
        barred = frozenset(self._bars.get(waiting.id, ()))
        shape = self._shapes.get((waiting.requirements, barred))
        if shape is None:
            shape = Shape(waiting.requirements, barred, needed(waiting.requirements))
            self._shapes[waiting.requirements, barred] = shape
        line = self._lines.get(waiting.account)
        if line is None:
            line = self._lines[waiting.account] = Line(waiting.account)
        group = line.by_shape.get(shape)
        if group is None:
            group = line.by_shape[shape] = Group(waiting.account, shape, Ordered())
            shape.uses += 1
        group.ready.put(waiting.id, waiting.rank)
        waiting.group = group
        self._place_in_line(group)

    def _leave_group(self, waiting: Waiting) -> None:
        group, waiting.group = waiting.group, None
        if group is None:
            return
        group.ready.discard(waiting.id)
        self._place_in_line(group)

    def _place_in_line(self, group: Group) -> None:
        """Let the line know of the group's best task, and drop what has become empty."""
        line = self._lines[group.account]
        head = group.ready.first()
        if head is not None:
            if not group.is_parked:
                line.groups.put(group, self._waiting[head].rank)
            return
        line.groups.discard(group)
        self._parked.discard(group)
        self._returning.discard(group)
        shape = group.shape
        del line.by_shape[shape]
        if not line.by_shape:
            del self._lines[group.account]
        shape.uses -= 1
        if not shape.uses:
            del self._shapes[shape.requirements, shape.barred]

    def _regroup(self, task_id: str) -> None:
        waiting = self._waiting.get(task_id)
        if waiting is not None and waiting.group is not None:
            self._leave_group(waiting)
            self._join_group(waiting)
