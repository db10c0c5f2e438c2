from pathlib import Path
from typing import Any

import pytest

from hivemind.core.records import Ending, Outcome, Reason
from hivemind.worker.direct_task import Direct
from hivemind.worker.shelf import Shelf

ENDED = Ending(outcome=Outcome.SUCCEEDED, reason=Reason.EXITED)
NOTHING: Any = None


@pytest.fixture(autouse=True)
async def _in_trio() -> None:
    """Tasks hold events, which only a running loop makes."""


def task(account: str, task_id: str, file_bytes: int = 10) -> Direct:
    return Direct(
        task_id=task_id,
        account=account,
        digest=b"",
        held=NOTHING,
        execution=NOTHING,
        upload=Path("/nowhere"),
        file_bytes=file_bytes,
    )


def end(shelf: Shelf, one: Direct) -> list[str]:
    shelf.put(one)
    one.ending = ENDED
    return [gone.task_id for gone in shelf.note_end(one)]


async def test_ids_are_their_accounts_own() -> None:
    shelf = Shelf()
    alices, bobs = task("alice", "x"), task("bob", "x")
    shelf.put(alices)
    shelf.put(bobs)
    assert shelf.get("alice", "x") is alices
    assert shelf.get("bob", "x") is bobs
    assert shelf.get("carol", "x") is None
    assert shelf.of_anybody("x") is bobs
    assert shelf.of_anybody("y") is None


async def test_the_oldest_ended_one_goes_and_none_that_runs() -> None:
    shelf = Shelf(most_ended=2)
    running = task("alice", "running")
    shelf.put(running)
    assert [end(shelf, task("alice", f"t{i}")) for i in range(4)] == [[], [], ["t0"], ["t1"]]
    assert shelf.get("alice", "running") is running
    assert shelf.get("alice", "t1") is None
    assert shelf.get("alice", "t3") is not None


async def test_many_tasks_of_one_push_out_no_other_accounts() -> None:
    shelf = Shelf(most_ended=10)
    end(shelf, task("alice", "precious"))
    for i in range(100):
        end(shelf, task("mallory", f"m{i}"))
    assert shelf.get("alice", "precious") is not None
    assert shelf.get("mallory", "m99") is not None


async def test_large_tasks_of_one_push_out_no_other_accounts() -> None:
    shelf = Shelf(most_bytes=1000)
    end(shelf, task("alice", "precious", 300))
    dropped = [name for i in range(10) for name in end(shelf, task("mallory", f"m{i}", 400))]
    assert dropped == [f"m{i}" for i in range(9)]
    assert shelf.get("alice", "precious") is not None


async def test_an_id_may_be_used_again_when_its_task_was_dropped() -> None:
    shelf = Shelf(most_ended=1)
    end(shelf, task("alice", "x"))
    end(shelf, task("alice", "y"))
    assert shelf.get("alice", "x") is None
    assert end(shelf, task("alice", "x")) == ["y"]
