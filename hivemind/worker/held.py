"""What this worker holds: attempts under way, and attempts whose end the master has not confirmed.

The runner changes it and the link reads it. Nothing is queued between the two: what is still to be
sent of an attempt follows from where its log ends and how far the link has read it, so a link that
is slow, or away, costs no memory.
"""

from collections import deque
from collections.abc import Iterator

import attrs
import trio

from hivemind.core.messages import AttemptRef, RefusedReport
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.outbox import AttemptFolder, FinalReport

STARTED_SEQ = 1
"""The number of the started report, the first of every attempt; the final one is the next."""


@attrs.define(eq=False, kw_only=True)
class HeldAttempt:
    """One attempt, from its assignment until the master has acknowledged its end."""

    ref: AttemptRef
    folder: AttemptFolder
    log: AttemptLog | None = None
    """None until it has begun to run."""
    started: bool = False
    report: FinalReport | None = None
    """Set once it is on disk."""


class HeldAttempts:
    """The attempts by their name. ``wait_change`` tells the link that something is to be sent."""

    def __init__(self) -> None:
        self._by_ref: dict[AttemptRef, HeldAttempt] = {}
        self._changed = trio.Event()
        self.refusals: deque[RefusedReport] = deque()
        """What is still to be said of attempts that are not run here, and so not held. A hello,
        which names all that is held, makes them needless."""

    def __iter__(self) -> Iterator[HeldAttempt]:
        return iter(tuple(self._by_ref.values()))

    def __contains__(self, ref: object) -> bool:
        return ref in self._by_ref

    def __len__(self) -> int:
        return len(self._by_ref)

    def get(self, ref: AttemptRef) -> HeldAttempt | None:
        """The attempt, if it is held."""
        return self._by_ref.get(ref)

    def refs(self) -> tuple[AttemptRef, ...]:
        """The names of all of them, in the order in which they came."""
        return tuple(self._by_ref)

    def add(self, attempt: HeldAttempt) -> None:
        """Hold it."""
        self._by_ref[attempt.ref] = attempt
        self.note_change()

    def remove(self, ref: AttemptRef) -> HeldAttempt | None:
        """Hold it no longer; None where it was not held."""
        attempt = self._by_ref.pop(ref, None)
        if attempt is not None:
            self.note_change()
        return attempt

    def refuse(self, report: RefusedReport) -> None:
        """Tell the master that an attempt is not run here."""
        self.refusals.append(report)
        self.note_change()

    def note_change(self) -> None:
        """Something may have to be sent."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_change(self) -> None:
        """Return at the next change after this call."""
        await self._changed.wait()

    async def wait_empty(self) -> None:
        """Return once nothing is held."""
        while self._by_ref:
            await self.wait_change()
