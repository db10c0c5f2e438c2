"""The memory store is the model of the real one: whatever happens, both say the same."""

import tempfile
from pathlib import Path

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind.core.records import (
    Account,
    Attempt,
    Blob,
    JoinToken,
    Node,
    Outcome,
    RevokedToken,
    Role,
    Task,
    TaskState,
)
from hivemind.store.api import CommitFailed, DuplicateTask, Store
from hivemind.store.changes import Changes, NewTask, ResultBlob
from hivemind.store.memory import MemoryStore
from hivemind.store.sqlite import open_sqlite_store

NOW = 100.0
IDS = ("a", "b", "c", "d", "e")
ACCOUNTS = ("ann", "bob")

ids = st.sampled_from(IDS)
accounts = st.sampled_from(ACCOUNTS)
chosen = st.sampled_from(("", "", "x", "y"))
instants = st.sampled_from((0.0, NOW, NOW + 1))
blobs = st.sampled_from(
    (Blob(size=1, inline=b"x"), Blob(size=0, inline=b""), Blob(size=9, file="f"))
)
tasks = st.builds(
    Task,
    id=ids,
    account=accounts,
    state=st.sampled_from(TaskState),
    client_id=chosen,
    client_key=chosen,
    attempt=st.integers(0, 2),
    detail=st.text(max_size=2),
    exit_code=st.none() | st.integers(-1, 1),
    finished_at=st.none() | st.sampled_from((0.5, 1.5)),
)


def few(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


fields: dict[str, st.SearchStrategy[object]] = {
    "new_tasks": few(
        st.builds(
            NewTask,
            task=tasks,
            spec=st.binary(max_size=2),
            payload=st.none() | blobs,
            stdin=st.none() | blobs,
        )
    ),
    "attempts": few(
        st.builds(
            Attempt,
            task_id=ids,
            number=st.integers(1, 2),
            node_id=ids,
            lease_id=st.just("l"),
            assigned_at=instants,
            outcome=st.none() | st.sampled_from(Outcome),
        )
    ),
    "results": few(st.builds(ResultBlob, task_id=ids, attempt=st.integers(1, 2), blob=blobs)),
    "accounts": few(
        st.builds(
            Account,
            name=accounts,
            role=st.sampled_from(Role),
            password_hash=st.just(""),
            created_at=instants,
        )
    ),
    "nodes": few(
        st.builds(
            Node,
            id=ids,
            account=accounts,
            name=st.text(max_size=1),
            public_key=st.binary(max_size=1),
            enrolled_at=instants,
        )
    ),
    "forgotten_nodes": few(ids),
    "join_tokens": few(
        st.builds(
            JoinToken,
            digest=st.binary(min_size=1, max_size=1),
            account=accounts,
            purpose=st.just("join"),
            expires_at=instants,
            used_at=st.none() | instants,
        )
    ),
    "revoked_tokens": few(st.builds(RevokedToken, token_id=ids, expires_at=instants)),
    "facts": st.dictionaries(ids, st.binary(max_size=1), max_size=2),
    "removed_tasks": few(ids),
    "stale_before": instants,
}
# Mostly of one kind, since a turn with something of everything is nearly always refused.
turns = st.builds(Changes, **fields) | st.one_of(
    [st.builds(Changes, **{name: drawn}) for name, drawn in fields.items()]
)
# Updates that name a task as it is: drawn at random, they would hardly ever be good ones.
updates = st.tuples(ids, st.sampled_from(TaskState), st.text(max_size=1))
steps = st.lists(turns | updates | tasks, min_size=4, max_size=16)


async def outcome(store: Store, changes: Changes) -> object:
    try:
        await store.commit(changes)
    except DuplicateTask as error:
        return (error.field, error.value, error.account, error.task_id, error.existing)
    except CommitFailed:
        return CommitFailed
    return None


async def everything(store: Store) -> list[object]:
    """All that can be read, in an order of its own where the store promises none."""
    snapshot = attrs.asdict(await store.load(), recurse=False)
    said: list[object] = [snapshot.pop("tasks"), snapshot.pop("attempts"), snapshot.pop("facts")]
    said += [sorted(records, key=repr) for records in snapshot.values()]
    said.append(await store.blob_files())
    said.append(dict(await store.newest_nodes(IDS)))
    for at in (1.0, 2.0):
        said.append(sorted(await store.ended_before(at, limit=100), key=repr))
    for id_ in IDS:
        said += [await store.task(id_), await store.spec(id_), await store.attempts(id_)]
        said += [await store.result(id_, number) for number in (1, 2)]
    for account in (None, *ACCOUNTS):
        for states in (None, frozenset({TaskState.QUEUED, TaskState.FAILED})):
            cursor = None
            for _ in range(len(IDS) + 1):
                page = await store.tasks(account=account, states=states, cursor=cursor, limit=2)
                cursor = page.next_cursor
                said.append(page.tasks)
                if cursor is None:
                    break
    for account in ACCOUNTS:
        for name in ("", "x", "y"):
            said.append(await store.find_task(account, client_id=name))
            said.append(await store.find_task(account, client_key=name))
    return said


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=steps)
async def test_the_memory_store_and_the_real_one_always_say_the_same(
    story: list[Changes | Task | tuple[str, TaskState, str]],
) -> None:
    model = MemoryStore(clock=lambda: NOW)
    with tempfile.TemporaryDirectory() as folder:
        async with open_sqlite_store(Path(folder) / "db", clock=lambda: NOW) as real:
            for step in story:
                if isinstance(step, Changes):
                    changes = step
                elif isinstance(step, Task):
                    changes = Changes(new_tasks=(NewTask(task=step, spec=b""),))
                else:
                    id_, state, detail = step
                    known = await model.task(id_)
                    if known is None:
                        continue
                    updated = attrs.evolve(known, state=state, detail=detail)
                    changes = Changes(tasks=(updated,))
                assert await outcome(real, changes) == await outcome(model, changes)
            assert await everything(real) == await everything(model)
