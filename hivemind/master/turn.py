"""One turn of the reactor: changes to copies, to be committed and published, or dropped."""

from collections.abc import Callable, Iterable, Iterator
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
    Capabilities,
    JoinToken,
    Node,
    RevokedToken,
    Role,
    Task,
)
from hivemind.master import settling
from hivemind.master.books import Books
from hivemind.master.cluster import Cluster, reservation_of
from hivemind.store.changes import Changes, NewTask, ResultBlob

K = TypeVar("K")
V = TypeVar("V")


@attrs.frozen
class _Barred:
    """A bar that this turn put up, and could have to put up again."""

    task_id: str
    node_id: str
    until: float | None
    detail: str


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
        self._forgotten: dict[str, None] = {}
        self._join_tokens: dict[bytes, JoinToken] = {}
        self._revoked: dict[str, RevokedToken] = {}
        self._facts: dict[str, bytes] = {}
        self._new_tasks: list[NewTask] = []
        self._results: list[ResultBlob] = []
        self._removed_tasks: list[str] = []
        self._stale_before = 0.0
        self._bars: list[_Barred] = []
        self._lifted: list[str] = []
        self._undo: list[Callable[[], object]] = []
        self.books = Books(cluster, self._undo)
        """The ledger, with what this turn changes of it."""

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

    def admins(self) -> int:
        """How many accounts are admins."""
        accounts = {**self.cluster.accounts, **self._accounts}
        return sum(account.role is Role.ADMIN for account in accounts.values())

    def node(self, node_id: str) -> Node | None:
        """The node as this turn has it."""
        if node_id in self._forgotten:
            return None
        return self._nodes.get(node_id) or self.cluster.nodes.get(node_id)

    def join_token(self, digest: bytes) -> JoinToken | None:
        """The one-time secret as this turn has it."""
        return self._join_tokens.get(digest) or self.cluster.join_tokens.get(digest)

    def find_new(self, account: str, client_key: str) -> Task | None:
        """A task that this turn makes, by the key that its client gave it."""
        for new in self._new_tasks:
            if new.task.account == account and new.task.client_key == client_key:
                return self.task(new.task.id)
        return None

    def unfinished_of(self, account: str) -> int:
        """How many tasks the account has that have not ended, those of this turn included."""
        mine = sum(new.task.account == account for new in self._new_tasks)
        return self.cluster.unfinished_of[account] + mine

    def node_with_key(self, public_key: bytes) -> Node | None:
        """The node that holds the key, as this turn has it."""
        for nodes in (self._nodes, self.cluster.nodes):
            for node in nodes.values():
                if node.public_key == public_key:
                    known = self.node(node.id)
                    if known is not None:
                        return known
        return None

    def nodes(self) -> Iterator[Node]:
        """Every node, some of them twice; whose it is never changes."""
        yield from self._nodes.values()
        yield from self.cluster.nodes.values()

    def nodes_of(self, account: str) -> int:
        """How many nodes the account has, those of this turn included."""
        ids = {node.id for node in self.cluster.nodes.values() if node.account == account}
        return len(ids.union(node.id for node in self._nodes.values() if node.account == account))

    def pushed_nodes_of(self, account: str) -> int:
        """How many nodes the account has that are pushed to, those of this turn included."""
        nodes = {**self.cluster.nodes, **self._nodes}.values()
        return sum(node.account == account and node.registration is not None for node in nodes)

    def live_join_tokens(self, account: str) -> int:
        """How many one-time secrets of the account can still be used."""
        tokens = {**self.cluster.join_tokens, **self._join_tokens}
        return sum(
            token.account == account and token.used_at is None and token.expires_at > self.now
            for token in tokens.values()
        )

    @property
    def new_task_ids(self) -> tuple[str, ...]:
        """The ids of the tasks that this turn makes, in order."""
        return tuple(new.task.id for new in self._new_tasks)

    # --- writing ---

    def add_task(self, new: NewTask) -> None:
        """A submitted task; ``step`` takes it from there."""
        self._append(self._new_tasks, new)
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
        settling.follow(self, attempt, after)
        if after.attempt is not None and after.attempt.unconfirmed and after.attempt != attempt:
            self._distrust(after.attempt.node_id)
        return after

    def _distrust(self, node_id: str) -> None:
        """The node did not show that it stopped an attempt. One that is pushed to gets nothing more
        until it is known to be there; any other is known by its link.
        """
        node = self.node(node_id)
        if node is None:
            return
        self.put_node(attrs.evolve(node, unconfirmed=node.unconfirmed + 1))
        if node.registration is not None:
            self.set_connected(node_id, connected=False)

    def put_attempt(self, attempt: Attempt) -> None:
        """The newest attempt of a task, otherwise unchanged."""
        task = self.task(attempt.task_id)
        if task is None or task.attempt != attempt.number:
            raise KeyError(attempt.task_id)
        self._put_task(task, attempt)

    def put_result(self, result: ResultBlob) -> None:
        """What an attempt left in its output folder."""
        self._append(self._results, result)

    def add_effect(self, effect: Effect) -> None:
        """Something more to be done once this is on disk."""
        self._append(self.effects, effect)

    def put_account(self, account: Account) -> None:
        """A new or changed account."""
        self._set(self._accounts, account.name, account)

    def put_node(self, node: Node) -> None:
        """A new or changed node."""
        self._set(self._nodes, node.id, node)

    def forget_node(self, node_id: str) -> None:
        """Strike the node off the pool's list. Its id is never given out again."""
        self._set(self._forgotten, node_id, None)

    def put_join_token(self, token: JoinToken) -> None:
        """A new or used one-time secret."""
        self._set(self._join_tokens, token.digest, token)

    def revoke(self, token: RevokedToken) -> None:
        """A token that must not be believed any more."""
        self._set(self._revoked, token.token_id, token)

    def put_fact(self, name: str, value: bytes) -> None:
        """One of the cluster's own values."""
        self._set(self._facts, name, value)

    def remove_ended(self, task_ids: Iterable[str], *, stale_before: float) -> None:
        """Ended tasks, and secrets that expired before then, that need not be kept any more."""
        for task_id in task_ids:
            self._append(self._removed_tasks, task_id)
        old = self._stale_before

        def undo() -> None:
            self._stale_before = old

        self._undo.append(undo)
        self._stale_before = max(old, stale_before)

    def plan(self, limit: int) -> int:
        """Give waiting tasks to nodes that have room. Returns how many were given, at most
        ``limit``; where it is the limit, more may wait.
        """
        placements = plan(self.cluster.queue, self.cluster.fleet, self.now_mono, limit)
        epoch = self.cluster.facts.get("epoch", b"0").decode()
        for placement in placements:
            lease_id = f"{placement.node_id}/{epoch}"
            self.step(placement.task_id, Assign(node_id=placement.node_id, lease_id=lease_id))
        return len(placements)

    # --- the fleet ---

    def join_fleet(self, node: Node, capabilities: Capabilities, *, draining: bool) -> None:
        """The node is here, with these capabilities. What it refused before it may take now."""
        self._keep(node.id)
        self.cluster.fleet.join(
            node_id=node.id,
            account=node.account,
            name=node.name,
            capabilities=capabilities,
            trust=node.trust,
            draining=draining,
        )
        self._append(self._lifted, node.id)

    def set_connected(self, node_id: str, *, connected: bool) -> None:
        """The node's link broke, or is back. Nothing happens where it is not in the fleet."""
        if node_id in self.cluster.fleet:
            self._keep(node_id)
            self.cluster.fleet.set_connected(node_id, connected)

    def set_draining(self, node_id: str, *, draining: bool) -> None:
        """The node takes nothing more, or does again. As ``set_connected`` otherwise."""
        if node_id in self.cluster.fleet:
            self._keep(node_id)
            self.cluster.fleet.set_draining(node_id, draining)

    def set_trust(self, node_id: str, trust: int) -> None:
        """How far the node is trusted. As ``set_connected`` otherwise."""
        if node_id in self.cluster.fleet:
            self._keep(node_id)
            self.cluster.fleet.set_trust(node_id, trust)

    def leave_fleet(self, node_id: str) -> None:
        """The node is away for good. As ``set_connected`` otherwise."""
        if node_id in self.cluster.fleet:
            self._keep(node_id)
            self.cluster.fleet.leave(node_id)
            self._append(self._lifted, node_id)

    @property
    def has_lifted_bars(self) -> bool:
        """Whether publishing lets tasks have nodes that this turn's plan kept from them."""
        return bool(self._lifted)

    def _keep(self, node_id: str) -> None:
        """Remember how the node is now in the fleet."""
        fleet = self.cluster.fleet
        old = fleet.nodes.get(node_id)

        def undo() -> None:
            if old is None:
                fleet.leave(node_id)
                return
            fleet.join(
                node_id=old.id,
                account=old.account,
                name=old.name,
                capabilities=old.capabilities,
                trust=old.trust,
                draining=old.draining,
            )
            fleet.set_connected(node_id, old.connected)

        self._undo.append(undo)

    # --- taking back ---

    def mark(self) -> int:
        """Where the turn stands now, for ``roll_back``."""
        return len(self._undo)

    def roll_back(self, mark: int = 0) -> None:
        """Take everything back that was done since the mark, or since the beginning."""
        while len(self._undo) > mark:
            self._undo.pop()()

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
            nodes=tuple(n for n in self._nodes.values() if n.id not in self._forgotten),
            forgotten_nodes=tuple(self._forgotten),
            join_tokens=tuple(self._join_tokens.values()),
            revoked_tokens=tuple(self._revoked.values()),
            facts=self._facts,
            removed_tasks=tuple(self._removed_tasks),
            stale_before=self._stale_before,
            movements=self.books.movements,
            escrows=self.books.open_escrows,
            closed_escrows=self.books.closed_escrows,
        )

    @property
    def changed(self) -> tuple[Task, ...]:
        """The tasks that this turn has changed, as they are afterwards."""
        return tuple(task for task, _ in self._tasks.values())

    def publish(self) -> None:
        """Show the committed changes to everybody."""
        cluster = self.cluster
        for node_id in self._lifted:
            cluster.queue.lift_bars(node_id)
        for bar in self._bars:
            cluster.queue.bar(bar.task_id, bar.node_id, bar.until, bar.detail)
        for task, attempt in self._tasks.values():
            cluster.put_task(task, attempt)
            if task.state.is_end:
                cluster.queue.forget(task.id)
        cluster.accounts.update(self._accounts)
        cluster.nodes.update(self._nodes)
        for node_id in self._forgotten:
            cluster.nodes.pop(node_id, None)
        cluster.facts.update(self._facts)
        self.books.publish(cluster)
        if self._revoked or self._join_tokens:
            cluster.put_secrets(self._revoked.values(), self._join_tokens.values(), self.now)

    # --- the indexes ---

    def _put_task(self, task: Task, attempt: Attempt | None) -> None:
        self._set(self._tasks, task.id, (task, attempt))
        if attempt is not None:
            self._set(self._attempts, (task.id, attempt.number), attempt)

    def _append(self, held: list[V], value: V) -> None:
        held.append(value)
        self._undo.append(held.pop)

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
                self._bar(_Barred(task_id, node_id, until, after.task.detail))
            case Ended(task_id=task_id) if task_id in queue:
                self._leave_queue(task_id)
        self._append(self.effects, effect)

    def _bar(self, bar: _Barred) -> None:
        queue = self.cluster.queue
        before = queue.bars_of(bar.task_id)
        queue.bar(bar.task_id, bar.node_id, bar.until, bar.detail)

        def undo() -> None:
            queue.forget(bar.task_id)
            for old in before:
                queue.bar(bar.task_id, old.node_id, old.until, old.detail)

        self._undo.append(undo)
        self._append(self._bars, bar)

    def _leave_queue(self, task_id: str) -> None:
        queue = self.cluster.queue
        ready_at, claimant = queue.waiting(task_id).ready_at, queue.claimant
        queue.remove(task_id)
        task = self.cluster.tasks.get(task_id) or self._tasks[task_id][0]

        def undo() -> None:
            queue.add(task, ready_at)
            queue.claimant = claimant

        self._undo.append(undo)
