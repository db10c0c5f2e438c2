"""The one task that changes the cluster.

Commands come into a bounded inbox. A turn takes what has arrived, applies it to copies, commits all
of it in one transaction, and only then publishes, answers, and hands on what must be done. A commit
that fails drops the copies and refuses the commands; nothing has changed.
"""

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import structlog
import trio

from hivemind.core.events import Effect, NodeLost, SendStop, TimedOut
from hivemind.core.lifecycle import LifecycleError
from hivemind.core.policy import PoolRules
from hivemind.core.records import Task, TaskState
from hivemind.master.cluster import UNDER_WAY, Cluster, load_cluster
from hivemind.master.turn import Turn
from hivemind.rpc.contract.faults import unavailable
from hivemind.store.api import CommitFailed, DuplicateTask, OutcomeUnknown, Store

T = TypeVar("T")

_INBOX = 1024
_TURN_COMMANDS = 256
_TURN_PLACEMENTS = 256
"""Twenty thousand rows in one commit were measured to stall the loop for 45 ms, and five hundred
for 14 ms; a turn writes up to two rows for each command and placement."""

_RETRY_S = 1.0
"""How long to leave a store alone that would not take what nobody is waiting for."""

_NEVER_STARTED_S = 300.0
"""How much longer than its time limit an attempt may stay assigned: fetching its input takes time
too."""

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

    def answer(self, value: T) -> None:
        self.value = value
        self.done.set()

    def refuse(self, error: Exception) -> None:
        self.error = error
        self.done.set()


@attrs.frozen(order=True)
class _Timer:
    """The backup for a report that does not come."""

    at: float
    task_id: str
    attempt: int
    state: TaskState
    is_stop: bool


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
        self._timers: list[_Timer] = []
        self._plan_after = 0.0
        self.cluster = Cluster()
        """What is committed. It is another object after a commit of unknown outcome."""
        self.on_published: Published = _nobody
        self.on_reload: Callable[[], None] = _nothing

    async def perform(self, command: Callable[[Turn], T]) -> T:
        """Apply a command and return what it returned, once that is on disk.

        Waits while the inbox is full. Raises what the command raised, or CallRefused where the
        store would not take it; either way nothing of it has happened. If the caller is cancelled
        meanwhile, it may happen all the same.
        """
        request: _Request[T] = _Request(command)
        await self._send.send(request)
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value  # type: ignore[return-value]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the inbox until cancelled. Raises StoreError where the store cannot be read."""
        await self._load()
        self.on_reload()
        task_status.started()
        while True:
            batch = await self._next_batch()
            try:
                await self._turn(batch)
            except OutcomeUnknown as error:
                log.error("commit_outcome_unknown", error=str(error))
                for request in batch:
                    if not request.done.is_set():
                        request.refuse(_unknown(error))
                await self._load()
                self.on_reload()
            except Exception as error:
                for request in batch:
                    if not request.done.is_set():
                        request.refuse(_unknown(error))
                raise

    async def _load(self) -> None:
        snapshot = await self._store.load()
        now_mono = trio.current_time()
        self.cluster = load_cluster(snapshot, now_mono)
        self._timers.clear()
        for task in self.cluster.tasks.values():
            self._arm(task, now_mono)

    async def _next_batch(self) -> list[_Request[Any]]:
        """What has arrived; empty when it is a timer's, or a waiting task's, turn."""
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
        wakes = [timer.at for timer in self._timers[:1]]
        queue_wake = self.cluster.queue.next_wake()
        if queue_wake is not None:
            wakes.append(max(queue_wake, self._plan_after))
        if self._plan_after > trio.current_time():
            wakes.append(self._plan_after)
        return min(wakes, default=float("inf"))

    async def _turn(self, batch: list[_Request[Any]]) -> None:
        turn = Turn(
            self.cluster,
            now=self._wall_clock(),
            now_mono=trio.current_time(),
            rules=self._rules(),
        )
        answers = [(request, value) for request, value in self._apply(turn, batch)]
        timers = self._fire(turn)
        if turn.now_mono >= self._plan_after:
            turn.plan(_TURN_PLACEMENTS)
        changes = turn.changes()
        try:
            if not changes.is_empty:
                await self._store.commit(changes)
        except DuplicateTask as error:
            turn.roll_back()
            self._put_back(timers)
            if len(answers) == 1:
                answers[0][0].refuse(error)
                return
            for request, _ in answers:
                await self._turn([request])
            return
        except CommitFailed as error:
            turn.roll_back()
            self._put_back(timers)
            self._plan_after = trio.current_time() + _RETRY_S
            log.error("commit_failed", error=str(error), refused=len(answers))
            for request, _ in answers:
                request.refuse(_not_stored(error))
            return
        except BaseException:
            turn.roll_back()
            raise
        tasks = turn.publish()
        now_mono = trio.current_time()
        for task in tasks:
            self._arm(task, now_mono)
        for effect in turn.effects:
            if isinstance(effect, SendStop):
                self._arm_stop(effect, now_mono)
        for request, value in answers:
            request.answer(value)
        self.on_published(tasks, turn.effects)

    def _apply(self, turn: Turn, batch: Sequence[_Request[Any]]) -> list[tuple[_Request[Any], Any]]:
        """Apply each command; one that fails is taken back and answered, and harms no other."""
        applied: list[tuple[_Request[Any], Any]] = []
        for request in batch:
            mark = turn.mark()
            try:
                applied.append((request, request.apply(turn)))
            except Exception as error:
                turn.roll_back(mark)
                request.refuse(error)
        return applied

    # --- backups for reports that do not come ---

    def _arm(self, task: Task, now_mono: float) -> None:
        if task.state not in UNDER_WAY:
            return
        wait_s = task.wall_s + self._rules().time_limit_grace_s
        if task.state is TaskState.ASSIGNED:
            wait_s += _NEVER_STARTED_S
        timer = _Timer(now_mono + wait_s, task.id, task.attempt, task.state, is_stop=False)
        heapq.heappush(self._timers, timer)

    def _arm_stop(self, effect: SendStop, now_mono: float) -> None:
        rules = self._rules()
        at = now_mono + rules.stop_grace_s + rules.lease_s
        state = self.cluster.tasks[effect.task_id].state
        timer = _Timer(at, effect.task_id, effect.attempt, state, is_stop=True)
        heapq.heappush(self._timers, timer)

    def _fire(self, turn: Turn) -> list[_Timer]:
        """Apply the timers that are due and still mean something; returns them."""
        fired: list[_Timer] = []
        while self._timers and self._timers[0].at <= turn.now_mono:
            timer = heapq.heappop(self._timers)
            task = turn.task(timer.task_id)
            if task is None or task.attempt != timer.attempt or task.state not in UNDER_WAY:
                continue
            if not timer.is_stop and task.state is not timer.state:
                continue
            event = TimedOut(attempt=timer.attempt)
            if timer.is_stop:
                event = NodeLost(  # type: ignore[assignment]
                    attempt=timer.attempt,
                    detail=f"node {task.node_id} did not confirm the stop: unconfirmed",
                )
            mark = turn.mark()
            try:
                turn.step(timer.task_id, event)
            except LifecycleError as error:
                turn.roll_back(mark)
                log.error("timer_failed", task_id=timer.task_id, error=str(error))
            fired.append(timer)
        return fired

    def _put_back(self, timers: Sequence[_Timer]) -> None:
        for timer in timers:
            later = attrs.evolve(timer, at=trio.current_time() + _RETRY_S)
            heapq.heappush(self._timers, later)


def _nobody(tasks: Sequence[Task], effects: Sequence[Effect]) -> None:
    """Nobody listens yet."""


def _nothing() -> None:
    """Nobody listens yet."""


def _not_stored(error: CommitFailed) -> Exception:
    return unavailable(
        f"the master could not store this, and nothing was changed; try again ({error})",
    )


def _unknown(error: Exception) -> Exception:
    return unavailable(
        f"the master does not know whether this was stored; look before you repeat it ({error})",
    )
