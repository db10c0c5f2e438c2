"""The cluster as everybody may see it: what has been committed, indexed for reading.

The reactor alone changes it. The store is the truth; this holds the unfinished tasks, the accounts
and the nodes, and never a spec or a payload.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from hivemind.core.fleet import Fleet, Reservation
from hivemind.core.ledger import Escrow, is_escrow
from hivemind.core.queue import TaskQueue
from hivemind.core.records import (
    Account,
    Attempt,
    JoinToken,
    Node,
    RevokedToken,
    Task,
    TaskState,
)
from hivemind.master.revocations import Revocations
from hivemind.store.changes import Snapshot

UNDER_WAY = frozenset({TaskState.ASSIGNED, TaskState.RUNNING})


@attrs.define(kw_only=True)
class Cluster:
    """Published state. Read it freely between two awaits; change it never."""

    tasks: dict[str, Task] = attrs.field(factory=dict)
    """The unfinished ones."""
    attempts: dict[str, Attempt] = attrs.field(factory=dict)
    """The newest attempt of each unfinished task, by the task's id."""
    accounts: dict[str, Account] = attrs.field(factory=dict)
    nodes: dict[str, Node] = attrs.field(factory=dict)
    join_tokens: dict[bytes, JoinToken] = attrs.field(factory=dict)
    revoked: Revocations = attrs.field(factory=Revocations)
    """Token ids that must not be believed, with the time at which they expire anyway."""
    facts: dict[str, bytes] = attrs.field(factory=dict)
    balances: dict[str, int] = attrs.field(factory=dict)
    """In millionths of a CPT, by ledger account."""
    escrows: dict[str, Escrow] = attrs.field(factory=dict)
    """What is held for unfinished tasks, by the task's id."""
    held_ucpt_of: Counter[str] = attrs.field(factory=Counter)
    """What is held for each account's unfinished tasks together."""
    fleet: Fleet = attrs.field(factory=Fleet)
    queue: TaskQueue = attrs.field(factory=TaskQueue)
    unfinished_of: Counter[str] = attrs.field(factory=Counter)
    """How many unfinished tasks each account has."""
    on_node: dict[str, set[str]] = attrs.field(factory=dict)
    """The ids of the tasks under way on each node."""

    def put_task(self, task: Task, attempt: Attempt | None) -> None:
        """Publish a task as it now is; an ended one is no longer held here."""
        old = self.tasks.get(task.id)
        if old is not None and old.node_id and old.node_id != task.node_id:
            self._leave_node(old)
        if task.state.is_end:
            if old is not None:
                del self.tasks[task.id]
                self.attempts.pop(task.id, None)
                self.unfinished_of[task.account] -= 1
                if not self.unfinished_of[task.account]:
                    del self.unfinished_of[task.account]
            return
        if old is None:
            self.unfinished_of[task.account] += 1
        self.tasks[task.id] = task
        if attempt is not None:
            self.attempts[task.id] = attempt
        if task.node_id:
            self.on_node.setdefault(task.node_id, set()).add(task.id)

    def put_escrow(self, task_id: str, escrow: Escrow | None) -> None:
        """Publish what is held for a task; None: nothing any more."""
        old = self.escrows.pop(task_id, None)
        if old is not None:
            self.held_ucpt_of[old.account] -= old.held_ucpt
            if not self.held_ucpt_of[old.account]:
                del self.held_ucpt_of[old.account]
        if escrow is not None:
            self.escrows[task_id] = escrow
            self.held_ucpt_of[escrow.account] += escrow.held_ucpt

    def put_balance(self, account: str, ucpt: int) -> None:
        """Publish what a ledger account has; an escrow that is empty is no longer held here."""
        if ucpt or not is_escrow(account):
            self.balances[account] = ucpt
        else:
            self.balances.pop(account, None)

    def put_secrets(
        self, revoked: Iterable[RevokedToken], join_tokens: Iterable[JoinToken], now: float
    ) -> None:
        """Publish what became of secrets, and let go of those that have expired anyway."""
        self.revoked.put(revoked, now)
        for token in join_tokens:
            self.join_tokens[token.digest] = token
        self.join_tokens = {
            digest: token
            for digest, token in self.join_tokens.items()
            if token.used_at is None and token.expires_at > now
        }

    def _leave_node(self, task: Task) -> None:
        there = self.on_node[task.node_id]
        there.discard(task.id)
        if not there:
            del self.on_node[task.node_id]


def reservation_of(task: Task, attempt: Attempt) -> Reservation:
    """What an attempt holds of its node."""
    return Reservation(
        task_id=task.id,
        attempt=attempt.number,
        account=task.account,
        node_id=attempt.node_id,
        requirements=task.requirements,
    )


def load_cluster(snapshot: Snapshot, now_mono: float) -> Cluster:
    """The cluster as the store knows it, just after a start.

    No node is here yet; what was under way holds its reservation until its node comes back or its
    lease is over. A backoff begins anew, since what was left of it went with the old clock.
    """
    cluster = Cluster(
        accounts={account.name: account for account in snapshot.accounts},
        nodes={node.id: node for node in snapshot.nodes},
        join_tokens={token.digest: token for token in snapshot.join_tokens},
        revoked=Revocations(snapshot.revoked_tokens),
        facts=dict(snapshot.facts),
        balances=dict(snapshot.balances),
    )
    for escrow in snapshot.escrows:
        cluster.put_escrow(escrow.task_id, escrow)
    attempts: Mapping[str, Attempt] = {attempt.task_id: attempt for attempt in snapshot.attempts}
    for task in snapshot.tasks:
        attempt = attempts.get(task.id)
        cluster.put_task(task, attempt)
        if task.state in UNDER_WAY and attempt is not None:
            cluster.fleet.adopt(reservation_of(task, attempt))
        elif task.state is TaskState.QUEUED:
            cluster.queue.add(task, now_mono + task.backoff_s)
    return cluster
