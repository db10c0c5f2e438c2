"""One turn of the reactor: changes to copies, to be committed and published, or dropped."""

from collections.abc import Callable
from typing import TypeVar

import attrs

from hivemind.core.events import (
    Assign,
    BarNode,
    Effect,
    Ended,
    Enqueue,
    Event,
    Release,
    SendAssign,
)
from hivemind.core.lifecycle import Step, step
from hivemind.core.placement import plan
from hivemind.core.policy import PoolRules
from hivemind.core.records import (
    Account,
    Attempt,
    JoinToken,
    Node,
    RevokedToken,
    Task,
)
from hivemind.master.cluster import Cluster, reservation_of
from hivemind.store.changes import Changes, NewTask, ResultBlob

K = TypeVar("K")
V = TypeVar("V")


@attrs.frozen
class Mark:
    """A point of a turn to which it can be taken back."""

    undo: int
    effects: int
    new_tasks: int
    results: int


class Turn:
    """Copies of what a turn touches.

    Records are kept here until ``publish``. The queue and the fleet are too large to copy, so they
    are changed in place and every change leaves word of how to take it back. Nothing awaits between
    a turn's beginning and its commit, and while it commits nobody plans, so no other task acts on
    what is not committed.
    """

    def __init__(self, cluster: Cluster, *, now: float, now_mono: float, rules: PoolRules) -> None:
        self.cluster = cluster
        self.now = now
        """Seconds since the epoch."""
        self.now_mono = now_mono
        self.rules = rules
        self.effects: list[Effect] = []
        """What must be done once this is on disk, in order."""
        self._tasks: dict[str, tuple[Task, Attempt | None]] = {}
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._accounts: dict[str, Account] = {}
        self._nodes: dict[str, Node] = {}
        self._join_tokens: dict[bytes, JoinToken] = {}
        self._revoked: dict[str, RevokedToken] = {}
        self._facts: dict[str, bytes] = {}
        self._new_tasks: list[NewTask] = []
        self._results: list[ResultBlob] = []
        self._undo: list[Callable[[], None]] = []

    # --- reading: this turn's copies first ------------------------------------------------------

    def task(self, task_id: str) -> Task | None:
        """The task as this turn has it; None for one that is unknown or had ended before."""
        held = self._tasks.get(task_id)
        return held[0] if held is not None else self.cluster.tasks.get(task_id)

    def attempt(self, task_id: str) -> Attempt | None:
        """The task's newest attempt as this turn has it."""
        held = self._tasks.get(task_id)
        return held[1] if held is not None else self.cluster.attempts.get(task_id)

    def account(self, name: str) -> Account | None:
        """The account as this turn has it."""
        return self._accounts.get(name) or self.cluster.accounts.get(name)

    def node(self, node_id: str) -> Node | None:
        """The node as this turn has it."""
        return self._nodes.get(node_id) or self.cluster.nodes.get(node_id)

    def join_token(self, digest: bytes) -> JoinToken | None:
        """The one-time secret as this turn has it."""
        return self._join_tokens.get(digest) or self.cluster.join_tokens.get(digest)

    def find_new(self, account: str, *, client_id: str = "", client_key: str = "") -> Task | None:
        """A task that this turn makes, by what its client calls it."""
        for new in self._new_tasks:
            task = new.task
            if task.account == account and (
                (client_id and task.client_id == client_id)
                or (client_key and task.client_key == client_key)
            ):
                return self.task(task.id)
        return None

    # --- writing ---

    def add_task(self, new: NewTask) -> None:
        """A submitted task; ``step`` takes it from there."""
        self._new_tasks.append(new)
        self._put_task(new.task, None)

    def step(self, task_id: str, event: Event) -> Step:
        """Let something happen to a task.

        Raises LifecycleError where it cannot have happened, KeyError for a task that is not here.
        """
        task = self.task(task_id)
        if task is None:
            raise KeyError(task_id)
        attempt = self.attempt(task_id)
        after = step(task, attempt, event, self.now, self.rules)
        if after.task is not task or after.attempt is not attempt:
            self._put_task(after.task, after.attempt)
        for effect in after.effects:
            self._take(effect, after)
        return after

    def put_result(self, result: ResultBlob) -> None:
        """What an attempt left in its output folder."""
        self._results.append(result)

    def put_account(self, account: Account) -> None:
        """A new or changed account."""
        self._set(self._accounts, account.name, account)

    def put_node(self, node: Node) -> None:
        """A new or changed node."""
        self._set(self._nodes, node.id, node)

    def put_join_token(self, token: JoinToken) -> None:
        """A new or used one-time secret."""
        self._set(self._join_tokens, token.digest, token)

    def revoke(self, token: RevokedToken) -> None:
        """A token that must not be believed any more."""
        self._set(self._revoked, token.token_id, token)

    def put_fact(self, name: str, value: bytes) -> None:
        """One of the cluster's own values."""
        self._set(self._facts, name, value)

    def plan(self, limit: int) -> None:
        """Give waiting tasks to nodes that have room."""
        queue, fleet = self.cluster.queue, self.cluster.fleet
        for placement in plan(queue, fleet, self.now_mono, limit):
            self.step(
                placement.task_id,
                Assign(
                    node_id=placement.node_id,
                    lease_id=f"{placement.node_id}/{self.cluster.facts['epoch'].decode()}",
                ),
            )

    # --- taking back ---

    def mark(self) -> Mark:
        """Where the turn stands now."""
        return Mark(len(self._undo), len(self.effects), len(self._new_tasks), len(self._results))

    def roll_back(self, mark: Mark | None = None) -> None:
        """Take everything back that was done since the mark, or since the beginning."""
        mark = mark or Mark(0, 0, 0, 0)
        while len(self._undo) > mark.undo:
            self._undo.pop()()
        del self.effects[mark.effects :]
        del self._new_tasks[mark.new_tasks :]
        del self._results[mark.results :]

    # --- the end ---

    def changes(self) -> Changes:
        """What must be on disk before anybody may know of this turn."""
        new_ids = {new.task.id for new in self._new_tasks}
        return Changes(
            new_tasks=tuple(
                attrs.evolve(new, task=self._tasks[new.task.id][0]) for new in self._new_tasks
            ),
            tasks=tuple(task for task, _ in self._tasks.values() if task.id not in new_ids),
            attempts=tuple(self._attempts.values()),
            results=tuple(self._results),
            accounts=tuple(self._accounts.values()),
            nodes=tuple(self._nodes.values()),
            join_tokens=tuple(self._join_tokens.values()),
            revoked_tokens=tuple(self._revoked.values()),
            facts=self._facts,
        )

    def publish(self) -> tuple[Task, ...]:
        """Show the committed changes to everybody. Returns the tasks that changed."""
        cluster = self.cluster
        for task, attempt in self._tasks.values():
            cluster.put_task(task, attempt)
            if task.state.is_end:
                cluster.queue.forget(task.id)
        cluster.accounts.update(self._accounts)
        cluster.nodes.update(self._nodes)
        cluster.facts.update(self._facts)
        cluster.revoked.update(
            {token.token_id: token.expires_at for token in self._revoked.values()}
        )
        for token in self._join_tokens.values():
            if token.used_at is None:
                cluster.join_tokens[token.digest] = token
            else:
                cluster.join_tokens.pop(token.digest, None)
        return tuple(task for task, _ in self._tasks.values())

    # --- the indexes ---

    def _put_task(self, task: Task, attempt: Attempt | None) -> None:
        self._set(self._tasks, task.id, (task, attempt))
        if attempt is not None:
            self._set(self._attempts, (task.id, attempt.number), attempt)

    def _set(self, held: dict[K, V], key: K, value: V) -> None:
        if key in held:
            old = held[key]
            self._undo.append(lambda: held.__setitem__(key, old))
        else:
            self._undo.append(lambda: held.__delitem__(key))
        held[key] = value

    def _take(self, effect: Effect, after: Step) -> None:
        """Keep queue and fleet in step; what concerns others waits for the commit."""
        queue, fleet = self.cluster.queue, self.cluster.fleet
        match effect:
            case Enqueue(task_id=task_id, delay_s=delay_s):
                queue.add(after.task, self.now_mono + delay_s)
                self._undo.append(lambda: queue.remove(task_id))
            case SendAssign(task_id=task_id, attempt=number):
                self._leave_queue(task_id)
                if after.attempt is not None:
                    fleet.reserve(reservation_of(after.task, after.attempt))

                def release() -> None:
                    fleet.release(task_id, number)

                self._undo.append(release)
            case Release(task_id=task_id, attempt=number):
                reservation = fleet.release(task_id, number)
                self._undo.append(lambda: fleet.adopt(reservation))
            case BarNode(task_id=task_id, node_id=node_id, for_s=for_s):
                until = None if for_s is None else self.now_mono + for_s
                queue.bar(task_id, node_id, until, after.task.detail)
            case Ended(task_id=task_id) if task_id in queue:
                self._leave_queue(task_id)
        self.effects.append(effect)

    def _leave_queue(self, task_id: str) -> None:
        queue = self.cluster.queue
        ready_at = queue.waiting(task_id).ready_at
        queue.remove(task_id)
        task = self.cluster.tasks.get(task_id) or self._tasks[task_id][0]

        def undo() -> None:
            queue.add(task, ready_at)

        self._undo.append(undo)
