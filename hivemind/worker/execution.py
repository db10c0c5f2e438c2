"""One attempt from its inputs to its ending."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import attrs
import trio

import sandbox
from hivemind.core.messages import Assignment, AttemptRef
from hivemind.core.policy import Profile
from hivemind.core.records import (
    Ending,
    Outcome,
    OutputStream,
    PayloadKind,
    Reason,
    RefusalKind,
    TaskSpec,
)
from hivemind.core.sizes import show_size
from hivemind.core.wording import one_line
from hivemind.worker.archive_entry import find_entry
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.build import (
    BadPayload,
    Order,
    build_archive,
    build_command,
    build_script,
)
from hivemind.worker.ending import ending_of, with_gpu, without_result
from hivemind.worker.errors import WorkerError
from hivemind.worker.gpu_share import GpuShare
from hivemind.worker.held import HeldAttempt
from hivemind.worker.machine import NotHere, check_machine
from hivemind.worker.outbox import AttemptFolder, Outbox
from hivemind.worker.transfers import NotWanted, TransferFailed

_MOST_RESULT_FILES = 50_000
_TAR_OVERHEAD_BYTES = 16 * 1024 * 1024
"""What headers and padding may add to the files; the master allows for as much."""
_STREAMS = {
    sandbox.Stream.STDOUT: OutputStream.STDOUT,
    sandbox.Stream.STDERR: OutputStream.STDERR,
}


@attrs.frozen
class Refused:
    """The attempt was not run after all."""

    kind: RefusalKind
    detail: str


class Inputs(Protocol):
    """Where the bytes come from that are not in the assignment."""

    async def fetch(self, ref: AttemptRef, *, stdin: bool, size: int, into: Path) -> None:
        """Have exactly ``size`` bytes in a new file; raises as ``Transfers.fetch`` does."""
        ...


class _InputFailed(WorkerError):
    """Payload or standard input could not be put in place."""


@attrs.define(eq=False, kw_only=True)
class Execution:
    """What it takes to run one attempt; ``run`` does it, once."""

    assignment: Assignment
    spec: TaskSpec
    profile: Profile
    """This machine's own, which the spec fits."""
    held: HeldAttempt
    pool: sandbox.Pool
    outbox: Outbox
    transfers: Inputs
    note_change: Callable[[], None]
    """Called whenever there is more to tell of it."""
    gpu: GpuShare | None = None
    """None where it has no GPU."""
    interpreter: tuple[str, ...] = ()
    """What runs a script, whatever its first line says; empty: that decides."""
    keeps_result: bool = True
    """Whether anybody will ask for what it leaves in its output folder."""
    _stop_asked: bool = attrs.field(default=False, init=False)
    _over_gpu_memory: bool = attrs.field(default=False, init=False)
    _why: str = attrs.field(default="", init=False)
    _preparation: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _run: sandbox.Run | None = attrs.field(default=None, init=False)

    def stop(self, why: str) -> None:
        """End it soon, however far it has come; ``why`` becomes the ending's detail."""
        if not self._stop_asked:
            self._stop_asked, self._why = True, why
            self._preparation.cancel()
            if self._run is not None:
                self._run.stop()

    def look_at_gpus(self) -> None:
        """See how much GPU memory it uses, and end it where that is more than it asked for."""
        if self.gpu is not None and self._run is not None:
            self.gpu.look()
            if self.gpu.is_over and not self._stop_asked:
                self._over_gpu_memory = True
                self._run.stop()

    async def run(self) -> Ending | Refused:
        """Fetch, run, record and collect.

        Cancellation ends the whole process tree before it is passed on.

        Raises:
            NotWanted: the master does not know the attempt.
            SandboxError: the sandbox could not be made, through no fault of the task.
            OSError: the disk failed while the task ran.
        """
        run_spec: sandbox.Spec | None = None
        try:
            with self._preparation:
                await self._place_inputs()
                run_spec = await self._add_gpus(await self._build())
            if run_spec is None:
                return Ending(outcome=Outcome.STOPPED, reason=Reason.STOPPED, detail=self._why)
            return await self._execute(run_spec)
        except _InputFailed as error:
            return Refused(RefusalKind.BUSY, str(error))
        except (BadPayload, sandbox.BadArchive) as error:
            return Ending(
                outcome=Outcome.FAILED, reason=Reason.BAD_PAYLOAD, detail=one_line(str(error))
            )
        except (sandbox.BadSpec, NotHere) as error:
            return Refused(RefusalKind.POLICY, str(error))

    # -- before ---------------------------------------------------------------------------------

    async def _place_inputs(self) -> None:
        """Raises NotWanted, and _InputFailed where another node may have more luck."""
        try:
            await self._place_all()
        except NotWanted:
            raise
        except TransferFailed as error:
            raise _InputFailed(str(error)) from error
        except OSError as error:
            raise _InputFailed(f"the node cannot keep its input: {error.strerror}") from error

    async def _place_all(self) -> None:
        await self.outbox.make(self._folder)
        given = self.assignment
        if self.spec.kind is not PayloadKind.COMMAND:
            await self._place(
                self._folder.payload, given.payload, given.payload_to_fetch, stdin=False
            )
        if self.spec.has_stdin:
            await self._place(self._folder.stdin, given.stdin, given.stdin_to_fetch, stdin=True)

    async def _place(self, path: Path, inline: bytes | None, to_fetch: int, *, stdin: bool) -> None:
        if to_fetch:
            await self.transfers.fetch(self.held.ref, stdin=stdin, size=to_fetch, into=path)
        else:
            await trio.to_thread.run_sync(path.write_bytes, inline or b"")

    async def _build(self) -> sandbox.Spec:
        await trio.to_thread.run_sync(check_machine, self.spec, self.profile)
        spec, folder = self.spec, self._folder
        order = Order(
            spec=spec,
            ref=self.held.ref,
            account=self.assignment.account,
            profile=self.profile,
            known_as=self.assignment.known_as,
        )
        stdin = folder.stdin if spec.has_stdin else None
        match spec.kind:
            case PayloadKind.COMMAND:
                return build_command(order, argv=spec.argv, stdin=stdin)
            case PayloadKind.SCRIPT:
                head = await trio.to_thread.run_sync(_head, folder.payload)
                return build_script(
                    order,
                    payload=folder.payload,
                    head=head,
                    stdin=stdin,
                    interpreter=self.interpreter,
                )
            case PayloadKind.ARCHIVE:
                archive = functools.partial(
                    build_archive, order, payload=folder.payload, stdin=stdin
                )
                entry = spec.command or await find_entry(self.pool, archive(entry=("true",)))
                return archive(entry=entry)

    async def _add_gpus(self, run_spec: sandbox.Spec) -> sandbox.Spec:
        if self.gpu is None:
            return run_spec
        try:
            grant = await trio.to_thread.run_sync(
                functools.partial(self.gpu.grant, sees_usr=run_spec.root is None)
            )
        except sandbox.Unavailable as error:
            raise _InputFailed(f"the node cannot give its GPUs: {error}") from error
        return grant.added_to(run_spec)

    @property
    def _folder(self) -> AttemptFolder:
        return self.held.folder

    # -- while it runs, and after ---------------------------------------------------------------

    async def _execute(self, run_spec: sandbox.Spec) -> Ending:
        async with self.pool.open_run(run_spec) as run:
            output = self.held.log = AttemptLog.create(self._folder.output)
            self.held.started = True
            self.note_change()
            self._run = run
            if self._stop_asked:
                run.stop()
            await self._record(run, output)
            result = await run.wait()
            ending = ending_of(result, self.spec)
            if self.gpu is not None:
                ending = with_gpu(ending, self.gpu, stopped_for_it=self._over_gpu_memory)
            if ending.reason is Reason.STOPPED:
                ending = attrs.evolve(ending, detail=self._why)
            return await self._collect(run, ending) if self.keeps_result else ending

    async def _record(self, run: sandbox.Run, output: AttemptLog) -> None:
        """Keep what the task prints, as it comes; the link reads it from there."""
        failure: OSError | None = None
        async for chunk in run.chunks():
            if failure is not None:
                continue
            try:
                output.append(_STREAMS[chunk.stream], chunk.data, chunk.at)
            except OSError as error:
                failure = error
                run.stop()
            self.note_change()
        if failure is not None:
            raise failure

    async def _collect(self, run: sandbox.Run, ending: Ending) -> Ending:
        """The ending, with the size of the tar of what the task left; none where it left nothing.

        A result that cannot be had fails an attempt that was a success otherwise.
        """
        path = self._folder.result
        try:
            with path.open("wb") as file:
                collected = await run.collect(
                    file, max_bytes=self.spec.result_bytes, max_files=_MOST_RESULT_FILES
                )
        except sandbox.CollectFailed as error:
            return self._without_result(ending, str(error))
        size = path.stat().st_size
        if size > self.spec.result_bytes + _TAR_OVERHEAD_BYTES:
            return self._without_result(
                ending, f"{collected.files} files take {show_size(size)} in a tar"
            )
        if collected.skipped:
            left_out = f"left out of the result: {', '.join(collected.skipped)}"
            ending = attrs.evolve(ending, detail=one_line(_joined(ending.detail, left_out)))
        if not collected.files:
            path.unlink(missing_ok=True)
            return ending
        return attrs.evolve(ending, result_bytes=size)

    def _without_result(self, ending: Ending, why: str) -> Ending:
        self._folder.result.unlink(missing_ok=True)
        return without_result(ending, why)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)
