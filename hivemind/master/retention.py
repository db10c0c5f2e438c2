"""How long what has ended is kept: the pool's rule, carried out.

A task's output goes first, then its rows in one commit, then the files that the rows named. Whoever
is killed in between finds the rest at the next look, or at the next start, which removes every file
that no row names.
"""

import math
from collections.abc import Callable

import structlog
import trio

from hivemind.core.ids import is_task_id
from hivemind.core.policy import PoolRules
from hivemind.core.records import Blob, Task
from hivemind.master.output import OutputFolder
from hivemind.master.reactor import Reactor
from hivemind.rpc.errors import CallRefused
from hivemind.store.api import Store, StoreError
from hivemind.store.blobs import BlobFolder

_LOOK_S = 600.0
"""How often, at the least, it is looked whose time is over."""
_AT_ONCE = 100
_PAUSE_S = 0.1
"""Between two batches, so that a long list does not hold up the pool's own work."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Retention:
    """Removes ended tasks, and secrets that have expired, when the rule says so."""

    def __init__(
        self,
        reactor: Reactor,
        store: Store,
        *,
        output: OutputFolder,
        blobs: BlobFolder,
        rules: Callable[[], PoolRules],
        clock: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._output = output
        self._blobs = blobs
        self._rules = rules
        self._clock = clock

    async def run(self) -> None:
        """Look again and again until cancelled. What cannot be removed now waits for the next."""
        while True:
            try:
                removed = await self.remove_due()
            except (CallRefused, StoreError, OSError) as error:
                log.warning("retention_failed", error=str(error))
                removed = 0
            else:
                if removed:
                    log.info("ended_tasks_removed", tasks=removed)
            keep_s = self._rules().retention_s
            await trio.sleep(max(1.0, min(_LOOK_S, keep_s / 10)))

    async def remove_due(self) -> int:
        """Remove whatever is due now. Returns how many tasks that were.

        Raises CallRefused, StoreError or OSError; what was not removed is due still.
        """
        removed = 0
        while True:
            now, keep_s = self._clock(), self._rules().retention_s
            due: tuple[Task, ...] = ()
            if not math.isinf(keep_s):
                due = await self._store.ended_before(now - keep_s, limit=_AT_ONCE)
            await self._remove(due, now)
            removed += len(due)
            if len(due) < _AT_ONCE:
                return removed
            await trio.sleep(_PAUSE_S)

    async def _remove(self, tasks: tuple[Task, ...], now: float) -> None:
        files: list[Blob] = []
        for task in tasks:
            files += await self._files_of(task)
            # The id becomes part of a path, and a database may have been somebody else's.
            if is_task_id(task.id):
                await self._output.remove(task.id)
        ids = [task.id for task in tasks]
        await self._reactor.perform(lambda turn: turn.remove_ended(ids, stale_before=now))
        for blob in files:
            await self._blobs.delete(blob)

    async def _files_of(self, task: Task) -> list[Blob]:
        stored = await self._store.spec(task.id)
        blobs = [] if stored is None else [stored.payload, stored.stdin]
        blobs += [
            await self._store.result(task.id, number) for number in range(1, task.attempt + 1)
        ]
        return [blob for blob in blobs if blob is not None and blob.file is not None]
