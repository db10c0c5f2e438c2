"""One worker's conversation: what it says is applied, what it must do waits here to be sent."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import attrs
import structlog
import trio

from hivemind.core.lifecycle import LifecycleError
from hivemind.core.messages import (
    INLINE_BYTES,
    Acknowledged,
    Assignment,
    AttemptRef,
    DrainNotice,
    FinishedReport,
    Hello,
    Keyring,
    KillOrder,
    MasterItem,
    OutputHeld,
    OutputReport,
    RefusedReport,
    Renewed,
    StartedReport,
    StopOrder,
    Welcome,
    WorkerItem,
)
from hivemind.core.policy import PoolRules
from hivemind.core.records import (
    Blob,
    Ending,
    Outcome,
    OutputChunk,
    Reason,
    Task,
    Vitals,
)
from hivemind.master import commands
from hivemind.master.bell import Bell
from hivemind.master.output import OutputError, OutputFolder, OutputLog, OutputTooLarge
from hivemind.master.reactor import Reactor
from hivemind.rpc.contract.faults import MalformedMessage, unavailable
from hivemind.rpc.contract.specs import decode_spec
from hivemind.rpc.errors import CallRefused, RpcError
from hivemind.store.api import Store, StoreError

_HELLO_S = 10.0
"""How long a worker may take to introduce itself."""

_MOST_WAITING = 10_000
"""Orders that may wait for a worker. What it runs bounds them well below; one that takes none of
them is cut off."""

_MOST_PER_BATCH = 500
_BATCH_BYTES = 1024 * 1024
"""A batch is full when it holds so much, and may pass it by one assignment: that is at most a
megabyte of arguments and twice ``INLINE_BYTES``, and a worker takes messages of four."""

OUTPUT_SLACK_BYTES = 1024 * 1024
"""A sandbox cuts output off when it has seen too much, so a little more than the limit arrives."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@attrs.frozen
class GiveOrder:
    """An assignment that is still to be read from the store."""

    ref: AttemptRef


Order = MasterItem | GiveOrder


@attrs.frozen(kw_only=True)
class SessionTools:
    """What every session works with."""

    reactor: Reactor
    store: Store
    output: OutputFolder
    rules: Callable[[], PoolRules]
    most_output_bytes: Callable[[str], int]
    """The most output that a task of this policy may have."""
    keyring: Callable[[str], Keyring]
    """What a node must know now to check tokens by itself."""


class Session:
    """A link from its hello to its end."""

    def __init__(self, node_id: str, tools: SessionTools, on_joined: Callable[[], None]) -> None:
        """``on_joined`` is called when the worker's hello was taken; it may not wait."""
        self.node_id = node_id
        self.vitals: Vitals | None = None
        self.is_welcome = False
        self.heard_at = trio.current_time()
        """When the worker last said anything, by Trio's clock."""
        self.gone = trio.Event()
        """Set when nothing more of what the worker says is applied."""
        self._tools = tools
        self._on_joined = on_joined
        self._orders: deque[Order] = deque()
        self._bell = Bell()
        self._is_over = False
        self._error: CallRefused | None = None
        self._scope = trio.CancelScope()
        self._logs: dict[AttemptRef, OutputLog] = {}
        self._output_limits: dict[AttemptRef, int] = {}
        """Of those that printed much: what their tasks may."""
        self._keyring: Keyring | None = None

    # --- what the worker must do ---

    def order(self, order: Order) -> None:
        """Let the worker know, as soon as it listens."""
        if isinstance(order, Renewed) and self._orders and self._orders[-1] == order:
            return
        if len(self._orders) >= _MOST_WAITING:
            self.end(MalformedMessage("this worker takes no orders; connect again"))
            return
        if isinstance(order, KillOrder):
            self._let_go(order.ref)
        self._orders.append(order)
        self._bell.ring()

    def end(self, error: CallRefused | None = None) -> None:
        """Cut the link; the worker learns why."""
        if not self._is_over:
            self._is_over, self._error = True, error
        self._bell.ring()
        self._scope.cancel()

    async def orders(self) -> AsyncGenerator[tuple[MasterItem, ...], None]:
        """What is to be sent, in batches, until the link ends. Raises what ended it.

        Nothing is sent before the welcome, which is put in front of what came meanwhile.
        """
        while not self._is_over:
            if self.is_welcome and self._orders:
                batch = await self._next_batch()
                if batch:
                    yield batch
            else:
                await self._bell.wait()
        if self._error is not None:
            raise self._error

    async def _next_batch(self) -> tuple[MasterItem, ...]:
        batch: list[MasterItem] = []
        size = 0
        while self._orders and len(batch) < _MOST_PER_BATCH and size < _BATCH_BYTES:
            order = self._orders.popleft()
            if isinstance(order, GiveOrder):
                assignment = await self._assignment(order.ref)
                if assignment is not None:
                    batch.append(assignment)
                    size += len(assignment.spec)
                    size += len(assignment.payload or b"") + len(assignment.stdin or b"")
            else:
                batch.append(order)
        return tuple(batch)

    async def _assignment(self, ref: AttemptRef) -> Assignment | None:
        """The whole assignment; None if the attempt is over already."""
        try:
            stored = await self._tools.store.spec(ref.task_id)
        except StoreError as error:
            log.error("link_cut", node_id=self.node_id, error=str(error))
            raise unavailable("the master cannot read its store now; connect again") from error
        cluster = self._tools.reactor.cluster
        task, attempt = cluster.tasks.get(ref.task_id), cluster.attempts.get(ref.task_id)
        if stored is None or task is None or attempt is None:
            return None
        if not commands.is_under_way(task, ref, self.node_id):
            return None
        payload, payload_to_fetch = _inline(stored.payload)
        stdin, stdin_to_fetch = _inline(stored.stdin)
        return Assignment(
            ref=ref,
            lease_id=attempt.lease_id,
            account=task.account,
            spec=stored.spec,
            payload=payload,
            payload_to_fetch=payload_to_fetch,
            stdin=stdin,
            stdin_to_fetch=stdin_to_fetch,
            known_as=task.client_id,
        )

    # --- what the worker says ---

    async def listen(
        self, batches: AsyncIterator[tuple[WorkerItem, ...]], after: trio.Event | None
    ) -> None:
        """Apply what the worker says until the link ends; ``gone`` is set at the end.

        This is a link's supervision point: whatever goes wrong here ends this link alone.

        Args:
            batches: what the worker says.
            after: set when the cluster knows that the node's older link is over; None: it does.
        """
        try:
            with self._scope:
                if after is not None:
                    await after.wait()
                await self._converse(batches)
        except OutputError as error:
            log.warning("link_cut", node_id=self.node_id, error=str(error))
            self.end(MalformedMessage(str(error)))
        except LifecycleError as error:
            log.warning("link_cut", node_id=self.node_id, error=str(error))
            self.end(MalformedMessage(str(error)))
            await self._distrust()
        except StoreError as error:
            log.error("link_cut", node_id=self.node_id, error=str(error))
            self.end(unavailable("the master cannot store reports now; connect again"))
        except OSError as error:
            log.error("link_cut", node_id=self.node_id, error=str(error))
            self.end(unavailable(f"the master cannot keep output now: {error.strerror}"))
        except CallRefused as error:
            log.warning("link_cut", node_id=self.node_id, error=str(error))
            self.end(error)
        except RpcError:
            self.end()
        except Exception as error:
            log.exception("link_failed", node_id=self.node_id)
            self.end(unavailable(f"the master failed on this link: {type(error).__name__}"))
        finally:
            self.end()
            self.gone.set()

    async def _distrust(self) -> None:
        """Have the cluster know that this node said what cannot be true."""
        try:
            await self._tools.reactor.perform(lambda turn: commands.distrust(turn, self.node_id))
        except CallRefused as error:
            log.warning("distrust_not_stored", node_id=self.node_id, error=str(error))

    async def _converse(self, batches: AsyncIterator[tuple[WorkerItem, ...]]) -> None:
        first: tuple[WorkerItem, ...] | None = ()
        with trio.move_on_after(_HELLO_S) as waiting:
            first = await anext(batches, None)
        if waiting.cancelled_caught:
            raise MalformedMessage(f"no hello came within {_HELLO_S:g} s")
        if first is None:
            return
        if not first or not isinstance(first[0], Hello):
            raise MalformedMessage("a link must begin with a hello")
        await self._join(first[0])
        await self._take(first[1:])
        while True:
            with trio.move_on_after(self._tools.rules().lease_s) as silence:
                batch = await anext(batches, None)
            if silence.cancelled_caught:
                raise unavailable("the lease ended: no heartbeat came in time; connect again")
            if batch is None:
                return
            self.heard_at = trio.current_time()
            await self._take(batch)

    async def _join(self, hello: Hello) -> None:
        joined = await self._tools.reactor.perform(
            lambda turn: commands.join(turn, self.node_id, hello)
        )
        self._on_joined()
        held: list[OutputHeld] = []
        for ref in joined.wanted:
            known = await self._log(ref)
            held.append(OutputHeld(ref, known.size))
        rules = self._tools.rules()
        epoch = self._tools.reactor.cluster.facts.get("epoch", b"0")
        self._keyring = self._tools.keyring(self.node_id)
        self._orders.extendleft(StopOrder(ref) for ref in reversed(joined.stopping))
        self._orders.appendleft(
            Welcome(
                lease_s=rules.lease_s,
                heartbeat_s=rules.heartbeat_s,
                held=tuple(held),
                unwanted=joined.unwanted,
                epoch=int(epoch),
                keyring=self._keyring,
            )
        )
        self.is_welcome = True
        self._bell.ring()

    async def _take(self, items: Sequence[WorkerItem]) -> None:
        """Apply a batch: its output first, since a final report comes after all of it."""
        output: dict[AttemptRef, list[OutputChunk]] = {}
        reports: list[StartedReport | RefusedReport | FinishedReport] = []
        for item in items:
            match item:
                case Vitals():
                    self.vitals = item
                    self._renew_keyring()
                    self.order(Renewed())
                case OutputReport():
                    ref = AttemptRef(item.task_id, item.output.attempt)
                    output.setdefault(ref, []).append(item.output.chunk)
                case StartedReport() | RefusedReport() | FinishedReport():
                    reports.append(item)
                case DrainNotice():
                    await self._tools.reactor.perform(
                        lambda turn: commands.set_draining(turn, self.node_id, draining=True)
                    )
                case Hello():
                    raise MalformedMessage("a link has one hello, at its beginning")
        for ref, chunks in output.items():
            await self._append(ref, chunks)
        if reports:
            await self._report(reports)

    def _renew_keyring(self) -> None:
        """Tell the worker which tokens it may believe, where that has changed."""
        keyring = self._tools.keyring(self.node_id)
        if keyring != self._keyring:
            self._keyring = keyring
            self.order(keyring)

    async def _append(self, ref: AttemptRef, chunks: Sequence[OutputChunk]) -> None:
        task = self._given(ref)
        if task is None:
            self.order(KillOrder(ref))
            return
        known = await self._log(ref)
        most_bytes = self._tools.most_output_bytes(task.policy)
        if known.size + sum(len(chunk.data) for chunk in chunks) > OUTPUT_SLACK_BYTES:
            # Few tasks print so much, and only theirs are looked up.
            most_bytes = min(most_bytes, await self._output_limit(ref, most_bytes))
        try:
            await known.append(chunks, most_bytes=most_bytes)
        except OutputTooLarge as error:
            ending = Ending(
                outcome=Outcome.FAILED,
                reason=Reason.OUTPUT_LIMIT,
                detail=f"its node sent {error}; the master ended it",
            )
            await known.sync()
            await self._tools.reactor.perform(
                lambda turn: commands.end_attempt(turn, self.node_id, ref, ending)
            )

    async def _report(
        self, items: Sequence[StartedReport | RefusedReport | FinishedReport]
    ) -> None:
        said: list[commands.Report] = []
        for item in items:
            result: Blob | None = None
            if isinstance(item, FinishedReport):
                await self._settle_output(item)
                if item.result is not None and len(item.result) > INLINE_BYTES:
                    raise MalformedMessage(
                        f"a result of {len(item.result)} bytes rides in a report;"
                        f" one of more than {INLINE_BYTES} comes apart"
                    )
                if item.result:
                    result = Blob(size=len(item.result), inline=item.result)
            said.append(commands.Report(item=item, result=result))
        outcomes = await self._tools.reactor.perform(
            lambda turn: commands.report_all(turn, self.node_id, said)
        )
        for item, outcome in zip(items, outcomes, strict=True):
            if not isinstance(item, StartedReport):
                self._let_go(item.ref)
                self.order(Acknowledged(item.ref, item.seq))
            elif outcome.is_unwanted:
                self.order(KillOrder(item.ref))

    async def _settle_output(self, report: FinishedReport) -> None:
        """Have the attempt's output on disk, all of it, before its end is committed."""
        if self._given(report.ref) is None:
            return
        known = await self._log(report.ref)
        if known.size < report.output_bytes:
            raise MalformedMessage(
                f"attempt {report.ref.attempt} of task {report.ref.task_id} is reported finished"
                f" with {report.output_bytes} bytes of output, and {known.size} came"
            )
        await known.sync()

    def _given(self, ref: AttemptRef) -> Task | None:
        """The task, if this node was given that attempt and it is not over."""
        task = self._tools.reactor.cluster.tasks.get(ref.task_id)
        if task is None or not commands.is_under_way(task, ref, self.node_id):
            return None
        return task

    async def _output_limit(self, ref: AttemptRef, most_bytes: int) -> int:
        """How much output the task's own limit lets arrive; ``most_bytes`` where it is gone."""
        limit = self._output_limits.get(ref)
        if limit is None:
            stored = await self._tools.store.spec(ref.task_id)
            if stored is None:
                return most_bytes
            limit = decode_spec(stored.spec).output_bytes + OUTPUT_SLACK_BYTES
            self._output_limits[ref] = limit
        return limit

    def _let_go(self, ref: AttemptRef) -> None:
        self._logs.pop(ref, None)
        self._output_limits.pop(ref, None)

    async def _log(self, ref: AttemptRef) -> OutputLog:
        known = self._logs.get(ref)
        if known is None:
            known = self._logs[ref] = await self._tools.output.log(ref.task_id, ref.attempt)
        return known


def _inline(blob: Blob | None) -> tuple[bytes | None, int]:
    """What rides in the assignment, and the size of what does not."""
    if blob is None:
        return None, 0
    if blob.inline is not None:
        return blob.inline, 0
    return None, blob.size
