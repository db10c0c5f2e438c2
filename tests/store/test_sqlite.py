import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import attrs
import pytest
import trio
import trio.testing

import hivemind.store.sqlite as module
from hivemind.core.ledger import grant
from hivemind.core.records import Attempt, Blob, Task, TaskState
from hivemind.store import ledger_statements, opening, rows, statements
from hivemind.store.api import ROWS_BYTES, CommitFailed, Corrupt, OutcomeUnknown, ReadFailed
from hivemind.store.changes import Changes, NewTask, ResultBlob
from hivemind.store.schema import migrate, read_migrations
from hivemind.store.sqlite import SqliteStore, open_sqlite_store
from tests.store.committer import turn
from tests.store.records import attempt, new_task, submit

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite_store(path) as opened:
        yield opened


async def test_what_was_committed_is_there_after_it_was_closed(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.commit(submit(new_task("a")))
    async with open_sqlite_store(path) as store:
        assert await store.task("a") == new_task("a").task


async def test_its_files_are_its_owners_alone(path: Path, store: SqliteStore) -> None:
    await store.commit(submit(new_task("a")))
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"store.db", "store.db-wal", "store.db.lock"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_every_commit_is_synced(store: SqliteStore) -> None:
    def settings(connection: apsw.Connection) -> tuple[object, ...]:
        return tuple(
            connection.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")
        )

    assert await store._writer.run(settings) == ("wal", 2, 1)


def acknowledged_until_killed(path: Path, turns: int) -> int:
    """Run the committer, kill it some time after so many turns; the last one it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.store.committer", path],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(turns)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    # A line that the kill cut off is no acknowledgement that anybody could have read.
    return int([line for line in lines if line.endswith("\n")][-1])


async def test_kill_9_loses_nothing_acknowledged_and_leaves_no_half_turn(path: Path) -> None:
    chosen = random.Random(7)
    for _ in range(6):
        last = await trio.to_thread.run_sync(
            acknowledged_until_killed, path, chosen.randrange(1, 40)
        )
        async with open_sqlite_store(path) as store:
            snapshot = await store.load()
            stored = int(snapshot.facts["turn"])
            # At most the one that was under way is there besides.
            assert last <= stored <= last + 1
            expected: list[Task] = []
            attempts: list[Attempt] = []
            for number in range(1, stored + 1):
                changes = turn(number)
                expected += [changes.tasks[0], changes.new_tasks[1].task]
                attempts += changes.attempts
            assert list(snapshot.tasks) == expected
            assert list(snapshot.attempts) == attempts
            newest = turn(stored)
            assert await store.result(f"{stored}-a", 1) == newest.results[0].blob
            assert await store.find_task("ann", client_key=f"key {stored}") is not None
            found = await store.spec(f"{stored}-b")
            assert found is not None
            assert found.spec == newest.new_tasks[1].spec


def with_faulty_disk(path: Path, fault: str) -> tuple[list[str], list[str]]:
    """What the process saw of a fault, and which tasks are there after its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.faulty_disk", path, fault],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    connection = apsw.Connection(str(path))
    tasks = [str(id_) for (id_,) in connection.execute("SELECT id FROM task ORDER BY seq")]
    connection.close()
    return done.stdout.splitlines(), tasks


def test_a_full_disk_refuses_the_commit_and_the_store_goes_on(path: Path) -> None:
    said, tasks = with_faulty_disk(path, "full")
    assert [line.split()[0] for line in said] == ["CommitFailed"]
    assert tasks == ["before", "after"]


def test_a_sync_that_fails_leaves_the_outcome_unknown(path: Path) -> None:
    said, tasks = with_faulty_disk(path, "sync")
    assert [line.split()[0] for line in said] == ["OutcomeUnknown"]
    # Rolled back in the process, and yet found by the recovery: this is what "unknown" is for.
    assert tasks == ["before", "during"]


def test_a_load_settles_an_unknown_outcome_for_good(path: Path) -> None:
    said, tasks = with_faulty_disk(path, "sync, reload")
    assert said[1] == "['before']"
    assert tasks == ["before"]


async def test_a_file_size_limit_refuses_the_commit_and_the_store_goes_on(
    path: Path, store: SqliteStore
) -> None:
    await store.commit(submit(new_task("a")))
    new = new_task("big")
    turn = submit(attrs.evolve(new, payload=Blob(size=500_000, inline=bytes(500_000))))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(CommitFailed):
            await store.commit(turn)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert await store.task("big") is None
    await store.commit(turn)
    assert await store.task("big") == new.task


async def hold_write_lock(path: Path) -> apsw.Connection:
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    return other


async def test_a_caller_cancelled_during_its_commit_learns_its_outcome(
    path: Path, store: SqliteStore
) -> None:
    other = await hold_write_lock(path)
    outcome = ""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def commit() -> None:
                nonlocal outcome
                await store.commit(submit(new_task("a")))
                outcome = "stored"

            nursery.start_soon(commit)
            # It waits for the other connection now, in SQLite.
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            other.execute("ROLLBACK")
            other.close()
    assert outcome == "stored"
    assert await store.task("a") is not None


async def test_a_database_that_stays_busy_refuses_the_commit(
    path: Path, store: SqliteStore
) -> None:
    await store._writer.run(lambda connection: connection.set_busy_timeout(10))
    other = await hold_write_lock(path)
    with pytest.raises(CommitFailed):
        await store.commit(submit(new_task("a")))
    other.execute("ROLLBACK")
    other.close()
    await store.commit(submit(new_task("a")))


async def test_a_transaction_that_a_failure_left_open_does_not_spoil_the_next(
    store: SqliteStore,
) -> None:
    await store._writer.run(lambda connection: connection.execute("BEGIN").fetchall())
    await store.commit(submit(new_task("a")))
    assert await store.task("a") is not None


async def test_a_commit_that_takes_too_long_has_an_unknown_outcome_that_a_load_settles(
    path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await hold_write_lock(path)
    monkeypatch.setattr(module, "COMMIT_WITHIN_S", 0.05)
    with pytest.raises(OutcomeUnknown):
        await store.commit(submit(new_task("a")))
    other.execute("ROLLBACK")
    other.close()
    monkeypatch.undo()
    ids = [task.id for task in (await store.load()).tasks]
    assert ids == [task.id for task in (await store.tasks(limit=10)).tasks]
    await store.commit(submit(new_task("b")))
    assert [task.id for task in (await store.load()).tasks] == [*ids, "b"]


async def test_a_read_does_not_wait_for_a_commit(path: Path, store: SqliteStore) -> None:
    await store.commit(submit(new_task("a")))
    other = await hold_write_lock(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.commit, submit(new_task("b")))
        await trio.testing.wait_all_tasks_blocked()
        page = await store.tasks(limit=10)
        assert [task.id for task in page.tasks] == ["a"]
        other.execute("ROLLBACK")
        other.close()


def endless(connection: apsw.Connection) -> None:
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    ).fetchall()


async def test_a_commit_does_not_wait_for_a_read_and_a_read_can_be_cancelled(
    store: SqliteStore,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._reader.run, endless)
        await trio.testing.wait_all_tasks_blocked()
        await store.commit(submit(new_task("a")))
        nursery.cancel_scope.cancel()
    assert await store.task("a") is not None


async def test_a_readers_deadline_is_a_cancellation_and_no_error(store: SqliteStore) -> None:
    with trio.move_on_after(0.05) as scope:
        await store._reader.read(endless)
    assert scope.cancelled_caught
    assert await store.task("a") is None


async def test_damage_that_a_read_meets_is_called_so(path: Path, store: SqliteStore) -> None:
    def forge(connection: apsw.Connection) -> None:
        connection.pragma("ignore_check_constraints", True)
        connection.execute("UPDATE task SET reason = 'magic'")

    await store.commit(submit(new_task("a")))
    await store._writer.transact(forge)
    with pytest.raises(Corrupt, match="magic"):
        await store.task("a")
    with pytest.raises(Corrupt, match="magic"):
        await store.load()


def overwrite(path: Path) -> None:
    """Fill the latter half of a file with nonsense."""
    half = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(half)
        file.write(b"\xff" * half)


async def test_damage_that_was_too_far_in_to_be_seen_at_the_start_is_met_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CHECKED_BYTES", 0)
    async with open_sqlite_store(path) as store:
        await store.commit(submit(*(new_task(f"t{number}") for number in range(2000))))
    overwrite(path)
    async with open_sqlite_store(path) as store:
        with pytest.raises(Corrupt, match="damaged"):
            await store.load()
        with pytest.raises(CommitFailed):
            await store.commit(submit(*(new_task(f"u{number}") for number in range(500))))


async def test_what_cannot_be_asked_for_is_no_damage(store: SqliteStore) -> None:
    with pytest.raises(ReadFailed):
        await store.task("\ud800")
    with pytest.raises(ReadFailed):
        await store.result("a", 2**70)


async def test_a_closed_store_cannot_be_read(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        pass
    with pytest.raises(ReadFailed):
        await store.task("a")


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (statements.SELECT_SEQS_BY_STATE, "task_state (state=? AND seq<?)"),
        (
            statements.SELECT_SEQS_BY_ACCOUNT_AND_STATE,
            "task_account_state (account=? AND state=? AND seq<?)",
        ),
        (statements.SELECT_SEQS, "INTEGER PRIMARY KEY (rowid<?)"),
        (statements.SELECT_UNFINISHED, "task_state (state=?)"),
        (statements.SELECT_NEWEST_ATTEMPTS, "task_state (state=?)"),
        (statements.SELECT_BY_CLIENT_ID, "task_client_id (account=? AND client_id=?)"),
        (statements.SELECT_BY_CLIENT_KEY, "task_client_key (account=? AND client_key=?)"),
        (ledger_statements.SELECT_BY_DEBIT, "movement_debit (debit=? AND seq<?)"),
        (ledger_statements.SELECT_BY_CREDIT, "movement_credit (credit=? AND seq<?)"),
        (ledger_statements.SELECT_BY_KEY, "movement_key (debit=? AND key=?)"),
    ],
)
async def test_no_query_looks_at_every_task_or_movement(
    store: SqliteStore, query: str, index: str
) -> None:
    def plan(connection: apsw.Connection) -> list[str]:
        marks = (None,) * query.count("?")
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", marks)]

    steps = await store._reader.run(plan)
    assert any(index in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN")]


async def test_a_listing_of_many_sorts_nothing(store: SqliteStore) -> None:
    def plan(connection: apsw.Connection) -> list[str]:
        query = statements.SELECT_SEQS_BY_ACCOUNT_AND_STATE
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", "abcd")]

    assert not [step for step in await store._reader.run(plan) if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    "sql", ["UPDATE movement SET amount_ucpt = 1", "DELETE FROM movement"], ids=["change", "remove"]
)
async def test_the_database_itself_keeps_every_entry_of_the_ledger_as_it_is(
    store: SqliteStore, sql: str
) -> None:
    await store.commit(Changes(movements=(grant("ann", 5, 1.0),)))
    with pytest.raises(apsw.ConstraintError, match="an entry of the ledger is never"):
        await store._writer.run(lambda connection: connection.execute(sql).fetchall())
    assert (await store.load()).balances == {"issuer": -5, "user/ann": 5}


async def test_a_database_from_before_the_ledger_has_an_empty_one(path: Path) -> None:
    connection = apsw.Connection(str(path))
    migrate(connection, read_migrations()[:2])
    row = rows.task_row(new_task("old").task)[:-4]
    columns = rows.TASK_COLUMNS[:-4]
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO task ({', '.join(columns)}) VALUES ({marks})", row)
    connection.close()
    async with open_sqlite_store(path) as store:
        snapshot = await store.load()
        assert snapshot.tasks == (new_task("old").task,)
        assert (snapshot.balances, snapshot.escrows) == ({}, ())


async def test_a_database_from_before_accounts_were_measured_is_measured(path: Path) -> None:
    new = NewTask(
        task=new_task("old", attempt=1).task, spec=b"12", payload=Blob(size=300, file="p")
    )
    result = ResultBlob(task_id="old", attempt=1, blob=Blob(size=7, inline=b"1234567"))
    async with open_sqlite_store(path) as store:
        await store.commit(Changes(new_tasks=(new,), attempts=(attempt("old"),), results=(result,)))
    (measure,) = (one for one in read_migrations() if one.name == "kept_bytes")
    connection = apsw.Connection(str(path))
    for name in ("task_input_comes", "task_input_goes", "result_comes", "result_changes"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DROP TRIGGER result_goes; DROP TABLE kept")
    for _ in connection.execute(measure.sql):
        pass
    connection.close()
    async with open_sqlite_store(path) as store:
        assert await store.kept_bytes("ann") == ROWS_BYTES + 2 + 300 + 7


async def test_it_outlives_a_full_turn_of_submits_with_inline_payloads(store: SqliteStore) -> None:
    payload = Blob(size=60_000, inline=os.urandom(60_000))
    turn = Changes(
        new_tasks=tuple(
            NewTask(task=new_task(f"t{n}").task, spec=b"s", payload=payload) for n in range(200)
        ),
        attempts=tuple(attempt(f"t{n}") for n in range(200)),
        tasks=tuple(
            new_task(f"t{n}", state=TaskState.ASSIGNED, attempt=1).task for n in range(200)
        ),
    )
    await store.commit(turn)
    stored = await store.spec("t199")
    assert stored is not None
    assert stored.payload == payload
    assert len((await store.load()).attempts) == 200
