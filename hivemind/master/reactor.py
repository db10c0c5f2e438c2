"""The one task that changes the cluster.

Commands come into a bounded inbox. A turn takes what has arrived, applies it to copies, commits all
of it in one transaction, and only then publishes, answers, and hands on what must be done. A commit
that fails drops the copies and refuses the commands; nothing has changed.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import structlog
import trio

from hivemind.core.events import Effect
from hivemind.core.policy import PoolRules
from hivemind.core.records import Task
from hivemind.master.backups import Backups
from hivemind.master.cluster import Cluster, load_cluster
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import Unsettled, not_now, unavailable
from hivemind.store.api import CommitFailed, DuplicateTask, OutcomeUnknown, Store

T = TypeVar("T")

_INBOX = 1024
_TURN_COMMANDS = 256
_TURN_PLACEMENTS = 256
"""Twenty thousand rows in one commit were measured to stall the loop for 45 ms, and five hundred
for 14 ms; a turn writes up to two rows for each command and placement."""

_RETRY_S = 1.0
"""How long to leave a store alone that would not take what nobody is waiting for."""

_SETTLE_S = 90.0
"""A commit is given up after a minute; a turn may wait for the one before it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Published(Protocol):
    """Whoever must know what has been committed."""

    def __call__(self, tasks: Sequence[Task], effects: Sequence[Effect]) -> None:
        """Take note; may not wait."""
        ...


@attrs.define(eq=False)
class _Request(Generic[T]):
    """A command in the inbox, and its answer."""

    apply: Callable[[Turn], T]
    done: trio.Event = attrs.field(factory=trio.Event)
    value: T | None = None
    error: Exception | None = None
    is_abandoned: bool = False
    """Nobody waits for the answer any more."""

    def answer(self, value: T) -> None:
        self.value = value
        self.done.set()

    def refuse(self, error: Exception) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()


@attrs.frozen
class _Applied:
    """What a command came to in a turn that is not committed yet."""

    request: _Request[Any]
    value: Any = None
    error: Exception | None = None
    made: frozenset[str] = frozenset()
    """The ids of the tasks that it made."""

    def tell(self) -> None:
        """Let the caller know."""
        if self.error is not None:
            self.request.refuse(self.error)
        else:
            self.request.answer(self.value)


class Reactor:
    """Owns the cluster. ``perform`` changes it; ``cluster`` may be read between two awaits."""

    def __init__(
        self,
        store: Store,
        *,
        rules: Callable[[], PoolRules],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._rules = rules
        self._wall_clock = wall_clock
        self._send, self._receive = trio.open_memory_channel[_Request[Any]](_INBOX)
        self._backups = Backups(rules)
        self._is_serving = False
        self._is_plan_due = False
        self._idle_until = 0.0
        """After a failed commit: when to do again what nobody asks for."""
        self.cluster = Cluster()
        """What is committed. It is another object after a commit of unknown outcome."""
        self.on_published: Published = _nobody
        self.on_reload: Callable[[], None] = _nothing

    async def perform(self, command: Callable[[Turn], T]) -> T:
        """Apply a command and return what it returned, once that is on disk.

        Waits while the inbox is full. Raises what the command raised, or CallRefused where the
        store would not take it or the reactor does not run; then nothing of it has happened. Raises
        Unsettled where that cannot be known. If the caller is cancelled, the command is left out
        unless its turn has begun.

        A command may be applied to several turns, of which one is committed at most.
        """
        if not self._is_serving:
            await trio.lowlevel.checkpoint()
            raise _not_serving()
        request: _Request[T] = _Request(command)
        await self._send.send(request)
        try:
            await request.done.wait()
        except trio.Cancelled:
            request.is_abandoned = True
            raise
        if request.error is not None:
            raise request.error
        return request.value  # type: ignore[return-value]

    async def settle(self, command: Callable[[Turn], T]) -> T:
        """As ``perform``, but not to be cancelled: for callers who must know the outcome, because
        they hold a file which the command names. Raises Unsettled also where it takes too long.
        """
        with trio.move_on_after(_SETTLE_S, shield=True):
            return await self.perform(command)
        raise Unsettled("the master is too slow to store this; look before you repeat it")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the inbox until cancelled. Raises StoreError where the store cannot be read.

        However it ends, whoever waits for an answer gets one.
        """
        await self._load()
        self.on_reload()
        self._is_serving = True
        task_status.started()
        batch: list[_Request[Any]] = []
        try:
            while True:
                batch = await self._next_batch()
                await self._serve(batch)
        finally:
            self._is_serving = False
            for request in batch:
                request.refuse(_unknown("it stopped meanwhile"))
            while True:
                try:
                    self._receive.receive_nowait().refuse(_not_serving())
                except trio.WouldBlock:
                    break

    async def _load(self) -> None:
        snapshot = await self._store.load()
        now_mono = trio.current_time()
        self.cluster = load_cluster(snapshot, now_mono)
        self._is_plan_due = False
        self._backups.clear()
        for task in self.cluster.tasks.values():
            self._backups.note(task, None, now_mono)

    async def _next_batch(self) -> list[_Request[Any]]:
        """What has arrived; empty when it is a backup's, or a waiting task's, turn."""
        batch: list[_Request[Any]] = []
        with trio.move_on_at(self._next_wake()):
            batch.append(await self._receive.receive())
        while len(batch) < _TURN_COMMANDS:
            try:
                batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        return batch

    def _next_wake(self) -> float:
        if self._is_plan_due:
            return self._idle_until
        due = (self._backups.next_at(), self.cluster.queue.next_wake())
        first = min((at for at in due if at is not None), default=float("inf"))
        return max(self._idle_until, first)

    async def _serve(self, batch: Sequence[_Request[Any]]) -> None:
        try:
            await self._turn([request for request in batch if not request.is_abandoned])
        except OutcomeUnknown as error:
            log.error("commit_outcome_unknown", error=str(error))
            for request in batch:
                request.refuse(_unknown(str(error)))
            await self._load()
            self.on_reload()

    async def _turn(self, requests: list[_Request[Any]]) -> None:
        """Commit and publish the requests together with what is due; those whose task is there
        already are refused and left out.
        """
        while True:
            turn = Turn(
                self.cluster,
                now=self._wall_clock(),
                now_mono=trio.current_time(),
                rules=self._rules(),
            )
            applied = [_apply(turn, request) for request in requests]
            is_planned = turn.now_mono >= self._idle_until
            placed = 0
            if is_planned:
                self._backups.fire(turn)
                placed = turn.plan(_TURN_PLACEMENTS)
            try:
                changes = turn.changes()
                if not changes.is_empty:
                    await self._store.commit(changes)
            except DuplicateTask as error:
                turn.roll_back()
                culprit = next((one for one in applied if error.task_id in one.made), None)
                if culprit is None:
                    self._drop(applied, error)
                    return
                culprit.request.refuse(error)
                requests.remove(culprit.request)
            except CommitFailed as error:
                turn.roll_back()
                self._drop(applied, error)
                return
            except BaseException:
                turn.roll_back()
                raise
            else:
                break
        if is_planned:
            self._is_plan_due = placed == _TURN_PLACEMENTS or turn.has_lifted_bars
        else:
            self._is_plan_due = True
        self._publish(turn, applied)

    def _drop(self, applied: Sequence[_Applied], error: CommitFailed) -> None:
        """Nothing was stored: whoever waits may try again, and what is due waits a little."""
        log.error("commit_failed", error=str(error), refused=len(applied))
        self._idle_until = trio.current_time() + _RETRY_S
        self._is_plan_due = True
        for one in applied:
            one.request.refuse(_not_stored(error))

    def _publish(self, turn: Turn, applied: Sequence[_Applied]) -> None:
        tasks, now_mono = turn.changed, trio.current_time()
        for task in tasks:
            self._backups.note(task, self.cluster.tasks.get(task.id), now_mono)
        turn.publish()
        for one in applied:
            one.tell()
        self.on_published(tasks, turn.effects)


def _apply(turn: Turn, request: _Request[Any]) -> _Applied:
    """Apply a command; one that fails is taken back and harms no other.

    What it raised is told after the commit, too: it may rest on another command of the turn.
    """
    mark, known = turn.mark(), len(turn.new_task_ids)
    try:
        value = request.apply(turn)
    except Exception as error:
        turn.roll_back(mark)
        return _Applied(request, error=error)
    return _Applied(request, value=value, made=frozenset(turn.new_task_ids[known:]))


def _nobody(tasks: Sequence[Task], effects: Sequence[Effect]) -> None:
    """Nobody listens yet."""


def _nothing() -> None:
    """Nobody listens yet."""


def _not_serving() -> Exception:
    return unavailable("the master is starting or stopping, and nothing was changed; try again")


def _not_stored(error: CommitFailed) -> Exception:
    # Not "unavailable", which clients repeat by themselves: a full disk wants a person.
    return not_now(
        f"the master could not store this, and nothing was changed; mend its disk, then try again"
        f" ({error})",
    )


def _unknown(why: str) -> Exception:
    return Unsettled(
        f"the master does not know whether this was stored; look before you repeat it ({why})",
    )
