"""Following a task across lost connections, without losing or repeating a byte of its output."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import attrs

from hivemind.client.connection import Connection
from hivemind.core.messages import AttemptOutput, WatchItem, WatchQuery
from hivemind.core.records import Task
from hivemind.rpc.contract.tasks import TasksClient
from hivemind.rpc.errors import RpcError, Unreachable


@attrs.define
class _Place:
    """How much was seen."""

    query: WatchQuery
    task: Task | None = None

    @property
    def is_over(self) -> bool:
        return self.query.until_now or (self.task is not None and self.task.state.is_end)

    def fresh(self, item: WatchItem) -> WatchItem | None:
        """``item`` without what was seen before; None if nothing is left of it."""
        if isinstance(item, Task):
            if item == self.task:
                return None
            self.task = item
            if self.query.attempt == 0 and item.attempt > 0:
                # Said now, lest a new attempt's start in between hides the rest of this one.
                self.query = attrs.evolve(self.query, attempt=item.attempt, offset=0)
            return item
        seen = self.query.offset if item.attempt == self.query.attempt else 0
        chunk = item.chunk
        end = chunk.offset + len(chunk.data)
        if item.attempt < self.query.attempt or end <= seen:
            return None
        self.query = attrs.evolve(self.query, attempt=item.attempt, offset=end)
        if chunk.offset >= seen:
            return item
        rest = attrs.evolve(chunk, offset=seen, data=chunk.data[seen - chunk.offset :])
        return AttemptOutput(attempt=item.attempt, chunk=rest)


async def follow(connection: Connection, query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
    """The task as it is, then its changes and output, until all of an ended task was given.

    After a lost connection it goes on where it was; what brings nothing new, again and again, uses
    up the patience. With ``until_now`` it ends once everything that is known now was given. Close
    it with aclosing.

    Raises:
        ClientError: there is no such task, or the master could not be had again.
    """
    place = _Place(query)
    trial = connection.trial()
    while True:
        failure: RpcError
        try:
            client = TasksClient(await connection.channel())
            async with aclosing(client.watch(place.query)) as items:
                async for item in items:
                    fresh = place.fresh(item)
                    if fresh is not None:
                        trial.succeed()
                        yield fresh
            if place.is_over:
                return
            failure = Unreachable("the master ended the stream before the task had ended")
        except RpcError as error:
            failure = error
        await trial.after(failure)
