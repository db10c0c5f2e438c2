"""What pushed nodes report on the attempts that they were given.

Only the account that owns the node may report for it, and only on what that node was given. What
comes late, of an attempt that is over, is acknowledged and dropped.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import attrs
import structlog
import trio

from hivemind.core.messages import AttemptRef
from hivemind.core.pushing import PUSH_BYTES, push_id, pushed_ref
from hivemind.core.records import Attempt, Blob, Ending, Outcome, Reason
from hivemind.core.reports import (
    Answer,
    CompletedSaid,
    LogsSaid,
    OutputSaid,
    ResultSaid,
    RunningSaid,
    Said,
    StatusSaid,
)
from hivemind.core.wording import one_line
from hivemind.master import commands, push_commands
from hivemind.master.cluster import UNDER_WAY
from hivemind.master.output import OutputFolder, OutputTooLarge
from hivemind.master.pushes import Pushes
from hivemind.master.reactor import Reactor
from hivemind.master.reported_log import ReportedLog
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import (
    NamedFault,
    Unsettled,
    denied,
    exhausted,
    invalid,
    unavailable,
)
from hivemind.rpc.contract.specs import decode_spec
from hivemind.rpc.errors import CallRefused, ErrorCode
from hivemind.rpc.spool import SpoolFile
from hivemind.store.api import Store
from hivemind.store.blobs import BlobFolder

LOGS = "logs"
"""The kind of log that ``StoreLogs`` goes to."""
MOST_LOGS_BYTES = 4 * 1024 * 1024
MOST_IN_BATCH = 1000
_BATCH_AT_ONCE = 64
_MOST_KNOWN = 10_000
_CLEANUP_S = 10.0
_NOTED = "noted"
_TOO_LATE = "the attempt is over, and this changes nothing"

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@attrs.define(eq=False)
class _Open:
    """What is at hand of an attempt that reports."""

    output: ReportedLog
    logs: ReportedLog
    storing: trio.Lock = attrs.field(factory=trio.Lock)
    """Held while a result takes the place of an earlier one."""
    limits: tuple[int, int] | None = None
    """The most bytes of output and of result, once they are known."""


@attrs.frozen
class _Given:
    """An attempt that a node of the caller's was given."""

    ref: AttemptRef
    node_id: str


class Reports:
    """See ``rpc.contract.public_reports.PublicReportHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        store: Store,
        *,
        output: OutputFolder,
        blobs: BlobFolder,
        pushes: Pushes,
        clock: Callable[[], float],
        report_status: Callable[[Principal, StatusSaid], Awaitable[Answer]],
        earned_ucpt: Callable[[AttemptRef], int] = lambda _: 0,
    ) -> None:
        """``earned_ucpt``: what an attempt that is under way has earned so far."""
        self._reactor = reactor
        self._store = store
        self._output = output
        self._blobs = blobs
        self._pushes = pushes
        self._clock = clock
        self._report_status = report_status
        self._earned_ucpt = earned_ucpt
        self._open: OrderedDict[AttemptRef, _Open] = OrderedDict()
        self._called: OrderedDict[tuple[str, str], _Given] = OrderedDict()
        """What submitters' own ids stood for lately, so that a late report finds its attempt."""

    # --- the reports ---

    async def take_output(self, caller: Principal, said: OutputSaid) -> Answer:
        """Append to the attempt's output, exactly what came. Raises CallRefused.

        Too much ends the attempt.
        """
        given = await self._given(caller, said.task_id, said.node_id)
        if not await self._begin(given):
            return self._too_late(given)
        most_bytes, _ = await self._limits(given.ref)
        try:
            is_new = await self._kept(given.ref).output.add(
                said.text.encode(), self._clock(), said.sequence, most_bytes=most_bytes
            )
        except OutputTooLarge as error:
            await self._cut_off(given, str(error))
            return Answer(success=False, message=f"the attempt was ended: {error}")
        except OSError as error:
            raise _not_kept("output", error) from error
        return Answer(message=_NOTED if is_new else "a repeat; it was noted before")

    async def take_logs(self, caller: Principal, said: LogsSaid) -> Answer:
        """Append to the attempt's logs. Raises CallRefused."""
        given = await self._given(caller, said.task_id, said.node_id)
        if not await self._begin(given):
            return self._too_late(given)
        try:
            is_new = await self._kept(given.ref).logs.add(
                said.text.encode(),
                float(said.at) if said.at > 0 else self._clock(),
                said.sequence,
                most_bytes=MOST_LOGS_BYTES,
            )
        except OutputTooLarge:
            return Answer(
                success=False,
                message=f"{MOST_LOGS_BYTES} bytes of logs are the most, and this was dropped",
            )
        except OSError as error:
            raise _not_kept("logs", error) from error
        return Answer(message=_NOTED if is_new else "a repeat; it was noted before")

    async def take_result(self, caller: Principal, task_id: str, upload: SpoolFile) -> Answer:
        """Keep a file as the attempt's result. Raises CallRefused."""

        async def keep() -> Blob:
            await upload.finish()
            return await self._blobs.adopt(upload.path)

        return await self._keep_result(caller, task_id, upload.size_bytes, keep)

    async def _take_small_result(self, caller: Principal, said: ResultSaid) -> Answer:
        return await self._keep_result(
            caller, said.task_id, len(said.data), lambda: self._blobs.put(said.data)
        )

    async def _keep_result(
        self, caller: Principal, task_id: str, size: int, keep: Callable[[], Awaitable[Blob]]
    ) -> Answer:
        """Both the file and the row that names it are on disk when this returns."""
        given = await self._given(caller, task_id, "")
        ref = given.ref
        if not await self._begin(given):
            return self._too_late(given)
        _, most_bytes = await self._limits(ref)
        if size > most_bytes:
            raise exhausted(f"a result of {size} bytes is over the task's limit of {most_bytes}")
        async with self._kept(ref).storing:
            older = await self._store.result(ref.task_id, ref.attempt)
            blob = await keep()
            is_named = False
            try:
                is_named = await self._reactor.settle(
                    lambda turn: push_commands.keep_result(turn, given.node_id, ref, blob)
                )
            except Unsettled:
                # If nothing names the file, it is removed at the next start.
                is_named, older = True, None
                raise
            finally:
                with trio.move_on_after(_CLEANUP_S, shield=True):
                    if not is_named:
                        await self._blobs.delete(blob)
                    elif older is not None:
                        await self._blobs.delete(older)
        return Answer(message=_NOTED) if is_named else self._too_late(given)

    async def take_completed(self, caller: Principal, said: CompletedSaid) -> Answer:
        """The attempt is over; that, and all it reported before, is on disk when this returns.

        The first word counts, and its repeat is answered as it was. Raises CallRefused.
        """
        given = await self._given(caller, said.task_id, said.node_id)
        ref = given.ref
        outcome: Outcome | None = None
        if self._is_under_way(given):
            self._pushes.heard(given.node_id, ref)
            kept = self._kept(ref)
            try:
                await kept.output.sync()
                await kept.logs.sync()
            except OSError as error:
                raise _not_kept("output", error) from error
            done = await self._reactor.perform(
                lambda turn: push_commands.complete(turn, given.node_id, ref, success=said.success)
            )
            self._open.pop(ref, None)
            if done.is_applied:
                return Answer(message=_NOTED)
            outcome = done.outcome
        else:
            self._pushes.heard(given.node_id)
        if outcome is None:
            attempt = await self._stored(ref)
            outcome = None if attempt is None else attempt.outcome
        if outcome is (Outcome.SUCCEEDED if said.success else Outcome.FAILED):
            return Answer(message=_NOTED)
        if outcome in {Outcome.SUCCEEDED, Outcome.FAILED}:
            log.warning("report_contradicted", node_id=given.node_id, task_id=ref.task_id)
            return Answer(
                success=False, message=f"the attempt {outcome.value} before, and that stands"
            )
        return Answer(message=_TOO_LATE)

    async def take_running(self, caller: Principal, said: RunningSaid) -> Answer:
        """The attempt runs; answers what it has earned. Raises CallRefused."""
        for name in ("cpu_usage", "memory_usage", "gpu_usage", "gpu_memory_usage"):
            if not 0 <= getattr(said, name) <= 100:
                raise invalid(f"{name} {getattr(said, name)} cannot be: it is from 0 to 100")
        given = await self._given(caller, said.task_id, said.node_id)
        if not await self._begin(given):
            return self._too_late(given)
        return Answer(message=_NOTED, earned_cpt=self._earned_ucpt(given.ref) // 1_000_000)

    async def take_batch(self, caller: Principal, batch: Sequence[Said]) -> tuple[Answer, ...]:
        """What each report came to, in their order. Those on one attempt are taken in that order,
        all others side by side, so that they share the turns of the cluster. Raises CallRefused.
        """
        if len(batch) > MOST_IN_BATCH:
            raise invalid(f"{len(batch)} reports in one batch; {MOST_IN_BATCH} are the most")
        answers: list[Answer] = [Answer()] * len(batch)
        rows: dict[str, list[int]] = {}
        for index, said in enumerate(batch):
            key = f"n {said.node_id}" if isinstance(said, StatusSaid) else f"t {said.task_id}"
            rows.setdefault(key, []).append(index)
        limit = trio.CapacityLimiter(_BATCH_AT_ONCE)

        async def take_row(row: Sequence[int]) -> None:
            async with limit:
                for index in row:
                    answers[index] = await self._take(caller, batch[index])

        async with trio.open_nursery() as reports:
            for row in rows.values():
                reports.start_soon(take_row, row)
        return tuple(answers)

    async def _take(self, caller: Principal, said: Said) -> Answer:
        """One report of a batch; what it would be refused with is its answer."""
        try:
            match said:
                case OutputSaid():
                    return await self.take_output(caller, said)
                case LogsSaid():
                    return await self.take_logs(caller, said)
                case ResultSaid():
                    return await self._take_small_result(caller, said)
                case CompletedSaid():
                    return await self.take_completed(caller, said)
                case RunningSaid():
                    return await self.take_running(caller, said)
                case StatusSaid():
                    return await self._report_status(caller, said)
        except CallRefused as error:
            code = 0 if error.code is None else int(error.code)
            return Answer(success=False, message=str(error), code=code)

    # --- whose attempt it is ---

    async def _given(self, caller: Principal, task_id: str, node_id: str) -> _Given:
        """The attempt that a node of the caller's was given and that it calls by this id.

        Raises CallRefused: there is none, or, by a submitter's own id, more than one.
        """
        ref = pushed_ref(task_id)
        found = None
        if ref is not None:
            found = await self._holder(ref)
        if found is None:
            found = self._by_own_id(caller, task_id, node_id)
        node = None if found is None else self._reactor.cluster.nodes.get(found.node_id)
        if (
            found is None
            or node is None
            or node.registration is None
            or node.account != caller.account
            or (node_id and node_id != node.id)
        ):
            why = (
                f"no attempt {one_line(task_id[:80])!a} was given to"
                + (f" node {one_line(node_id[:80])!a}" if node_id else " a node")
                + " of yours; report under the id that the node was given"
            )
            if await self._is_all_ones_own(caller, task_id, node_id):
                raise NamedFault(ErrorCode.TASK_NOT_FOUND, why)
            raise denied(why, ErrorCode.TASK_NOT_FOUND)
        return found

    async def _is_all_ones_own(self, caller: Principal, task_id: str, node_id: str) -> bool:
        """Whether both the node and the task are the caller's: then nothing is kept from it, and
        its mistake is an answer rather than a denial.
        """
        cluster = self._reactor.cluster
        node = cluster.nodes.get(node_id)
        if node is None or node.account != caller.account:
            return False
        task = cluster.tasks.get(task_id)
        if task is not None and task.account == caller.account:
            return True
        mine = await self._store.find_task(caller.account, client_id=task_id) if task_id else None
        return mine is not None

    async def _holder(self, ref: AttemptRef) -> _Given | None:
        newest = self._reactor.cluster.attempts.get(ref.task_id)
        attempt = newest if newest is not None and newest.number == ref.attempt else None
        if attempt is None:
            attempt = await self._stored(ref)
        return None if attempt is None else _Given(ref, attempt.node_id)

    async def _stored(self, ref: AttemptRef) -> Attempt | None:
        attempts = await self._store.attempts(ref.task_id)
        return next((one for one in attempts if one.number == ref.attempt), None)

    def _by_own_id(self, caller: Principal, text: str, node_id: str) -> _Given | None:
        """By the submitter's own id, or the pool's id of the task, where only one can be meant."""
        cluster = self._reactor.cluster
        found: list[_Given] = []
        for node in cluster.nodes.values():
            if node.account != caller.account or node.registration is None:
                continue
            if node_id and node.id != node_id:
                continue
            for task_id in cluster.on_node.get(node.id, ()):
                task = cluster.tasks[task_id]
                if text and text in {task.id, task.client_id}:
                    found.append(_Given(AttemptRef(task.id, task.attempt), node.id))
        key = (caller.account, text)
        if len(found) == 1:
            self._called[key] = found[0]
            if len(self._called) > _MOST_KNOWN:
                self._called.popitem(last=False)
        return found[0] if len(found) == 1 else None if found else self._called.get(key)

    def _is_under_way(self, given: _Given) -> bool:
        task = self._reactor.cluster.tasks.get(given.ref.task_id)
        return task is not None and commands.is_under_way(task, given.ref, given.node_id)

    async def _begin(self, given: _Given) -> bool:
        """A report shows that the node has the attempt. Whether it is under way."""
        if not self._is_under_way(given):
            self._pushes.heard(given.node_id)
            return False
        self._pushes.heard(given.node_id, given.ref)
        attempt = self._reactor.cluster.attempts.get(given.ref.task_id)
        if attempt is not None and attempt.started_at is not None:
            return True
        return await self._reactor.perform(
            lambda turn: push_commands.begin(turn, given.node_id, given.ref)
        )

    def _too_late(self, given: _Given) -> Answer:
        """The attempt is over; the node is told to stop it, if it has not been told."""
        node = self._pushes.node(given.node_id)
        if node is not None:
            node.stop_again(given.ref)
        return Answer(message=_TOO_LATE)

    async def _cut_off(self, given: _Given, why: str) -> None:
        ending = Ending(
            outcome=Outcome.FAILED,
            reason=Reason.OUTPUT_LIMIT,
            detail=f"node {given.node_id} sent {why}; the master ended it",
        )
        await self._kept(given.ref).output.sync()
        await self._reactor.perform(
            lambda turn: commands.end_attempt(turn, given.node_id, given.ref, ending)
        )

    # --- what is at hand of it ---

    def _kept(self, ref: AttemptRef) -> _Open:
        known = self._open.get(ref)
        if known is None:
            known = self._open[ref] = _Open(
                output=ReportedLog(self._output, ref.task_id, ref.attempt, "log"),
                logs=ReportedLog(self._output, ref.task_id, ref.attempt, LOGS),
            )
            self._let_go()
        return known

    def _let_go(self) -> None:
        """Of the oldest two, what is over: so no more stay than are under way."""
        for ref in tuple(islice(self._open, 2)):
            task = self._reactor.cluster.tasks.get(ref.task_id)
            if task is None or task.attempt != ref.attempt or task.state not in UNDER_WAY:
                del self._open[ref]
            else:
                self._open.move_to_end(ref)

    async def _limits(self, ref: AttemptRef) -> tuple[int, int]:
        kept = self._kept(ref)
        if kept.limits is None:
            stored = await self._store.spec(ref.task_id)
            if stored is None:
                raise unavailable(f"what attempt {push_id(ref)} may have cannot be read; try again")
            spec = decode_spec(stored.spec)
            kept.limits = (spec.output_bytes, min(spec.result_bytes, PUSH_BYTES))
        return kept.limits


def _not_kept(what: str, error: OSError) -> CallRefused:
    return unavailable(f"the master cannot keep {what} now: {error.strerror}; send it again")
