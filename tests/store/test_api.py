"""The contract: what every store promises, asked of each of them."""

import attrs
import pytest
import trio

from hivemind.core.ledger import (
    Due,
    Escrow,
    Movement,
    MovementKind,
    grant,
    hold,
    settle,
)
from hivemind.core.records import (
    Account,
    Blob,
    JoinToken,
    Node,
    Outcome,
    Reason,
    RefusalKind,
    Requirements,
    RevokedToken,
    Role,
    Task,
    TaskState,
    Usage,
)
from hivemind.core.registration import Intent, Registration
from hivemind.store.api import (
    MOST_PER_PAGE,
    ROWS_BYTES,
    BadCursor,
    CommitFailed,
    DuplicateTask,
    Store,
    parse_cursor,
)
from hivemind.store.changes import Changes, NewTask, ResultBlob, StoredSpec
from tests.store.conftest import NOW
from tests.store.records import attempt, new_task, submit

FULL_TASK = Task(
    id="t1",
    account="ann",
    state=TaskState.RUNNING,
    client_id="mine",
    client_key="key",
    name="a näme with \x00 and \N{SNOWMAN}",
    policy="strict",
    priority=-3,
    requirements=Requirements(
        cpu_millis=1500,
        memory_bytes=2**40,
        scratch_bytes=5,
        gpus=2,
        gpu_memory_bytes=7,
        gpu_name="H100",
        location="lab",
        only_account="ann",
        least_trust=80,
        pushable=True,
    ),
    wall_s=0.5,
    attempt=2,
    stop_requested=True,
    stopped_by="root",
    retries=4,
    failures=1,
    crashes=3,
    backoff_s=1.25,
    node_id="n",
    reason=Reason.SIGNALLED,
    detail="one line",
    exit_code=-9,
    submitted_at=12.5,
    started_at=13.5,
    finished_at=14.5,
    unconfirmed=True,
)
FULL_ATTEMPT = attempt(
    "t1",
    2,
    started_at=2.5,
    ended_at=3.5,
    outcome=Outcome.LOST,
    reason=Reason.NODE_LOST,
    detail="gone",
    exit_code=3,
    usage=Usage(wall_s=1.5, cpu_s=0.25, memory_peak_bytes=2**33, gpu_memory_peak_bytes=2**34),
    report_seq=9,
    refusal=RefusalKind.POLICY,
    result_bytes=77,
    raw_result=True,
    unconfirmed=True,
)


async def test_a_record_comes_back_as_it_went_in(store: Store) -> None:
    new = NewTask(
        task=FULL_TASK,
        spec=b"\x00\xff",
        payload=Blob(size=3, inline=b"abc"),
        stdin=Blob(size=70_000, file="f1"),
    )
    result = Blob(size=2, inline=b"\x00\x00")
    await store.commit(
        Changes(
            new_tasks=(new,),
            attempts=(FULL_ATTEMPT,),
            results=(ResultBlob(task_id="t1", attempt=2, blob=result),),
        )
    )
    assert await store.task("t1") == FULL_TASK
    assert await store.attempts("t1") == (FULL_ATTEMPT,)
    assert await store.result("t1", 2) == result
    assert await store.spec("t1") == StoredSpec(
        spec=b"\x00\xff",
        payload=Blob(size=3, inline=b"abc"),
        stdin=Blob(size=70_000, file="f1"),
    )
    # Every field above differs from its default, so none can have been left out of its row.
    for record in (FULL_TASK, FULL_TASK.requirements, FULL_ATTEMPT, FULL_ATTEMPT.usage):
        for field in attrs.fields(type(record)):
            assert getattr(record, field.name) != field.default, field.name


async def test_a_load_gives_what_a_master_must_know(store: Store) -> None:
    account = Account(name="ann", role=Role.ADMIN, password_hash="h", created_at=1.5, email="a@b")
    node = Node(
        id="n", account="ann", name="x", public_key=b"k", enrolled_at=1, last_seen_at=2, trust=70
    )
    pushed = Node(
        id="p",
        account="ann",
        name="p",
        public_key=b"",
        enrolled_at=1,
        unconfirmed=3,
        registration=Registration(
            hostname="host",
            port=2,
            cpu_cores=3,
            memory_gb=4,
            cpu_score=5,
            gpu_score=6,
            gpu_memory_gb=7,
            gpu_name="g",
            location="l",
            docker_status="d",
            intent=Intent.DRAINING,
        ),
    )
    good = JoinToken(digest=b"1", account="ann", purpose="join", expires_at=NOW + 1)
    used = JoinToken(digest=b"2", account="ann", purpose="join", expires_at=NOW + 1, used_at=NOW)
    late = JoinToken(digest=b"3", account="ann", purpose="invite", expires_at=NOW)
    revoked = RevokedToken(token_id="r1", expires_at=NOW + 1)
    forgotten = RevokedToken(token_id="r2", expires_at=NOW - 1)
    waiting = new_task("a")
    running = new_task("b", state=TaskState.RUNNING, attempt=2)
    over = new_task("c", state=TaskState.FAILED, attempt=1)
    await store.commit(
        Changes(
            new_tasks=(waiting, running, over),
            attempts=(attempt("b", 1), attempt("b", 2), attempt("c", 1)),
            accounts=(account,),
            nodes=(node, pushed),
            join_tokens=(good, used, late),
            revoked_tokens=(revoked, forgotten),
            facts={"epoch": b"7", "empty": b""},
        )
    )
    snapshot = await store.load()
    assert snapshot.tasks == (waiting.task, running.task)
    assert snapshot.attempts == (attempt("b", 2),)
    assert snapshot.accounts == (account,)
    assert snapshot.nodes == (node, pushed)
    assert snapshot.join_tokens == (good,)
    assert snapshot.revoked_tokens == (revoked,)
    assert snapshot.facts == {"epoch": b"7", "empty": b""}


async def test_a_load_of_an_empty_store_is_empty(store: Store) -> None:
    snapshot = await store.load()
    assert not any(attrs.astuple(snapshot))


async def test_a_later_record_replaces_an_earlier_one(store: Store) -> None:
    await store.commit(submit(new_task("a"), new_task("b")))
    first = Account(name="ann", role=Role.USER, password_hash="h", created_at=1)
    ended = attrs.evolve(new_task("a").task, state=TaskState.SUCCEEDED, attempt=1, exit_code=0)
    blobs = (Blob(size=1, inline=b"x"), Blob(size=70_000, file="f"))
    await store.commit(
        Changes(
            tasks=(attrs.evolve(ended, state=TaskState.RUNNING, exit_code=None), ended),
            attempts=(attempt("a", 1), attempt("a", 1, outcome=Outcome.SUCCEEDED)),
            results=tuple(ResultBlob(task_id="a", attempt=1, blob=blob) for blob in blobs),
            accounts=(first, attrs.evolve(first, role=Role.ADMIN)),
            facts={"epoch": b"1"},
        )
    )
    await store.commit(Changes(facts={"epoch": b"2"}))
    assert await store.task("a") == ended
    assert await store.attempts("a") == (attempt("a", 1, outcome=Outcome.SUCCEEDED),)
    assert await store.result("a", 1) == blobs[1]
    snapshot = await store.load()
    assert snapshot.tasks == (new_task("b").task,)
    assert snapshot.accounts == (attrs.evolve(first, role=Role.ADMIN),)
    assert snapshot.facts == {"epoch": b"2"}


async def test_a_node_that_is_forgotten_is_gone_and_its_attempts_stay(store: Store) -> None:
    node = Node(id="node", account="ann", name="x", public_key=b"k", enrolled_at=1)
    await store.commit(Changes(nodes=(node,), new_tasks=(new_task("a"),), attempts=(attempt("a"),)))
    await store.commit(Changes(forgotten_nodes=("node", "unknown")))
    assert (await store.load()).nodes == ()
    assert await store.attempts("a") == (attempt("a"),)


async def test_what_is_unknown_is_none(store: Store) -> None:
    assert await store.task("?") is None
    assert await store.spec("?") is None
    assert await store.attempts("?") == ()
    assert await store.newest_nodes(["?"]) == {}
    assert await store.result("?", 1) is None
    assert await store.find_task("ann", client_id="?") is None


@pytest.mark.parametrize(
    ("field", "second"),
    [
        ("id", new_task("a", "bob")),
        ("client_id", new_task("b", client_id="i")),
        ("client_key", new_task("b", client_key="k")),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_taken_key_refuses_the_whole_commit_and_names_the_key(
    store: Store, field: str, second: NewTask, together: bool
) -> None:
    first = new_task("a", client_id="i", client_key="k")
    if not together:
        await store.commit(submit(first))
    turn = submit(*([first] if together else []), new_task("innocent"), second)
    with pytest.raises(DuplicateTask) as caught:
        await store.commit(turn)
    assert caught.value.field == field
    assert caught.value.task_id == second.task.id
    assert caught.value.existing == "a"
    assert caught.value.value == getattr(second.task, field)
    assert await store.task("innocent") is None
    assert (await store.task("a") is None) == together
    await store.commit(submit(new_task("later")))
    assert await store.task("later") is not None


async def test_names_that_clients_choose_are_each_accounts_own(store: Store) -> None:
    await store.commit(
        submit(
            new_task("a", "ann", client_id="same", client_key="same"),
            new_task("b", "bob", client_id="same", client_key="same"),
            new_task("c", "ann"),
            new_task("d", "ann"),
        )
    )
    for account, id_ in (("ann", "a"), ("bob", "b")):
        by_id = await store.find_task(account, client_id="same")
        by_key = await store.find_task(account, client_key="same")
        assert by_id == by_key
        assert by_id is not None
        assert by_id.id == id_
    assert [task.id for task in await store.tasks_called("same")] == ["b", "a"]
    assert await store.tasks_called("other") == ()
    assert await store.tasks_called("") == ()
    assert await store.find_task("ann", client_id="") is None
    assert await store.find_task("ann", client_key="") is None
    with pytest.raises(ValueError, match="either"):
        await store.find_task("ann")
    with pytest.raises(ValueError, match="either"):
        await store.find_task("ann", client_id="x", client_key="x")


async def test_the_newest_attempts_node_is_found_for_many_tasks_at_once(store: Store) -> None:
    await store.commit(submit(new_task("a"), new_task("b"), new_task("c")))
    tries = (attempt("a", 1, node_id="n1"), attempt("a", 2, node_id="n2"), attempt("b"))
    await store.commit(Changes(attempts=tries))
    assert await store.newest_nodes(["a", "b", "c"]) == {"a": "n2", "b": "node"}
    assert await store.newest_nodes([]) == {}


UNKNOWN_TASK = new_task("nobody's").task
BROKEN = "not \ud800 unicode"


@pytest.mark.parametrize(
    "bad",
    [
        Changes(tasks=(UNKNOWN_TASK,)),
        Changes(tasks=(attrs.evolve(new_task("a").task, account="bob"),)),
        Changes(tasks=(attrs.evolve(new_task("a").task, client_key="other"),)),
        Changes(attempts=(attempt("nobody's"),)),
        Changes(attempts=(attempt("a", 0),)),
        Changes(results=(ResultBlob(task_id="a", attempt=5, blob=Blob(size=1, inline=b"x")),)),
        Changes(tasks=(attrs.evolve(new_task("a").task, detail=BROKEN),)),
        Changes(tasks=(attrs.evolve(new_task("a").task, exit_code=2**63),)),
        Changes(facts={BROKEN: b""}),
        Changes(
            new_tasks=(attrs.evolve(new_task("c"), payload=Blob(size=1)),),
        ),
        Changes(
            new_tasks=(attrs.evolve(new_task("c"), stdin=Blob(size=1, inline=b"x", file="x")),),
        ),
    ],
)
async def test_a_commit_that_cannot_be_stored_leaves_nothing_and_the_store_usable(
    store: Store, bad: Changes
) -> None:
    await store.commit(submit(new_task("a")))
    with pytest.raises(CommitFailed):
        await store.commit(submit(new_task("b")).merge(bad))
    assert await store.task("a") == new_task("a").task
    assert await store.task("b") is None
    assert await store.task("c") is None
    assert (await store.load()).facts == {}
    await store.commit(submit(new_task("b")))
    assert await store.task("b") is not None


async def test_a_listing_gives_every_task_once_newest_first_in_pages(store: Store) -> None:
    ids = [f"t{number}" for number in range(25)]
    await store.commit(submit(*(new_task(id_) for id_ in ids)))
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.tasks(cursor=cursor, limit=10)
        assert len(page.tasks) <= 10
        seen += [task.id for task in page.tasks]
        cursor = page.next_cursor
        if cursor is None:
            break
        # What is submitted meanwhile does not shift the pages to come.
        await store.commit(submit(new_task(f"late {len(seen)}")))
    assert seen == ids[::-1]


async def test_a_listing_ends_exactly_with_its_last_full_page(store: Store) -> None:
    await store.commit(submit(*(new_task(f"t{number}") for number in range(4))))
    page = await store.tasks(limit=2)
    page = await store.tasks(limit=2, cursor=page.next_cursor)
    assert [task.id for task in page.tasks] == ["t1", "t0"]
    assert page.next_cursor is None


async def test_a_listing_is_by_account_and_states(store: Store) -> None:
    states = list(TaskState)
    await store.commit(
        submit(
            *(
                new_task(f"{account} {number}", account, state=states[number % len(states)])
                for number in range(2 * len(states))
                for account in ("ann", "bob")
            )
        )
    )

    async def listed(account: str | None, *wanted: TaskState) -> list[str]:
        page = await store.tasks(
            account=account, states=frozenset(wanted) if wanted else None, limit=100
        )
        return [task.id for task in page.tasks]

    assert await listed("ann") == [f"ann {number}" for number in reversed(range(16))]
    assert await listed("ann", states[1]) == ["ann 9", "ann 1"]
    assert await listed("bob", states[0], states[7]) == ["bob 15", "bob 8", "bob 7", "bob 0"]
    assert await listed(None, states[2]) == ["bob 10", "ann 10", "bob 2", "ann 2"]
    assert await listed("eve") == []
    assert (await store.tasks(states=frozenset(), limit=5)).tasks == ()


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "٣", "9" * 19, "1; DROP TABLE task", "²"])
async def test_a_cursor_that_no_listing_gave_out_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await store.tasks(cursor=cursor, limit=1)


@pytest.mark.parametrize("limit", [0, -1, MOST_PER_PAGE + 1])
async def test_a_page_has_a_sane_size(store: Store, limit: int) -> None:
    with pytest.raises(ValueError, match="page"):
        await store.tasks(limit=limit)


def test_a_cursor_is_a_place_before_which_to_go_on() -> None:
    assert parse_cursor("17") == 17
    assert parse_cursor(None) > 10**18


async def test_commits_made_side_by_side_are_all_applied(store: Store) -> None:
    async with trio.open_nursery() as submitters:
        for number in range(50):
            submitters.start_soon(store.commit, submit(new_task(f"t{number}")))
    assert len((await store.load()).tasks) == 50


async def test_a_caller_that_is_cancelled_already_commits_nothing(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.commit(submit(new_task("a")))
    assert scope.cancelled_caught
    assert await store.task("a") is None


async def test_the_files_that_rows_name_are_known(store: Store) -> None:
    new = NewTask(
        task=new_task("a").task,
        spec=b"",
        payload=Blob(size=70_000, file="p"),
        stdin=Blob(size=70_000, file="s"),
    )
    await store.commit(
        Changes(
            new_tasks=(new, new_task("b")),
            attempts=(attempt("a"), attempt("b")),
            results=(
                ResultBlob(task_id="a", attempt=1, blob=Blob(size=70_000, file="r")),
                ResultBlob(task_id="b", attempt=1, blob=Blob(size=1, inline=b"x")),
            ),
        )
    )
    assert await store.blob_files() == {"p", "s", "r"}


async def test_a_closed_store_takes_nothing_and_may_be_closed_again(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(CommitFailed):
        await store.commit(submit(new_task("a")))


_S = TaskState


async def test_ended_tasks_come_longest_ago_first_and_no_more_than_wanted(store: Store) -> None:
    ends = {"late": 9.0, "early": 1.0, "middle": 5.0, "after": 20.0}
    await store.commit(
        submit(
            new_task("waits"),
            *(new_task(id_, state=TaskState.FAILED, finished_at=at) for id_, at in ends.items()),
        )
    )
    ended = await store.ended_before(10.0, limit=10)
    assert [task.id for task in ended] == ["early", "middle", "late"]
    assert [task.id for task in await store.ended_before(10.0, limit=1)] == ["early"]
    assert await store.ended_before(1.0, limit=10) == ()


async def test_a_removed_task_goes_with_all_that_was_its_and_no_other_does(store: Store) -> None:
    def whole(id_: str, state: TaskState) -> Changes:
        task = new_task(id_, state=state, client_id=id_, attempt=1)
        return Changes(
            new_tasks=(attrs.evolve(task, payload=Blob(size=70_000, file=f"p-{id_}")),),
            attempts=(attempt(id_),),
            results=(ResultBlob(task_id=id_, attempt=1, blob=Blob(size=9, file=f"r-{id_}")),),
        )

    for id_, state in (("old", _S.SUCCEEDED), ("kept", _S.FAILED), ("runs", _S.RUNNING)):
        await store.commit(whole(id_, state))
    await store.commit(Changes(removed_tasks=("old", "runs", "never was")))
    assert await store.task("old") is None
    assert await store.spec("old") is None
    assert await store.attempts("old") == ()
    assert await store.result("old", 1) is None
    assert await store.find_task("ann", client_id="old") is None
    assert await store.blob_files() == {"p-kept", "r-kept", "p-runs", "r-runs"}
    assert [task.id for task in (await store.tasks(limit=9)).tasks] == ["runs", "kept"]
    assert await store.result("runs", 1) is not None
    # The id and the client's own are free again.
    await store.commit(whole("old", _S.QUEUED))
    assert await store.task("old") is not None


async def test_what_an_accounts_tasks_take_of_the_disk_is_known(store: Store) -> None:
    assert await store.kept_bytes("ann") == 0
    spec = len(new_task("a").spec)
    for account in ("ann", "bob"):
        task = attrs.evolve(
            new_task(f"a-{account}", account, state=_S.SUCCEEDED, attempt=1),
            payload=Blob(size=70_000, file=f"p-{account}"),
            stdin=Blob(size=3, inline=b"abc"),
        )
        await store.commit(Changes(new_tasks=(task,), attempts=(attempt(task.task.id),)))
    await store.commit(submit(new_task("b", "ann", state=_S.RUNNING)))
    whole = 2 * ROWS_BYTES + len(b"spec of a-ann") + spec + 70_003
    assert await store.kept_bytes("ann") == whole
    for size in (9, 500):
        result = ResultBlob(task_id="a-ann", attempt=1, blob=Blob(size=size, file=f"r{size}"))
        await store.commit(Changes(results=(result,)))
        assert await store.kept_bytes("ann") == whole + size
    # One that runs is not removed.
    await store.commit(Changes(removed_tasks=("a-ann", "b", "never was")))
    assert await store.kept_bytes("ann") == ROWS_BYTES + spec
    assert await store.kept_bytes("bob") == ROWS_BYTES + len(b"spec of a-bob") + 70_003


async def test_what_expired_long_ago_is_removed(store: Store) -> None:
    revoked = tuple(RevokedToken(token_id=f"t{at:g}", expires_at=at) for at in (1.0, 1e12))
    await store.commit(Changes(revoked_tokens=revoked))
    await store.commit(Changes(stale_before=2.0))
    assert (await store.load()).revoked_tokens == revoked[1:]


# --- the ledger ---

ESCROW = Escrow(task_id="a", account="ann", held_ucpt=60, rate_ucpt=6)
DUES = (
    Due(attempt=2, account="bob", amount_ucpt=7),
    Due(attempt=1, account="eve", amount_ucpt=5),
)
FULL_MOVEMENT = Movement(
    at=1.5,
    kind=MovementKind.TRANSFER,
    debit="user/ann",
    credit="user/bob",
    amount_ucpt=3,
    task_id="t",
    attempt=4,
    memo="for \N{SNOWMAN}",
    key="k",
)


async def test_balances_follow_the_movements_and_an_empty_escrow_is_gone(store: Store) -> None:
    await store.commit(
        Changes(
            new_tasks=(new_task("a"), new_task("b")),
            movements=(grant("ann", 100, 1.0), grant("bob", 10, 1.0), hold(ESCROW, 2.0)),
            escrows=(ESCROW,),
        )
    )
    snapshot = await store.load()
    assert snapshot.balances == {"issuer": -110, "user/ann": 40, "user/bob": 10, "escrow/a": 60}
    assert snapshot.escrows == (ESCROW,)
    richer = attrs.evolve(ESCROW, dues=DUES)
    other = attrs.evolve(ESCROW, task_id="b", held_ucpt=40)
    await store.commit(Changes(escrows=(richer, other), movements=(hold(other, 3.0),)))
    snapshot = await store.load()
    assert snapshot.escrows == (richer, other)
    assert snapshot.balances["user/ann"] == 0
    await store.commit(Changes(movements=settle(richer, 4.0), closed_escrows=("a", "unknown")))
    snapshot = await store.load()
    assert snapshot.escrows == (other,)
    assert snapshot.balances == {
        "issuer": -110,
        "user/ann": 48,
        "user/bob": 17,
        "user/eve": 5,
        "escrow/b": 40,
    }


async def test_a_history_is_paged_from_both_sides_newest_first(store: Store) -> None:
    await store.commit(
        Changes(movements=(grant("ann", 100, 1.0), FULL_MOVEMENT, grant("bob", 1, 1.0)))
    )
    give = attrs.evolve(FULL_MOVEMENT, key="")
    back = attrs.evolve(give, debit="user/bob", credit="user/ann", amount_ucpt=1)
    await store.commit(Changes(movements=(give, back)))
    whole = await store.movements("user/ann", limit=10)
    assert [movement.seq for movement in whole.movements] == [5, 4, 2, 1]
    assert whole.next_cursor is None
    assert whole.movements[2] == attrs.evolve(FULL_MOVEMENT, seq=2)
    for field in attrs.fields(Movement):
        assert getattr(whole.movements[2], field.name) != field.default, field.name
    seen: list[int] = []
    cursor = None
    while True:
        page = await store.movements("user/bob", cursor=cursor, limit=1)
        seen += [movement.seq for movement in page.movements]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2]
    assert (await store.movements("user/nobody", limit=1)).movements == ()
    with pytest.raises(BadCursor):
        await store.movements("user/ann", cursor="x", limit=1)
    with pytest.raises(ValueError, match="1 to"):
        await store.movements("user/ann", limit=0)


async def test_a_movement_is_found_by_its_givers_key(store: Store) -> None:
    await store.commit(Changes(movements=(grant("ann", 100, 1.0), FULL_MOVEMENT)))
    assert await store.find_movement("user/ann", "k") == attrs.evolve(FULL_MOVEMENT, seq=2)
    assert await store.find_movement("user/bob", "k") is None
    assert await store.find_movement("user/ann", "") is None
    assert await store.find_movement("issuer", "") is None


@pytest.mark.parametrize(
    "bad",
    [
        Changes(movements=(attrs.evolve(FULL_MOVEMENT, amount_ucpt=101),)),
        Changes(movements=(attrs.evolve(FULL_MOVEMENT, amount_ucpt=0),)),
        Changes(movements=(attrs.evolve(FULL_MOVEMENT, amount_ucpt=2**63),)),
        Changes(movements=(attrs.evolve(FULL_MOVEMENT, credit="user/ann"),)),
        Changes(movements=(FULL_MOVEMENT, FULL_MOVEMENT)),
        # Never below zero, not even for a moment.
        Changes(
            movements=(
                attrs.evolve(FULL_MOVEMENT, debit="user/bob", credit="user/ann"),
                FULL_MOVEMENT,
            )
        ),
        Changes(escrows=(attrs.evolve(ESCROW, task_id="unknown"),)),
        Changes(escrows=(attrs.evolve(ESCROW, held_ucpt=0),)),
    ],
    ids=[
        *("too much", "nothing", "beyond 64 bits", "to itself", "a key twice", "in between"),
        *("no task", "nothing held"),
    ],
)
async def test_what_the_ledger_cannot_hold_refuses_the_whole_commit(
    store: Store, bad: Changes
) -> None:
    await store.commit(Changes(new_tasks=(new_task("a"),), movements=(grant("ann", 100, 1.0),)))
    before = await store.load()
    with pytest.raises(CommitFailed):
        await store.commit(attrs.evolve(bad, facts={"innocent": b"1"}))
    assert await store.load() == before
    assert [one.seq for one in (await store.movements("user/ann", limit=9)).movements] == [1]
    await store.commit(Changes(movements=(FULL_MOVEMENT,)))
    assert (await store.load()).balances["user/ann"] == 97
