"""Tasks that callers hand to this worker themselves, past any master.

They are judged by this machine's own policies, take from the same room as the master's attempts,
and run in the same sandboxes. Nobody is told of them but those who ask. Nothing of them outlives
the worker: no id is promised to anybody.
"""

import secrets
import shutil
import time
from pathlib import Path

import attrs
import structlog
import trio

import sandbox
from hivemind.core.admission import may_use
from hivemind.core.direct import MOST_OUTPUT_BYTES, DirectStatus, DirectTask, SystemInfo
from hivemind.core.errors import CoreError
from hivemind.core.ids import check_public_id, make_task_id
from hivemind.core.messages import Assignment, AttemptRef
from hivemind.core.policy import Profile
from hivemind.core.records import Ending, Outcome, Reason, RefusalKind, Role, TaskSpec
from hivemind.core.wording import one_line
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid, taken, unavailable
from hivemind.rpc.errors import CallRefused, ErrorCode
from hivemind.rpc.reply import hold_reply
from hivemind.rpc.spool import SpoolFile
from hivemind.worker.direct_task import (
    Direct,
    Guest,
    Program,
    Uploaded,
    interpreter_of,
    last_lines,
    look_at,
    spec_for,
)
from hivemind.worker.execution import Execution, Refused
from hivemind.worker.gate import Gate
from hivemind.worker.held import HeldAttempt
from hivemind.worker.outbox import Outbox
from hivemind.worker.refusal import Refusal
from hivemind.worker.room import Place, Room
from hivemind.worker.runner import run_to_end
from hivemind.worker.shelf import Shelf
from hivemind.worker.system_info import SystemSampler

POLICY = "default"
"""Under which of the machine's policies a task runs that names none itself."""

_STOP_S = 30.0
"""How long a caller is kept while its task's processes end."""
_CLEANUP_S = 10.0
_GPU_LOOK_S = 1.0
_REPLY_FACTOR = 4
"""How much memory a byte of output takes in a reply: read, as text, in lines, and on its way."""

log = structlog.get_logger(__name__)


class DirectTasks:
    """See ``rpc.contract.direct.DirectHandlers``."""

    def __init__(
        self,
        *,
        gate: Gate,
        room: Room,
        pool: sandbox.Pool,
        folder: Path,
        sampler: SystemSampler,
        shelf: Shelf | None = None,
    ) -> None:
        """``folder`` is for these tasks alone; what is in it is removed when ``run`` begins."""
        self._gate = gate
        self._room = room
        self._pool = pool
        self._folder = folder
        self._outbox = Outbox(folder)
        self._sampler = sampler
        self._shelf = shelf or Shelf()
        self._running: dict[AttemptRef, Direct] = {}
        self._idle = trio.Event()
        self._idle.set()
        self._tasks: trio.Nursery | None = None

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what is accepted until cancelled, which ends every task's whole process tree."""
        await trio.to_thread.run_sync(_make_empty, self._folder)
        async with trio.open_nursery() as tasks:
            self._tasks = tasks
            task_status.started()
            try:
                while True:
                    await trio.sleep(_GPU_LOOK_S)
                    for direct in self._running.values():
                        direct.execution.look_at_gpus()
            finally:
                self._tasks = None

    def stop_all(self, why: str) -> None:
        """End every task that is under way."""
        for direct in self._running.values():
            direct.execution.stop(why)

    async def wait_idle(self) -> None:
        """Return once nothing is under way."""
        await self._idle.wait()

    # -- the calls ------------------------------------------------------------------------------

    async def execute(self, caller: Principal, task: DirectTask, upload: SpoolFile) -> bool:
        """Begin the task. Raises CallRefused; a NamedFault where the machine cannot take it now."""
        try:
            check_public_id(task.task_id)
        except CoreError as error:
            raise invalid(str(error)) from error
        self._admit(caller, POLICY)
        await upload.finish()
        try:
            program = await trio.to_thread.run_sync(look_at, upload.path, task)
            profile, guest = self._admit(caller, program.settings.policy or POLICY)
            spec = spec_for(task, program, profile, guest)
        except CoreError as error:
            raise invalid(str(error)) from error
        path = await upload.keep()
        is_begun = False
        try:
            known = self._shelf.get(caller.account, task.task_id)
            if known is not None:
                if known.digest == program.digest:
                    return True
                raise taken(
                    f"{task.task_id} is a task of yours already, and not this one; choose another"
                    " id"
                )
            self._begin(caller, task, program, spec, path)
            is_begun = True
        finally:
            if not is_begun:
                with trio.move_on_after(_CLEANUP_S, shield=True):
                    await trio.to_thread.run_sync(_unlink, path)
        return False

    async def stop(self, caller: Principal, task_id: str) -> DirectStatus:
        """End the task; how it ended. Raises CallRefused, UNAVAILABLE where that takes too long."""
        direct = self._find(caller, task_id)
        if not direct.ended.is_set():
            direct.execution.stop(f"stopped by {caller.account}")
        with trio.move_on_after(_STOP_S):
            await direct.ended.wait()
        if not direct.ended.is_set():
            raise unavailable(f"task {task_id} is told to stop and has not ended yet; ask again")
        return direct.shown()

    async def status(self, caller: Principal, task_id: str) -> DirectStatus:
        """How the task is doing. Raises CallRefused."""
        direct = self._find(caller, task_id)
        size = 0 if direct.held.log is None else direct.held.log.size
        await hold_reply(_REPLY_FACTOR * min(size, MOST_OUTPUT_BYTES))
        try:
            output, left_out = await last_lines(direct.held.log)
        except OSError:
            # It was dropped while it was read.
            self._find(caller, task_id)
            output, left_out = (), "its output cannot be read"
        return direct.shown(output, left_out)

    async def check_held(self, caller: Principal, task_id: str) -> None:
        """Raises CallRefused where the caller has no such task here."""
        self._find(caller, task_id)

    async def system_info(self, caller: Principal) -> SystemInfo:
        """What the machine is and how busy. Raises CallRefused for whom no policy lets in."""
        self._admit(caller, POLICY)
        return self._sampler.measure(self._room.capacity)

    # -- who may do what ------------------------------------------------------------------------

    def _admit(self, caller: Principal, policy: str) -> tuple[Profile, Guest]:
        """The policy for a task of this caller's, and the caller as that looks at it.

        Raises CallRefused where the policy does not let it in, or there is none of that name.
        """
        try:
            role = Role(caller.role)
        except ValueError:
            role = Role.USER
        guest = Guest(caller.account, role)
        profile = self._room.profiles.get(policy)
        if profile is not None and self._gate.is_owner(caller):
            profile = attrs.evolve(profile, accounts=("*",))
        if profile is None or not may_use(profile, guest):
            raise denied(
                f"this node has no policy {policy[:64]!a} that lets account {caller.account} in;"
                " its owner says who may, under `accounts`",
                ErrorCode.NODE_NOT_FOUND,
            )
        return profile, guest

    def _check_up(self) -> None:
        if self._room.is_draining or self._tasks is None:
            raise NamedFault(
                ErrorCode.NODE_OFFLINE, "this node is draining and takes nothing more; use another"
            )

    def _find(self, caller: Principal, task_id: str) -> Direct:
        """The caller's task; for the machine's owner, anybody's. Raises CallRefused."""
        direct = self._shelf.get(caller.account, task_id)
        if direct is not None:
            return direct
        other = self._shelf.of_anybody(task_id)
        if other is None:
            raise NamedFault(
                ErrorCode.TASK_NOT_FOUND,
                f"no task {task_id[:64]!a} is here; it may have been"
                " dropped long after its end, or with a restart of this worker",
            )
        if not self._gate.is_owner(caller):
            raise denied(f"no task {other.task_id} of yours", ErrorCode.TASK_NOT_FOUND)
        return other

    # -- one task -------------------------------------------------------------------------------

    def _begin(
        self, caller: Principal, task: DirectTask, program: Program, spec: TaskSpec, path: Path
    ) -> None:
        """Start the task, in one step: no other call is served in between. Raises CallRefused."""
        self._check_up()
        ref = AttemptRef(make_task_id(int(time.time() * 1000), secrets.token_bytes(10)), 1)
        place = self._room.take(ref, spec, caller.account, is_owner=self._gate.is_owner(caller))
        if isinstance(place, Refusal):
            log.info(
                "direct_task_refused",
                task_id=task.task_id,
                account=caller.account,
                detail=place.detail,
            )
            raise _refused(place)
        direct = self._make(caller, task, program, spec, path, ref, place)
        self._shelf.put(direct)
        self._running[ref] = direct
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        assert self._tasks is not None  # noqa: S101
        self._tasks.start_soon(self._attend, direct, name=f"direct task {ref.task_id}")
        log.info("direct_task_accepted", task_id=task.task_id, account=caller.account)

    def _make(
        self,
        caller: Principal,
        task: DirectTask,
        program: Program,
        spec: TaskSpec,
        path: Path,
        ref: AttemptRef,
        place: Place,
    ) -> Direct:
        held = HeldAttempt(ref=ref, folder=self._outbox.folder(ref))
        return Direct(
            task_id=task.task_id,
            account=caller.account,
            digest=program.digest,
            held=held,
            upload=path,
            execution=Execution(
                assignment=Assignment(
                    ref=ref,
                    lease_id="",
                    account=caller.account,
                    spec=b"",
                    payload_to_fetch=program.size,
                    known_as=task.task_id,
                ),
                spec=spec,
                profile=place.profile,
                held=held,
                pool=self._pool,
                outbox=self._outbox,
                transfers=Uploaded(path),
                note_change=_nobody_waits,
                gpu=place.gpu,
                interpreter=interpreter_of(task.kind, program.form),
                keeps_result=False,
            ),
        )

    async def _attend(self, direct: Direct) -> None:
        """Run the task to its end, keep what it printed, and free what it held."""
        ending = Ending(
            outcome=Outcome.STOPPED, reason=Reason.STOPPED, detail="its worker was shut down"
        )
        try:
            ended = await run_to_end(direct.execution)
            if isinstance(ended, Ending):
                ending = ended
            else:
                detail = ended.detail if isinstance(ended, Refused) else "it was not wanted"
                ending = Ending(
                    outcome=Outcome.FAILED, reason=Reason.REFUSED, detail=one_line(detail)
                )
        finally:
            self._room.release(direct.held.ref)
            del self._running[direct.held.ref]
            with trio.move_on_after(_CLEANUP_S, shield=True):
                await self._put_away(direct)
            direct.ending = ending
            direct.ended.set()
            dropped = self._shelf.note_end(direct)
            if not self._running:
                self._idle.set()
        log.info(
            "direct_task_ended",
            task_id=direct.task_id,
            account=direct.account,
            status=direct.status,
            detail=ending.detail,
        )
        for one in dropped:
            await self._drop(one)

    async def _put_away(self, direct: Direct) -> None:
        """Keep of the task its log alone."""
        if direct.held.log is not None:
            try:
                direct.held.log.seal()
            except OSError as error:
                log.warning("output_not_kept", task_id=direct.task_id, reason=str(error))
                direct.held.log.close()
        direct.file_bytes = await trio.to_thread.run_sync(_leave_log, direct)

    async def _drop(self, direct: Direct) -> None:
        try:
            await self._outbox.drop(direct.held.folder)
        except OSError as error:
            path = str(direct.held.folder.path)
            log.warning("leftover_not_removed", path=path, reason=str(error))


def _refused(refusal: Refusal) -> CallRefused:
    """A machine that is full, or too small, is the table's; one whose policy says no is not."""
    if refusal.kind is RefusalKind.POLICY and refusal.detail.startswith("accounts"):
        return denied(refusal.detail, ErrorCode.NODE_NOT_FOUND)
    return NamedFault(ErrorCode.INSUFFICIENT_RESOURCES, refusal.detail)


def _leave_log(direct: Direct) -> int:
    """Remove all of a task's files but its log; how large that is."""
    folder = direct.held.folder
    for path in (direct.upload, folder.payload, folder.stdin, folder.result):
        _unlink(path)
    try:
        return folder.output.stat().st_size
    except OSError:
        return 0


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("leftover_not_removed", path=str(path), reason=str(error))


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)


def _nobody_waits() -> None:
    """Nobody is told of a direct task before asking."""
