"""Reports that must come, and what happens to an attempt whose report does not."""

from collections.abc import Callable

import attrs
import structlog

from hivemind.core.events import KillAttempt, NodeLost, TimedOut
from hivemind.core.lifecycle import LifecycleError
from hivemind.core.ordered import Ordered
from hivemind.core.policy import PoolRules
from hivemind.core.records import Task, TaskState
from hivemind.master.cluster import UNDER_WAY
from hivemind.master.turn import Turn

NEVER_STARTED_S = 300.0
"""How much longer than its time limit an attempt may stay assigned: fetching its input takes time
too."""

_MOST_AT_ONCE = 256

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@attrs.frozen
class _Backup:
    task_id: str
    is_stop: bool
    """Whether it waits for a stop to be confirmed, or else for a time limit to be kept."""


class Backups:
    """At most two for each task under way: one for its time limit, one for its stop.

    Durations count from the moment at which a state was published or loaded: the master's own
    restart gives every attempt its whole time again.
    """

    def __init__(self, rules: Callable[[], PoolRules]) -> None:
        self._rules = rules
        self._due: Ordered[_Backup] = Ordered()

    def note(self, task: Task, before: Task | None, now_mono: float) -> None:
        """A task was published. ``before``: as it was published last, if it was."""
        limit, stop = _Backup(task.id, is_stop=False), _Backup(task.id, is_stop=True)
        if task.state not in UNDER_WAY:
            self._due.discard(limit)
            self._due.discard(stop)
            return
        rules = self._rules()
        if before is None or (before.state, before.attempt) != (task.state, task.attempt):
            wait_s = task.wall_s + rules.time_limit_grace_s
            if task.state is TaskState.ASSIGNED:
                wait_s += NEVER_STARTED_S
            self._due.put(limit, (now_mono + wait_s,))
        if task.stop_requested and (before is None or not before.stop_requested):
            self._due.put(stop, (now_mono + rules.stop_grace_s + rules.lease_s,))

    def clear(self) -> None:
        """Wait for nothing any more."""
        self._due = Ordered()

    def next_at(self) -> float | None:
        """When the first of them is due, by the monotonic clock; None: there is none."""
        first = self._due.first()
        return None if first is None else float(self._due.key_of(first)[0])

    def fire(self, turn: Turn) -> None:
        """Do in the turn what is due. It stays due until its task is published otherwise."""
        due: list[_Backup] = []
        for backup in self._due.in_order():
            if float(self._due.key_of(backup)[0]) > turn.now_mono or len(due) == _MOST_AT_ONCE:
                break
            due.append(backup)
        for backup in due:
            task = turn.task(backup.task_id)
            if task is None:
                self._due.discard(backup)
                continue
            if task.state not in UNDER_WAY:
                continue  # it ended in this very turn
            mark = turn.mark()
            try:
                _end(turn, task, backup)
            except LifecycleError as error:
                turn.roll_back(mark)
                self._due.discard(backup)
                log.error("backup_failed", task_id=task.id, error=str(error))


def _end(turn: Turn, task: Task, backup: _Backup) -> None:
    if not backup.is_stop:
        turn.step(task.id, TimedOut(attempt=task.attempt))
        return
    detail = f"node {task.node_id} did not confirm the stop: unconfirmed"
    turn.step(task.id, NodeLost(attempt=task.attempt, detail=detail))
    turn.add_effect(KillAttempt(task_id=task.id, attempt=task.attempt, node_id=task.node_id))
