import pytest

from hivemind.store.api import CommitFailed, OutcomeUnknown
from hivemind.store.changes import Changes
from hivemind.store.failing import FailingStore, Fault, Moment, always, on_commits
from hivemind.store.memory import MemoryStore
from tests.store.records import new_task, submit


async def test_a_failure_before_the_commit_stores_nothing() -> None:
    inner = MemoryStore()
    store = FailingStore(inner, always(Fault(Moment.BEFORE)))
    for _ in range(2):
        with pytest.raises(CommitFailed):
            await store.commit(submit(new_task("a")))
    assert await inner.task("a") is None
    assert store.commits == 2


async def test_a_failure_after_the_commit_has_stored_it_and_says_nothing_of_that() -> None:
    inner = MemoryStore()
    store = FailingStore(inner, always(Fault(Moment.AFTER)))
    with pytest.raises(OutcomeUnknown):
        await store.commit(submit(new_task("a")))
    assert await store.task("a") is not None


async def test_only_the_chosen_commits_fail() -> None:
    store = FailingStore(MemoryStore(), on_commits({2: Fault(Moment.BEFORE)}))
    await store.commit(submit(new_task("a")))
    with pytest.raises(CommitFailed):
        await store.commit(submit(new_task("b")))
    await store.commit(submit(new_task("c")))
    assert [task.id for task in (await store.load()).tasks] == ["a", "c"]


async def test_a_plan_sees_what_would_be_written_and_chooses_the_error() -> None:
    class Killed(BaseException):
        pass

    def plan(number: int, changes: Changes) -> Fault | None:
        return Fault(Moment.AFTER, Killed()) if changes.new_tasks[0].task.id == "b" else None

    store = FailingStore(MemoryStore(), plan)
    await store.commit(submit(new_task("a")))
    with pytest.raises(Killed):
        await store.commit(submit(new_task("b")))
    assert await store.task("b") is not None
