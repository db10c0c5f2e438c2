"""The Link service: workers come, prove who they are, take work and report."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import attrs
import structlog
import trio

from hivemind.core.events import Effect, KillAttempt, SendAssign, SendStop
from hivemind.core.lifecycle import LifecycleError
from hivemind.core.messages import (
    AttemptRef,
    Enrolled,
    Enrolment,
    FinishedReport,
    KillOrder,
    MasterItem,
    NodeToken,
    StopOrder,
    WorkerItem,
)
from hivemind.master import commands
from hivemind.master.cluster import UNDER_WAY
from hivemind.master.enrolment import Enroller
from hivemind.master.session import GiveOrder, Session, SessionTools
from hivemind.rpc.contract.faults import (
    MalformedMessage,
    Unsettled,
    denied,
    invalid,
    superseded,
    unavailable,
)
from hivemind.rpc.errors import CallRefused, ErrorCode
from hivemind.rpc.spool import OverLimit, Spool
from hivemind.store.blobs import BlobFolder

_GOODBYE_S = 5.0
_OUTPUT_S = 30.0
"""How long a result waits for output that is still on its way over the link."""
_RETRY_S = 1.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


_CLEANUP_S = 10.0


@attrs.define(eq=False)
class _Lease:
    """A node that is away, and until when what it has is kept for it."""

    until: float
    """By Trio's clock."""
    is_noted: trio.Event = attrs.field(factory=trio.Event)
    """The cluster knows that it is away."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Links:
    """Every worker's link, and the leases of those that are away."""

    def __init__(
        self,
        tools: SessionTools,
        *,
        enroller: Enroller,
        blobs: BlobFolder,
        spool: Spool,
        most_result_bytes: Callable[[str], int],
    ) -> None:
        self._tools = tools
        self._enroller = enroller
        self._blobs = blobs
        self._spool = spool
        self._most_result_bytes = most_result_bytes
        self._sessions: dict[str, Session] = {}
        self._leases: dict[str, _Lease] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all links until cancelled.

        Nodes that had work when the master last stopped get a lease's time to come back.
        """
        async with trio.open_nursery() as links:
            self._nursery = links
            try:
                cluster, now = self._tools.reactor.cluster, trio.current_time()
                for node_id in {*cluster.on_node, *cluster.fleet.nodes}:
                    node = cluster.nodes.get(node_id)
                    if node is not None and node.registration is not None:
                        continue  # It has no link; whoever pushes to it minds its lease.
                    self._begin_lease(node_id, now + self._tools.rules().lease_s)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._leases.clear()

    def session(self, node_id: str) -> Session | None:
        """The node's link; None while it has none."""
        return self._sessions.get(node_id)

    def end_all(self) -> None:
        """Cut every link: the cluster was read anew, and what they know of it may be wrong."""
        for session in tuple(self._sessions.values()):
            session.end(unavailable("the master starts over; connect again"))

    def dispatch(self, effects: Sequence[Effect]) -> None:
        """Hand what was committed to the links it concerns; may not wait.

        A node that is away misses nothing: what it was given and does not hold when it comes back
        is assigned again, and stops are repeated then.
        """
        for effect in effects:
            if not isinstance(effect, SendAssign | SendStop | KillAttempt):
                continue
            session = self._sessions.get(effect.node_id)
            if session is None:
                continue
            ref = AttemptRef(effect.task_id, effect.attempt)
            match effect:
                case SendAssign():
                    session.order(GiveOrder(ref))
                case SendStop():
                    session.order(StopOrder(ref))
                case KillAttempt():
                    session.order(KillOrder(ref))

    # --- the service ---

    async def enrol(self, peer: str, enrolment: Enrolment) -> Enrolled:
        """See LinkHandlers."""
        return await self._enroller.enrol(peer, enrolment)

    async def challenge(self, peer: str, node_id: str) -> bytes:
        """See LinkHandlers."""
        return self._enroller.challenge(node_id)

    async def prove(self, peer: str, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        """See LinkHandlers."""
        return self._enroller.prove(node_id, nonce, signature)

    async def connect(
        self, node_id: str, batches: AsyncIterator[tuple[WorkerItem, ...]]
    ) -> AsyncGenerator[tuple[MasterItem, ...], None]:
        """See LinkHandlers. A node's newer link ends its older one."""
        while (older := self._sessions.get(node_id)) is not None:
            older.end(superseded("a newer link of this node took this one's place"))
            await older.gone.wait()
        nursery = self._running()
        session = Session(node_id, self._tools, on_joined=lambda: self._end_lease(node_id))
        self._sessions[node_id] = session
        log.info("link_opened", node_id=node_id)
        lease = self._leases.get(node_id)
        nursery.start_soon(
            self._listen, session, batches, None if lease is None else lease.is_noted
        )
        try:
            async with aclosing(session.orders()) as orders:
                async for batch in orders:
                    yield batch
        finally:
            session.end()
            with trio.move_on_after(_GOODBYE_S, shield=True):
                await session.gone.wait()
            log.info("link_closed", node_id=node_id)

    async def _listen(
        self,
        session: Session,
        batches: AsyncIterator[tuple[WorkerItem, ...]],
        after: trio.Event | None,
    ) -> None:
        """Hear the worker out. The link is over then, though its other half may still wait for a
        worker who reads nothing.
        """
        try:
            await session.listen(batches, after)
        finally:
            self._close(session)

    def _close(self, session: Session) -> None:
        """The session is over: the node's lease runs until it says hello again."""
        node_id = session.node_id
        if self._sessions.get(node_id) is not session:
            return
        del self._sessions[node_id]
        if node_id not in self._tools.reactor.cluster.nodes:
            return  # It was forgotten, and what it had is lost already.
        lease = self._leases.get(node_id)
        if lease is None or session.is_welcome:
            self._begin_lease(node_id, trio.current_time() + self._tools.rules().lease_s)
        else:
            # It never said hello, so that it gained no time; but it may have been about to join.
            self._begin_lease(node_id, lease.until)

    async def fetch_payload(
        self, node_id: str, ref: AttemptRef, *, stdin: bool
    ) -> AsyncGenerator[bytes, None]:
        """See LinkHandlers."""
        self._check_given(node_id, ref)
        stored = await self._tools.store.spec(ref.task_id)
        blob = None if stored is None else stored.stdin if stdin else stored.payload
        if blob is None:
            return
        async with self._blobs.open_read(blob) as chunks:
            async for chunk in chunks:
                yield chunk

    async def finish_with_result(
        self, node_id: str, report: FinishedReport, result: AsyncIterator[bytes]
    ) -> None:
        """See LinkHandlers. A report on an attempt that is over is answered and dropped."""
        ref = report.ref
        task = self._tools.reactor.cluster.tasks.get(ref.task_id)
        if task is None or ref.attempt < task.attempt:
            return
        if ref.attempt == task.attempt and task.state not in UNDER_WAY:
            return
        self._check_given(node_id, ref)
        async with self._spool.open_file(max_bytes=self._most_result_bytes(task.policy)) as file:
            try:
                await file.fill(result)
            except OverLimit as error:
                raise invalid(str(error)) from error
            await file.finish()
            await self._settle_output(report)
            size = file.size_bytes
            blob = await self._blobs.adopt(file.path)
        item = attrs.evolve(report, ending=attrs.evolve(report.ending, result_bytes=size))
        said = commands.Report(item=item, result=blob if size else None)
        is_named = False
        contradiction: MalformedMessage | None = None
        try:
            (outcome,) = await self._tools.reactor.settle(
                lambda turn: commands.report_all(turn, node_id, [said])
            )
            is_named = outcome.is_applied
        except LifecycleError as error:
            contradiction = MalformedMessage(str(error))
        except Unsettled:
            # If nothing names the file, it is removed at the next start.
            is_named = True
            raise
        finally:
            if not is_named:
                with trio.move_on_after(_CLEANUP_S, shield=True):
                    await self._blobs.delete(blob)
        if contradiction is not None:
            await self._tools.reactor.perform(lambda turn: commands.distrust(turn, node_id))
            raise contradiction

    async def _settle_output(self, report: FinishedReport) -> None:
        known = await self._tools.output.log(report.ref.task_id, report.ref.attempt)
        with trio.move_on_after(_OUTPUT_S) as waiting:
            await known.wait_for(report.output_bytes)
        if waiting.cancelled_caught:
            raise unavailable(
                f"{report.output_bytes} bytes of output were announced and {known.size} came;"
                " send the rest over the link and repeat this"
            )
        await known.sync()

    def _check_given(self, node_id: str, ref: AttemptRef) -> None:
        task = self._tools.reactor.cluster.tasks.get(ref.task_id)
        if task is None or not commands.is_under_way(task, ref, node_id):
            raise denied(
                "no such attempt is this node's",
                ErrorCode.TASK_NOT_FOUND,
            )

    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise unavailable("the master is not ready; connect again")
        return self._nursery

    # --- leases ---

    def _begin_lease(self, node_id: str, until: float) -> None:
        """Have the cluster know that the node is away, and lose it at that time."""
        self._end_lease(node_id)
        if self._nursery is not None:
            lease = self._leases[node_id] = _Lease(until)
            self._nursery.start_soon(self._await_return, node_id, lease)

    def _end_lease(self, node_id: str) -> None:
        lease = self._leases.pop(node_id, None)
        if lease is not None:
            lease.scope.cancel()

    async def _await_return(self, node_id: str, lease: "_Lease") -> None:
        """Give a node that is away until its lease ends; then what it had is lost."""
        reactor = self._tools.reactor
        with lease.scope:
            await self._insist(
                lambda: reactor.perform(lambda turn: commands.set_away(turn, node_id))
            )
            lease.is_noted.set()
            await trio.sleep_until(lease.until)
            detail = f"its node was silent for {self._tools.rules().lease_s:g} s"
            await self._insist(
                lambda: reactor.perform(lambda turn: commands.lose(turn, node_id, detail))
            )
            log.warning("node_lost", node_id=node_id)
        # A link that waited for word of this one's end must not wait for ever.
        lease.is_noted.set()
        if self._leases.get(node_id) is lease:
            del self._leases[node_id]

    async def _insist(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Repeat until the store takes it: nobody else would."""
        while True:
            try:
                await attempt()
            except CallRefused as error:
                log.warning("lease_not_stored", error=str(error))
                await trio.sleep(_RETRY_S)
            else:
                return
