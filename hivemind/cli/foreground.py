"""A task in the foreground: its output here, its end awaited, an interrupt passed on to it."""

import signal
from contextlib import aclosing

import attrs
import trio

from hivemind.cli.faults import CommandFailed, complain
from hivemind.cli.progress import Progress
from hivemind.cli.statuses import SIGNAL_BASE, Verdict, verdict_on
from hivemind.cli.streams import output_writer
from hivemind.cli.waits import FIRST_LOOK_S, complaint_on, tell_why_it_waits
from hivemind.client import Client
from hivemind.client.errors import ClientError, LostConnection
from hivemind.client.programs import Program
from hivemind.client.sources import Source
from hivemind.core.records import Task

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SUBMIT_GRACE_S = 5.0
"""How long an interrupted submit, whose bytes have all left, may take to tell the task's id.
Without it the task could not be stopped."""


@attrs.frozen(kw_only=True)
class Outcome:
    """How a foreground run ended."""

    task: Task | None
    """As it was last seen; None if it was never made."""
    verdict: Verdict
    is_reader_gone: bool = False
    """Nobody read the task's output any more, and so it was stopped."""
    is_interrupted: bool = False


class Foreground:
    """One ``run``: submits, follows, and stops the task if it is interrupted."""

    def __init__(self, client: Client, program: Program, stdin: Source | None) -> None:
        self._client = client
        self._program = program
        self._stdin = stdin
        self._progress = Progress()
        self._writer = output_writer()
        self._task_id: str | None = None
        self._interrupted_by: int | None = None
        self._is_reader_gone = False
        self._unwritable: CommandFailed | None = None
        self._is_sent = False
        self._submit_scope = trio.CancelScope()
        self._has_spoken = False
        self._is_left = False
        self._task: Task | None = None

    async def run(self) -> Outcome:
        """Until the task has ended.

        The first SIGINT, SIGTERM or SIGHUP stops the task, a second one leaves it behind.

        Raises:
            ClientError: HiveMind could not run it, or lost sight of it.
            CommandFailed: its output could not be written here; it was stopped.
        """
        try:
            async with trio.open_nursery() as helpers:
                await helpers.start(self._heed_signals, helpers)
                await self._submit_and_follow(helpers)
                helpers.cancel_scope.cancel()
        finally:
            self._progress.clear()
        self._tell_what_is_left()
        if self._unwritable is not None:
            raise self._unwritable
        if self._interrupted_by is not None:
            verdict = Verdict(SIGNAL_BASE + self._interrupted_by)
        else:
            assert self._task is not None  # noqa: S101
            verdict = verdict_on(self._task)
        return Outcome(
            task=self._task,
            verdict=verdict,
            is_reader_gone=self._is_reader_gone,
            is_interrupted=self._interrupted_by is not None,
        )

    def _tell_what_is_left(self) -> None:
        if self._is_left and self._task_id is not None:
            complain(
                f"left while task {self._task_id} was being stopped; "
                f"`hivemind show {self._task_id}` tells whether it has ended"
            )
        elif self._task_id is None and self._is_sent:
            complain(
                "interrupted before the master had answered; the task may run all the same, "
                "`hivemind ps` tells"
            )

    async def _submit_and_follow(self, helpers: trio.Nursery) -> None:
        with self._submit_scope:
            self._task_id = await self._client.submit_program(
                self._program, stdin=self._stdin, on_sent=self._on_sent
            )
        if self._task_id is None:
            return
        if self._interrupted_by is not None:
            await self._client.stop(self._task_id)
        explain = self._explain_wait if self._progress.is_shown else tell_why_it_waits
        helpers.start_soon(explain, self._client, self._task_id)
        try:
            await self._follow(self._task_id)
        except LostConnection as error:
            raise LostConnection(f"task {self._task_id}: {error}") from error

    def _on_sent(self, sent: int, total: int) -> None:
        self._is_sent = sent == total
        self._progress.sent(sent, total)

    async def _follow(self, task_id: str) -> None:
        async with aclosing(self._client.watch(task_id)) as items:
            async for item in items:
                if isinstance(item, Task):
                    self._task = item
                    self._tell_state(item)
                    continue
                if self._is_reader_gone or self._unwritable is not None:
                    continue
                self._has_spoken = True
                self._progress.clear()
                try:
                    await self._writer.write(item)
                except BrokenPipeError:
                    self._is_reader_gone = True
                    await self._client.stop(task_id)
                except CommandFailed as error:
                    self._unwritable = error
                    await self._client.stop(task_id)

    def _tell_state(self, task: Task) -> None:
        if not self._has_spoken or task.stop_requested:
            self._progress.task(task)

    async def _explain_wait(self, client: Client, task_id: str) -> None:
        """Say once why nothing happens, to somebody who looks at a terminal."""
        await trio.sleep(FIRST_LOOK_S)
        if not self._has_spoken:
            try:
                detail = await client.get(task_id)
                if detail.task.attempt == 0 and not detail.task.state.is_end:
                    explanation = await client.explain(task_id)
                    said = complaint_on(task_id, explanation)
                    if said is None:
                        self._progress.waiting(task_id, explanation.headline)
                    else:
                        self._progress.note(said)
            except ClientError:
                return  # the watch meets the same fault, and tells it

    async def _heed_signals(
        self, helpers: trio.Nursery, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if self._interrupted_by is not None:
                    self._is_left = True
                    helpers.cancel_scope.cancel()
                    return
                self._interrupted_by = number
                self._stop(helpers)

    def _stop(self, helpers: trio.Nursery) -> None:
        if self._task_id is not None:
            self._progress.note("stopping the task; once more to leave at once")
            helpers.start_soon(self._client.stop, self._task_id)
        elif self._is_sent:
            self._submit_scope.deadline = trio.current_time() + _SUBMIT_GRACE_S
        else:
            self._submit_scope.cancel()
