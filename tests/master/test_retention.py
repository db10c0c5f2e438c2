"""What has ended is kept as long as the rule says, and then nothing of it is left."""

import itertools
import math
from pathlib import Path

import attrs
import pytest
import trio

from hivemind.core.policy import PoolRules
from hivemind.core.records import Blob, OutputChunk, OutputStream, TaskState
from hivemind.master.output import OutputFolder
from hivemind.master.reactor import Reactor
from hivemind.master.retention import Retention
from hivemind.rpc.errors import CallRefused
from hivemind.store.blobs import BlobFolder
from hivemind.store.changes import Changes, NewTask, ResultBlob
from hivemind.store.failing import FailingStore, Fault, Moment
from hivemind.store.memory import MemoryStore
from tests.store.records import attempt, new_task

IDS = tuple(f"01m88{number:021}" for number in range(3))
NOW = 10_000.0


class World:
    """A store with three ended tasks, one second apart, and all that is theirs on the disk."""

    def __init__(self, folder: Path, keep_s: float) -> None:
        self.rules = PoolRules(retention_s=keep_s)
        self.inner = MemoryStore(clock=lambda: NOW)
        self.failing: Fault | None = None
        self.store = FailingStore(
            self.inner,
            lambda _number, changes: self.failing if changes.removed_tasks else None,
        )
        names = itertools.count()
        self.blobs = BlobFolder(folder / "blobs", new_name=lambda: f"b{next(names)}")
        self.output = OutputFolder(folder / "output", lambda _: None)
        self.folder = folder
        self.reactor = Reactor(self.store, rules=lambda: self.rules)
        self.retention = Retention(
            self.reactor,
            self.store,
            output=self.output,
            blobs=self.blobs,
            rules=lambda: self.rules,
            clock=lambda: NOW,
        )

    async def fill(self) -> None:
        await self.blobs.make()
        for number, id_ in enumerate(IDS):
            payload, result = [await self.blobs.put(b"x" * 100_000) for _ in range(2)]
            task = new_task(
                id_, state=TaskState.SUCCEEDED, attempt=1, finished_at=NOW - 3 + number
            ).task
            await self.inner.commit(
                Changes(
                    new_tasks=(NewTask(task=task, spec=b"s", payload=payload),),
                    attempts=(attempt(id_),),
                    results=(ResultBlob(task_id=id_, attempt=1, blob=result),),
                )
            )
            log = await self.output.log(id_, 1)
            chunk = OutputChunk(stream=OutputStream.STDOUT, offset=0, data=b"said", at=1.0)
            await log.append([chunk], most_bytes=100)

    async def left(self) -> list[str]:
        return sorted(task.id for task in (await self.inner.tasks(limit=10)).tasks)

    def files(self) -> int:
        return sum(path.is_file() for path in (self.folder / "blobs").iterdir())

    def logs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "output").iterdir())


@pytest.mark.parametrize(
    ("keep_s", "kept"), [(math.inf, IDS), (2.5, IDS[1:]), (1.5, IDS[2:]), (0.5, ())]
)
async def test_only_what_is_older_than_the_rule_goes(
    tmp_path: Path, keep_s: float, kept: tuple[str, ...]
) -> None:
    world = World(tmp_path, keep_s)
    await world.fill()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.reactor.run)
        assert await world.retention.remove_due() == len(IDS) - len(kept)
        nursery.cancel_scope.cancel()
    assert await world.left() == list(kept)
    assert world.files() == 2 * len(kept)
    assert world.logs() == list(kept)


async def test_a_commit_that_fails_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    world = World(tmp_path, 0.5)
    await world.fill()
    world.failing = Fault(Moment.BEFORE)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.reactor.run)
        with pytest.raises(CallRefused):
            await world.retention.remove_due()
        assert await world.left() == list(IDS)
        assert world.files() == 2 * len(IDS)
        world.failing = None
        assert await world.retention.remove_due() == len(IDS)
        nursery.cancel_scope.cancel()
    assert (await world.left(), world.files(), world.logs()) == ([], 0, [])


async def test_no_unfinished_task_is_ever_removed(tmp_path: Path) -> None:
    world = World(tmp_path, 0.5)
    running = attrs.evolve(
        new_task(IDS[0]).task, state=TaskState.QUEUED, client_id="mine", finished_at=1.0
    )
    new = NewTask(task=running, spec=b"s", payload=Blob(size=1, inline=b"x"))
    await world.inner.commit(Changes(new_tasks=(new,)))
    await world.inner.commit(Changes(removed_tasks=(running.id,)))
    assert await world.left() == [running.id]
