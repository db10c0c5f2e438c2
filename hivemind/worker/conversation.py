"""What is said to the master on one connection, item by item. No network, no tasks: pure state.

The items of a message are chosen when the connection has room for it, from what is held then; so
nothing waits in memory, and what a slow master has not read yet is still only in the files.
"""

from collections.abc import Callable, Iterator

import attrs
import trio

from hivemind.core.messages import (
    INLINE_BYTES,
    AttemptOutput,
    AttemptRef,
    DrainNotice,
    FinishedReport,
    Hello,
    OutputReport,
    StartedReport,
    Welcome,
    WorkerItem,
)
from hivemind.core.records import Vitals
from hivemind.worker.attempt_log import Cursor
from hivemind.worker.held import STARTED_SEQ, HeldAttempt, HeldAttempts
from hivemind.worker.outbox import FinalReport

BATCH_BYTES = 256 * 1024
"""How much output and result goes into one message, more or less: one result may go over it."""
BATCH_ITEMS = 512


@attrs.define
class _Told:
    """How much of one attempt the master was told in this conversation."""

    offset: int = 0
    cursor: Cursor | None = None
    started: bool = False
    finished: FinalReport | None = None
    """The final report that was told; one whose result was lost is replaced by another."""


class Conversation:
    """One connection's worth of talk; an async iterator of messages, each a tuple of items.

    ``deliver`` is called for an attempt whose final report cannot go by this way because its result
    is too large, once all of the attempt's output is on its way.
    """

    def __init__(
        self,
        hello: Hello,
        held: HeldAttempts,
        *,
        measure: Callable[[], Vitals],
        deliver: Callable[[HeldAttempt], None],
    ) -> None:
        self._hello: Hello | None = hello
        self._held = held
        self._measure = measure
        self._deliver = deliver
        self._welcomed = trio.Event()
        self._drain_due = False
        self._told: dict[AttemptRef, _Told] = {}
        self._turn = 0
        self._beat_due = False
        self._beats_sent = 0
        self._beats_answered = 0
        self._beat_sent_at = 0.0
        self.hello_sent_at = 0.0
        """By Trio's clock."""

    def __aiter__(self) -> "Conversation":
        return self

    async def __anext__(self) -> tuple[WorkerItem, ...]:
        if self._hello is not None:
            hello, self._hello = self._hello, None
            self.hello_sent_at = trio.current_time()
            return (hello,)
        await self._welcomed.wait()
        while not (batch := tuple(self._next_items())):
            await self._held.wait_change()
        return batch

    # -- what the link hears --------------------------------------------------------------------

    def on_welcome(self, welcome: Welcome) -> None:
        """Talk may begin; of what is held, the master has so much output."""
        for held in welcome.held:
            self._told[held.ref] = _Told(offset=held.offset)
        self._welcomed.set()

    def on_renewed(self) -> float:
        """When that was sent which the master has answered now."""
        if self._beats_answered < self._beats_sent:
            self._beats_answered += 1
            self._held.note_change()
            return self._beat_sent_at
        return trio.current_time()

    # -- what the worker wants said -------------------------------------------------------------

    def beat(self) -> None:
        """Send vitals soon. One heartbeat at a time is under way."""
        self._beat_due = True
        self._held.note_change()

    def announce_drain(self) -> None:
        """Say that nothing more should be given to this worker."""
        self._drain_due = True
        self._held.note_change()

    # -- one message ----------------------------------------------------------------------------

    def _next_items(self) -> Iterator[WorkerItem]:
        count = 0
        if self._drain_due:
            self._drain_due = False
            yield DrainNotice()
        while self._held.refusals and count < BATCH_ITEMS:
            yield self._held.refusals.popleft()
            count += 1
        if self._beat_due and self._beats_answered == self._beats_sent:
            self._beat_due = False
            self._beats_sent += 1
            self._beat_sent_at = trio.current_time()
            yield self._measure()
        left = BATCH_BYTES
        for attempt in self._in_turn():
            for item, size in self._items_of(attempt, left):
                yield item
                count += 1
                left -= size
            if left <= 0 or count >= BATCH_ITEMS:
                return

    def _in_turn(self) -> list[HeldAttempt]:
        """All attempts, each message beginning with another, so that a loud one starves nobody."""
        attempts = list(self._held)
        for ref in self._told.keys() - set(self._held.refs()):
            del self._told[ref]
        if not attempts:
            return attempts
        self._turn = (self._turn + 1) % len(attempts)
        return attempts[self._turn :] + attempts[: self._turn]

    def _items_of(self, attempt: HeldAttempt, most_bytes: int) -> Iterator[tuple[WorkerItem, int]]:
        told = self._told.setdefault(attempt.ref, _Told())
        if attempt.started and not told.started and attempt.report is None:
            told.started = True
            yield StartedReport(ref=attempt.ref, seq=STARTED_SEQ), 0
        output = attempt.log
        if output is not None:
            cursor = told.cursor or output.seek(told.offset)
            chunks, told.cursor = output.read(cursor, most_bytes)
            for chunk in chunks:
                output_item = AttemptOutput(attempt=attempt.ref.attempt, chunk=chunk)
                yield (
                    OutputReport(task_id=attempt.ref.task_id, output=output_item),
                    len(chunk.data),
                )
            if told.cursor.offset < output.size:
                return
        if attempt.report is not None and attempt.report is not told.finished:
            yield from self._finish(attempt, told)

    def _finish(self, attempt: HeldAttempt, told: _Told) -> Iterator[tuple[WorkerItem, int]]:
        report = attempt.report
        if report is None:
            return
        told.finished = report
        size = report.ending.result_bytes
        if size > INLINE_BYTES:
            self._deliver(attempt)
            return
        try:
            result = attempt.folder.result.read_bytes() if size else None
        except OSError:
            # A delivery of its own will have the same trouble, and knows what to do about it.
            self._deliver(attempt)
            return
        yield (
            attrs.evolve(final_report(attempt, report), result=result),
            size,
        )


def final_report(attempt: HeldAttempt, report: FinalReport) -> FinishedReport:
    """What is told of an attempt's end; its result is added where it is small."""
    return FinishedReport(
        ref=report.ref,
        seq=report.seq,
        ending=report.ending,
        output_bytes=0 if attempt.log is None else attempt.log.size,
    )
