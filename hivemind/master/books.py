"""The ledger as one turn has it: what it would post, over what is published."""

from collections.abc import Callable

from hivemind.core.ledger import (
    Escrow,
    Movement,
    check_movement,
    escrow_account,
    settle,
    sides,
)
from hivemind.master.cluster import Cluster

Undo = Callable[[], object]


class Books:
    """A turn's own balances and escrows. Everything that changes them leaves word in ``undo`` of
    how to take it back.
    """

    def __init__(self, cluster: Cluster, undo: list[Undo]) -> None:
        self._cluster = cluster
        self._undo = undo
        self._balances: dict[str, int] = {}
        self._escrows: dict[str, Escrow | None] = {}
        self._movements: list[Movement] = []

    # --- reading ---

    def balance(self, account: str) -> int:
        """What a ledger account has; 0 for one that never had any."""
        found = self._balances.get(account)
        return self._cluster.balances.get(account, 0) if found is None else found

    def escrow(self, task_id: str) -> Escrow | None:
        """What is held for a task."""
        if task_id in self._escrows:
            return self._escrows[task_id]
        return self._cluster.escrows.get(task_id)

    # --- writing ---

    def post(self, movement: Movement) -> None:
        """Enter a movement. Raises LedgerError, and changes nothing then."""
        check_movement(movement, self.balance(movement.debit))
        before = {account: self._balances.get(account) for account, _ in sides(movement)}
        for account, change in sides(movement):
            self._balances[account] = self.balance(account) + change
        self._movements.append(movement)

        def undo() -> None:
            self._movements.pop()
            for account, had in before.items():
                if had is None:
                    del self._balances[account]
                else:
                    self._balances[account] = had

        self._undo.append(undo)

    def put_escrow(self, escrow: Escrow) -> None:
        """A new escrow, or one that somebody has earned more of."""
        self._set_escrow(escrow.task_id, escrow)

    def empty_escrow(self, task_id: str, at: float) -> None:
        """Pay what is due and give the rest back; nothing happens where nothing is held."""
        escrow = self.escrow(task_id)
        if escrow is None:
            return
        for movement in settle(escrow, at):
            self.post(movement)
        if self.balance(escrow_account(task_id)):
            raise AssertionError(f"the escrow of task {task_id} is settled and not empty")
        self._set_escrow(task_id, None)

    def _set_escrow(self, task_id: str, escrow: Escrow | None) -> None:
        is_new = task_id not in self._escrows
        before = self._escrows.get(task_id)
        self._escrows[task_id] = escrow

        def undo() -> None:
            if is_new:
                del self._escrows[task_id]
            else:
                self._escrows[task_id] = before

        self._undo.append(undo)

    # --- the end ---

    @property
    def movements(self) -> tuple[Movement, ...]:
        """What this turn enters, in order."""
        return tuple(self._movements)

    @property
    def open_escrows(self) -> tuple[Escrow, ...]:
        """The escrows that this turn makes or changes, and does not empty."""
        return tuple(escrow for escrow in self._escrows.values() if escrow is not None)

    @property
    def closed_escrows(self) -> tuple[str, ...]:
        """The tasks whose escrow this turn empties."""
        return tuple(task_id for task_id, escrow in self._escrows.items() if escrow is None)

    def publish(self, cluster: Cluster) -> None:
        """Show what was committed."""
        for account, ucpt in self._balances.items():
            cluster.put_balance(account, ucpt)
        for task_id, escrow in self._escrows.items():
            cluster.put_escrow(task_id, escrow)
