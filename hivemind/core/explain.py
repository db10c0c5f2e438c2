"""Why a task is not running yet, as data: one headline, and every cause with how often it applies.

Each node of the fleet is in exactly one cause, the first that holds of: it is away, it is not
trusted, it drains, it is another account's while the task is for its own account's nodes, it is
trusted less than the task asks, the task is barred from it, it is not told all that the task needs,
it could never run it, it has no room for it now.
Causes come in the order of what would help most; the first is the headline.
"""

import math
from collections.abc import Iterator

from hivemind.core import sizes
from hivemind.core.explanation import Cause, CauseKind, Explanation
from hivemind.core.fleet import Fleet, NodeState, free_capacity, largest
from hivemind.core.queue import Bar, TaskQueue
from hivemind.core.records import Requirements, Task, TaskState
from hivemind.core.resources import Shortage, ShortageKind, shortages
from hivemind.core.trust import LEAST_TRUST
from hivemind.core.wording import one_line

COUNTED_AHEAD = 1000
"""How far the tasks ahead are counted, so that asking is cheap."""


def explain(task: Task, fleet: Fleet, queue: TaskQueue, now: float) -> Explanation:
    """Why ``task`` is not running.

    Args:
        task: as it is now.
        fleet: as it is now.
        queue: as it is now; nothing in it is changed.
        now: the monotonic instant by which the queue goes.
    """
    if task.state is not TaskState.QUEUED:
        return Explanation(_where_it_is(task))
    causes = list(_causes(task, fleet, queue, now))
    return Explanation(causes[0].text, tuple(causes))


def explain_impossible(needs: Requirements, fleet: Fleet) -> str:
    """What keeps every node that takes work from ever running such a task, in one line; nothing of
    nodes that take none.
    """
    return "; ".join(cause.text for cause in _Sorted(needs, fleet, {}).never())


def _where_it_is(task: Task) -> str:
    match task.state:
        case TaskState.SUBMITTED:
            return "it has not been admitted yet"
        case TaskState.ASSIGNED | TaskState.RUNNING if task.stop_requested:
            return f"it is being stopped on node {task.node_id}"
        case TaskState.ASSIGNED:
            return f"node {task.node_id} has it and has not started it yet"
        case TaskState.RUNNING:
            return f"it runs on node {task.node_id}"
    return one_line(f"it has ended: {task.state.value}" + (task.detail and f", {task.detail}"))


def _causes(task: Task, fleet: Fleet, queue: TaskQueue, now: float) -> Iterator[Cause]:
    wait_s = queue.waiting(task.id).ready_at - now if task.id in queue else 0.0
    if wait_s > 0:
        yield _backoff(task, wait_s)
    sorted_nodes = _Sorted(task.requirements, fleet, _bars(task, queue, now))
    if not any(node.connected for node in fleet.nodes.values()):
        yield Cause(CauseKind.NO_NODE, "no node is connected", 1)
    elif not sorted_nodes.able:
        yield Cause(CauseKind.NO_NODE, "no node takes new work", 1)
    never = list(sorted_nodes.never())
    busy = list(sorted_nodes.busy())
    if sorted_nodes.could:
        yield from busy
        if wait_s <= 0:
            yield from _order(task, queue, has_room=sorted_nodes.has_room)
        yield from never
    else:
        yield from never
    yield from sorted_nodes.closed()


def _bars(task: Task, queue: TaskQueue, now: float) -> dict[str, Bar]:
    return {
        bar.node_id: bar for bar in queue.bars_of(task.id) if bar.until is None or bar.until > now
    }


def _backoff(task: Task, wait_s: float) -> Cause:
    seconds = math.ceil(wait_s)
    why = f" after a failure: {task.detail}" if task.detail else ""
    return Cause(CauseKind.BACKOFF, one_line(f"backing off for {seconds} s{why}"), 1)


def _order(task: Task, queue: TaskQueue, *, has_room: bool) -> Iterator[Cause]:
    """What comes before the task, once the nodes alone do not tell why it waits."""
    if queue.claimant == task.id:
        text = "it has waited longest for room: a node is being kept free for it"
        yield Cause(CauseKind.KEPT_FREE, text, 1)
    elif queue.claimant is not None and has_room:
        text = "a node is being kept free for a task that has waited longer"
        yield Cause(CauseKind.KEPT_FREE, text, 1)
    ahead = queue.ahead_of(task.id, COUNTED_AHEAD) if task.id in queue else 0
    if ahead:
        number = f"{ahead} or more" if ahead >= COUNTED_AHEAD else str(ahead)
        others = "other" if ahead == 1 else "others"
        yield Cause(CauseKind.BEHIND, f"behind {number} {others} of your account", ahead)
    elif has_room:
        yield Cause(CauseKind.TURN, "its turn comes with the next plan", 1)


class _Sorted:
    """The fleet's nodes by what keeps each from running a task."""

    def __init__(self, needs: Requirements, fleet: Fleet, bars: dict[str, Bar]) -> None:
        nodes = sorted(fleet.nodes.values(), key=lambda node: node.id)
        self.able = [node for node in nodes if node.is_schedulable]
        self._away = [node for node in nodes if not node.connected]
        here = [node for node in nodes if node.connected]
        self._distrusted = [node for node in here if node.effective_trust < LEAST_TRUST]
        trusted = [node for node in here if node.effective_trust >= LEAST_TRUST]
        self._draining = [node for node in trusted if node.draining]
        owner = needs.only_account
        own = [node for node in self.able if owner in {"", node.account}]
        self._others = len(self.able) - len(own)
        self._owns_one = bool(own)
        allowed = [node for node in own if node.may_have(needs)]
        self._too_little_trusted = len(own) - len(allowed)
        self._barred = [bars[node.id] for node in allowed if node.id in bars]
        unbarred = [node for node in allowed if node.id not in bars]
        self._unsuited = [node for node in unbarred if not node.takes(needs)]
        willing = [node for node in unbarred if node.takes(needs)]
        self._needs = needs
        self._too_small = _by_shortage(needs, [n for n in willing if not n.could_ever_run(needs)])
        self.could = [node for node in willing if node.could_ever_run(needs)]
        taken = [node for node in self.could if shortages(needs, free_capacity(node))]
        self._full = _by_shortage(needs, taken, now_free=True)
        self.has_room = len(taken) < len(self.could)

    def never(self) -> Iterator[Cause]:
        """Nodes that will not do, however empty they are."""
        if self._others:
            owner = self._needs.only_account
            text = (
                f"it costs nothing, so that it runs on nodes of {owner} alone: "
                + ("" if self._owns_one else "none of them takes work now, and ")
                + f"{_number(self._others)} somebody else's"
            )
            yield Cause(CauseKind.NOT_OWN, text, self._others)
        if self._too_little_trusted:
            text = (
                f"it asks for a trust of {self._needs.least_trust}: "
                f"{_number(self._too_little_trusted)} trusted less"
            )
            yield Cause(CauseKind.DISTRUSTED, text, self._too_little_trusted)
        for shortage, nodes in self._too_small:
            all_of_them = len(nodes) == len(self.able)
            text = _lacks(shortage, nodes, all_of_them=all_of_them)
            yield Cause(CauseKind.TOO_SMALL, text, len(nodes))
        if self._unsuited:
            text = f"{_counted(self._unsuited)} told a program's bytes alone, and this needs more"
            yield Cause(CauseKind.UNSUITED, text, len(self._unsuited))
        for bar in self._barred:
            text = bar.detail or f"node {bar.node_id} must not have it for now"
            yield Cause(CauseKind.BARRED, one_line(text), 1)

    def busy(self) -> Iterator[Cause]:
        """Nodes that would do if less ran there."""
        for shortage, nodes in self._full:
            if shortage.kind is ShortageKind.SLOTS:
                text = f"{_counted(nodes)} full"
            else:
                amount, _ = _compared(shortage.kind, int(shortage.needed), nodes)
                text = f"{_counted(nodes, 'has', 'have')} less than {amount} free"
            yield Cause(CauseKind.FULL, text, len(nodes))

    def closed(self) -> Iterator[Cause]:
        """Nodes that take nobody's work."""
        for kind, nodes, text in (
            (CauseKind.AWAY, self._away, "away"),
            (CauseKind.DRAINING, self._draining, "draining"),
            (CauseKind.DISTRUSTED, self._distrusted, "not trusted enough"),
        ):
            if nodes:
                yield Cause(kind, f"{_counted(nodes)} {text}", len(nodes))


_MOST_TELLING = (
    ShortageKind.LOCATION,
    ShortageKind.GPU_NAME,
    ShortageKind.GPUS,
    ShortageKind.GPU_MEMORY,
    ShortageKind.MEMORY,
    ShortageKind.CPU,
    ShortageKind.SLOTS,
)


def _by_shortage(
    needs: Requirements, nodes: list[NodeState], *, now_free: bool = False
) -> list[tuple[Shortage, list[NodeState]]]:
    """The nodes by what each lacks: slots first where it is for now, for good the most telling."""
    groups: dict[ShortageKind, tuple[Shortage, list[NodeState]]] = {}
    for node in nodes:
        lacking = {
            shortage.kind: shortage
            for shortage in shortages(needs, free_capacity(node) if now_free else node.capacity)
        }
        order = reversed(_MOST_TELLING) if now_free else iter(_MOST_TELLING)
        kind = next(kind for kind in order if kind in lacking)
        groups.setdefault(kind, (lacking[kind], []))[1].append(node)
    return list(groups.values())


def _lacks(shortage: Shortage, nodes: list[NodeState], *, all_of_them: bool) -> str:
    match shortage.kind:
        case ShortageKind.LOCATION:
            who = "no node is" if all_of_them else f"{_counted(nodes)} not"
            return one_line(f"{who} in {shortage.needed}")
        case ShortageKind.GPU_NAME:
            who = "no node has a" if all_of_them else f"{_counted(nodes, 'has', 'have')} no"
            return one_line(f"{who} GPU called {shortage.needed}")
    amount, most = _compared(shortage.kind, int(shortage.needed), nodes)
    if not all_of_them:
        return f"{_counted(nodes, 'has', 'have')} less than {amount}"
    return f"no node has {amount} (the largest has {most})"


def _compared(kind: ShortageKind, needed: int, nodes: list[NodeState]) -> tuple[str, str]:
    """The needed amount, with its unit and of what it is, and the most that any node has."""
    most = largest(nodes)
    match kind:
        case ShortageKind.CPU:
            unit = "CPU" if needed == 1000 else "CPUs"
            return f"{sizes.format_cpus(needed)} {unit}", sizes.format_cpus(most.cpu_millis)
        case ShortageKind.MEMORY:
            size, there = sizes.show_sizes_apart(needed, most.memory_bytes)
            return f"{size} of memory", there
        case ShortageKind.GPU_MEMORY:
            size, there = sizes.show_sizes_apart(needed, most.gpu_memory_bytes)
            return f"{size} of GPU memory", there
        case ShortageKind.GPUS:
            return f"{needed} GPU" + ("" if needed == 1 else "s"), str(most.gpus)
        case _:
            return "a slot", str(most.slots)


def _counted(nodes: list[NodeState], one: str = "is", several: str = "are") -> str:
    return _number(len(nodes), one, several)


def _number(nodes: int, one: str = "is", several: str = "are") -> str:
    return f"1 node {one}" if nodes == 1 else f"{nodes} nodes {several}"
