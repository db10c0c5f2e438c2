"""Runs as a process of its own: commits turn after turn and says so, until it is killed."""

import sys
from pathlib import Path

import attrs
import trio

from hivemind.core.records import Blob, TaskState
from hivemind.store.changes import Changes, ResultBlob
from hivemind.store.sqlite import open_sqlite_store
from tests.store.records import attempt, new_task


def turn(number: int) -> Changes:
    """Rows of every kind that must be there together or not at all."""
    first, second = new_task(f"{number}-a"), new_task(f"{number}-b", client_key=f"key {number}")
    running = attrs.evolve(first.task, state=TaskState.RUNNING, attempt=1)
    result = ResultBlob(task_id=first.task.id, attempt=1, blob=Blob(size=9000, inline=bytes(9000)))
    return Changes(
        new_tasks=(first, second),
        tasks=(running,),
        attempts=(attempt(first.task.id),),
        results=(result,),
        facts={"turn": str(number).encode()},
    )


async def main(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        number = int((await store.load()).facts.get("turn", b"0"))
        while True:
            number += 1
            await store.commit(turn(number))
            print(number, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
