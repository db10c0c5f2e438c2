"""What one turn writes, and what reads give back."""

from collections.abc import Mapping

import attrs

from hivemind.core.ledger import Escrow, Movement
from hivemind.core.records import (
    Account,
    Attempt,
    Blob,
    JoinToken,
    Node,
    RevokedToken,
    Task,
)


@attrs.frozen(kw_only=True)
class NewTask:
    """A task that was submitted in this turn, with everything a worker will need."""

    task: Task
    spec: bytes
    payload: Blob | None = None
    stdin: Blob | None = None


@attrs.frozen(kw_only=True)
class ResultBlob:
    """What an attempt left in its output folder. A later one replaces it."""

    task_id: str
    attempt: int
    blob: Blob


@attrs.frozen(kw_only=True)
class Changes:
    """One turn's writes, applied in the order of these fields, as one transaction or not at all.

    Of several records with the same key the last one stands. A task's id, account, client id and
    client key are for good: a later record of the task must repeat them.
    """

    new_tasks: tuple[NewTask, ...] = ()
    tasks: tuple[Task, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    results: tuple[ResultBlob, ...] = ()
    accounts: tuple[Account, ...] = ()
    nodes: tuple[Node, ...] = ()
    forgotten_nodes: tuple[str, ...] = ()
    """Ids; to forget an unknown node is no error. Its attempts keep its id."""
    join_tokens: tuple[JoinToken, ...] = ()
    revoked_tokens: tuple[RevokedToken, ...] = ()
    facts: Mapping[str, bytes] = attrs.field(factory=dict)
    """Single values by name, such as the cluster's epoch and the signing key."""
    removed_tasks: tuple[str, ...] = ()
    """Ids of ended tasks whose time of keeping is over: they go with their attempts, inputs and
    results. One that is unknown is no error, and one that has not ended stays."""
    stale_before: float = 0.0
    """One-time secrets and revocations that expired before this are removed."""
    movements: tuple[Movement, ...] = ()
    """Entered in this order, and the balances changed with each; their ``seq`` is ignored."""
    escrows: tuple[Escrow, ...] = ()
    """New ones, and ones that somebody has earned more of."""
    closed_escrows: tuple[str, ...] = ()
    """The tasks whose escrow was emptied; to close an unknown one is no error."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return self == _NOTHING

    def merge(self, later: "Changes") -> "Changes":
        """These changes and then later ones, as one."""
        enrolled = {node.id for node in later.nodes}
        forgotten = set(later.forgotten_nodes)
        return Changes(
            new_tasks=self.new_tasks + later.new_tasks,
            tasks=self.tasks + later.tasks,
            attempts=self.attempts + later.attempts,
            results=self.results + later.results,
            accounts=self.accounts + later.accounts,
            nodes=tuple(node for node in self.nodes if node.id not in forgotten) + later.nodes,
            forgotten_nodes=tuple(id_ for id_ in self.forgotten_nodes if id_ not in enrolled)
            + later.forgotten_nodes,
            join_tokens=self.join_tokens + later.join_tokens,
            revoked_tokens=self.revoked_tokens + later.revoked_tokens,
            facts={**self.facts, **later.facts},
            removed_tasks=self.removed_tasks + later.removed_tasks,
            stale_before=max(self.stale_before, later.stale_before),
            movements=self.movements + later.movements,
            escrows=self.escrows + later.escrows,
            closed_escrows=self.closed_escrows + later.closed_escrows,
        )


_NOTHING = Changes()


@attrs.frozen(kw_only=True)
class Snapshot:
    """What a master that starts must know. Tasks come in the order of their submission."""

    tasks: tuple[Task, ...]
    """The unfinished ones."""
    attempts: tuple[Attempt, ...]
    """The newest attempt of each unfinished task that has one."""
    accounts: tuple[Account, ...]
    nodes: tuple[Node, ...]
    join_tokens: tuple[JoinToken, ...]
    """The ones that are neither used nor expired."""
    revoked_tokens: tuple[RevokedToken, ...]
    """The ones that have not expired."""
    facts: Mapping[str, bytes]
    balances: Mapping[str, int]
    """In millionths of a CPT, by ledger account. Every account that ever had any is there, but for
    escrows that were emptied."""
    escrows: tuple[Escrow, ...]
    """Those that are open, by task."""


@attrs.frozen(kw_only=True)
class StoredSpec:
    """What a worker needs to run a task, as it was submitted."""

    spec: bytes
    payload: Blob | None
    stdin: Blob | None


@attrs.frozen(kw_only=True)
class TaskPage:
    """Some tasks, the newest first."""

    tasks: tuple[Task, ...]
    next_cursor: str | None
    """Where the next page begins; None after the last."""


@attrs.frozen(kw_only=True)
class MovementPage:
    """Some entries of the ledger, the newest first."""

    movements: tuple[Movement, ...]
    next_cursor: str | None
    """Where the next page begins; None after the last."""
