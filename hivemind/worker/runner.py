"""Runs attempts: one task for each, from its assignment to a final report on this disk.

What an attempt does, suffers or breaks ends with it: this is one of the two places in the worker
where an exception is absorbed, logged once, and turned into the attempt's end.
"""

import attrs
import structlog
import trio

import sandbox
from hivemind.core.messages import Assignment, AttemptRef, RefusedReport
from hivemind.core.records import Ending, Outcome, Reason, RefusalKind
from hivemind.core.wording import one_line
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.contract.specs import decode_spec
from hivemind.supervision import Backoff
from hivemind.worker.ending import without_result
from hivemind.worker.execution import Execution, Refused
from hivemind.worker.held import STARTED_SEQ, HeldAttempt, HeldAttempts
from hivemind.worker.outbox import FinalReport, Outbox
from hivemind.worker.refusal import Refusal
from hivemind.worker.room import Room
from hivemind.worker.transfers import NotWanted, Transfers

_DROP_S = 10.0
_GPU_LOOK_S = 1.0
"""How often the memory in use on GPUs is looked up."""
_DISK_FULL_BACKOFF = Backoff(first_s=1.0, most_s=30.0)

log = structlog.get_logger(__name__)


@attrs.define(eq=False, kw_only=True)
class _Attempt:
    """An attempt under way."""

    held: HeldAttempt
    execution: Execution
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    unwanted: bool = False
    """Nobody waits for its report."""


class Runner:
    """Takes assignments and orders; what comes of them shows in the attempts that are held."""

    def __init__(
        self,
        *,
        pool: sandbox.Pool,
        outbox: Outbox,
        held: HeldAttempts,
        transfers: Transfers,
        room: Room,
    ) -> None:
        self._pool = pool
        self._outbox = outbox
        self._held = held
        self._transfers = transfers
        self._room = room
        self._running: dict[AttemptRef, _Attempt] = {}
        self._idle = trio.Event()
        self._idle.set()
        self._attempts: trio.Nursery | None = None

    @property
    def draining(self) -> bool:
        """Take nothing more; set by a drain of this worker or of the master's choosing."""
        return self._room.is_draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._room.is_draining = draining

    @property
    def running(self) -> int:
        """How many attempts are under way."""
        return len(self._running)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what is assigned until cancelled, which ends every attempt's whole process tree."""
        async with trio.open_nursery() as attempts:
            self._attempts = attempts
            task_status.started()
            try:
                await self._watch_gpus()
            finally:
                self._attempts = None

    # -- orders of the master -------------------------------------------------------------------

    def assign(self, assignment: Assignment) -> None:
        """Begin the attempt, or refuse it. One that is held already goes on as it is.

        Raises ForeignName for an id that no pool makes.
        """
        ref = assignment.ref
        if ref in self._held:
            return
        folder = self._outbox.folder(ref)
        if ref in self._running:
            self._refuse_with(ref, RefusalKind.BUSY, "what was killed of it is still ending")
            return
        if self._attempts is None or self.draining:
            self._refuse_with(ref, RefusalKind.BUSY, "the node is draining")
            return
        try:
            spec = decode_spec(assignment.spec)
        except MalformedMessage as error:
            self._refuse_with(ref, RefusalKind.POLICY, str(error))
            return
        place = self._room.take(ref, spec, assignment.account)
        if isinstance(place, Refusal):
            self._refuse_with(ref, place.kind, place.detail)
            return
        held = HeldAttempt(ref=ref, folder=folder)
        attempt = _Attempt(
            held=held,
            execution=Execution(
                assignment=assignment,
                spec=spec,
                profile=place.profile,
                pool=self._pool,
                outbox=self._outbox,
                transfers=self._transfers,
                held=held,
                gpu=place.gpu,
                note_change=self._held.note_change,
            ),
        )
        self._running[ref] = attempt
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._held.add(held)
        self._attempts.start_soon(
            self._attend, attempt, name=f"attempt {ref.task_id}.{ref.attempt}"
        )

    def stop(self, ref: AttemptRef, why: str = "") -> None:
        """End the attempt, and report how it ended. One that has ended already stays as it is."""
        attempt = self._running.get(ref)
        if attempt is not None:
            attempt.execution.stop(why)

    def stop_all(self, why: str) -> None:
        """End every attempt that is under way, and report it stopped for this reason."""
        for ref in list(self._running):
            self.stop(ref, why)

    def kill(self, ref: AttemptRef) -> None:
        """End the attempt, or forget its report: nobody wants either."""
        attempt = self._running.get(ref)
        if attempt is not None:
            self._abandon(attempt)
        elif (held := self._held.remove(ref)) is not None:
            self._drop_soon(held)

    def abandon_all(self) -> int:
        """End everything that runs, and report nothing; how much that was."""
        abandoned = [attempt for attempt in self._running.values() if not attempt.unwanted]
        for attempt in abandoned:
            self._abandon(attempt)
        return len(abandoned)

    def acknowledge(self, ref: AttemptRef, seq: int) -> None:
        """The master has a report; when that is the final one, the attempt is forgotten."""
        held = self._held.get(ref)
        if held is not None and held.report is not None and seq >= held.report.seq:
            self._held.remove(ref)
            self._drop_soon(held)

    async def lose_result(self, held: HeldAttempt, why: str) -> None:
        """Report an attempt, which has ended, without its result: that cannot be delivered."""
        report = held.report
        if report is None:
            return
        lost = attrs.evolve(report, ending=without_result(report.ending, why))
        try:
            await self._outbox.put_without_result(held.folder, lost)
        except OSError as error:
            # It is told all the same. After a crash the result is found missing, and nothing told.
            if held.ref in self._held:
                log.error(
                    "report_not_kept",
                    task_id=held.ref.task_id,
                    attempt=held.ref.attempt,
                    reason=str(error),
                )
        held.report = lost
        self._held.note_change()

    async def wait_idle(self) -> None:
        """Return once nothing is under way."""
        await self._idle.wait()

    async def _watch_gpus(self) -> None:
        """End what uses more GPU memory than it asked for, and remember how much that was."""
        while True:
            await trio.sleep(_GPU_LOOK_S)
            for attempt in self._running.values():
                attempt.execution.look_at_gpus()

    # -- one attempt ----------------------------------------------------------------------------

    def _abandon(self, attempt: _Attempt) -> None:
        attempt.unwanted = True
        attempt.scope.cancel()
        self._held.remove(attempt.held.ref)

    def _drop_soon(self, held: HeldAttempt) -> None:
        # A folder that outlives this process is reported, or removed, by the next one.
        if self._attempts is not None:
            self._attempts.start_soon(self._drop, held)

    async def _drop(self, held: HeldAttempt) -> None:
        """Remove what is kept of the attempt; a drain that ends meanwhile waits for it."""
        with trio.move_on_after(_DROP_S, shield=True):
            try:
                await self._outbox.drop(held.folder)
            except OSError as error:
                log.warning("leftover_not_removed", path=str(held.folder.path), reason=str(error))

    def _refuse_with(self, ref: AttemptRef, kind: RefusalKind, detail: str) -> None:
        log.info(
            "attempt_refused",
            task_id=ref.task_id,
            attempt=ref.attempt,
            kind=str(kind),
            detail=detail,
        )
        self._held.refuse(
            RefusedReport(ref=ref, seq=STARTED_SEQ, kind=kind, detail=one_line(detail))
        )

    async def _attend(self, attempt: _Attempt) -> None:
        """Run the attempt, have its end on disk, and free what it held."""
        held = attempt.held
        ended: Ending | Refused | None = None
        try:
            with attempt.scope:
                ended = await run_to_end(attempt.execution)
                if isinstance(ended, Ending):
                    await self._file(held, ended)
        finally:
            self._release(attempt)
            if held.log is not None:
                held.log.close()
            if held.report is None or attempt.unwanted:
                self._held.remove(held.ref)
        if held.report is not None and not attempt.unwanted:
            self._held.note_change()
            return
        if isinstance(ended, Refused) and not attempt.unwanted:
            self._refuse_with(held.ref, ended.kind, ended.detail)
        await self._drop(held)

    async def _file(self, held: HeldAttempt, ending: Ending) -> None:
        """Have the final report on disk. A disk that is full is waited for."""
        seq = STARTED_SEQ + 1 if held.started else STARTED_SEQ
        report = FinalReport(ref=held.ref, seq=seq, ending=ending)
        failures = 0
        while held.report is None:
            try:
                await self._outbox.put(held.folder, held.log, report)
            except OSError as error:
                failures += 1
                log.error(
                    "report_not_kept",
                    task_id=held.ref.task_id,
                    attempt=held.ref.attempt,
                    reason=str(error),
                )
                await trio.sleep(_DISK_FULL_BACKOFF.delay_s(failures, 0.5))
            else:
                held.report = report

    def _release(self, attempt: _Attempt) -> None:
        del self._running[attempt.held.ref]
        self._room.release(attempt.held.ref)
        if not self._running:
            self._idle.set()


async def run_to_end(execution: Execution) -> Ending | Refused | None:
    """Run an attempt, whatever becomes of it; None where the master knows nothing of it.

    Raises nothing but what cancels it.
    """
    ref = execution.held.ref
    try:
        return await execution.run()
    except NotWanted as error:
        log.info("attempt_not_wanted", task_id=ref.task_id, attempt=ref.attempt, reason=str(error))
        return None
    except (sandbox.SandboxError, OSError) as error:
        # The machine's fault, and an expected one: what it says is enough.
        log.error("attempt_failed", task_id=ref.task_id, attempt=ref.attempt, reason=str(error))
        detail = one_line(str(error))
    except Exception:
        log.exception("attempt_failed", task_id=ref.task_id, attempt=ref.attempt)
        detail = "a fault of the worker, which its log describes"
    return Ending(outcome=Outcome.FAILED, reason=Reason.SANDBOX_FAILED, detail=detail)
