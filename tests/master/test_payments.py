"""Balances, history and transfers, over the wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from hivemind.core.ledger import MovementKind
from hivemind.core.policy import PoolRules
from hivemind.rpc.contract.credits import CreditsClient
from hivemind.rpc.errors import ErrorCode, RemoteError, Status
from tests.master.builders import check
from tests.master.gated import AFTER, BEFORE
from tests.master.pool import Pool, open_pool, submit

CPT = 1_000_000


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path) as made:
        yield made


@asynccontextmanager
async def credits_of(pool: Pool, name: str) -> AsyncIterator[CreditsClient]:
    async with pool.channel(pool.account_token(name)) as channel:
        yield CreditsClient(channel)
    await check(pool.reactor, pool.store)


async def refusal_of(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refusal:
        await call
    return refusal.value


async def test_an_account_sees_what_it_has_and_what_is_held_for_its_tasks(pool: Pool) -> None:
    async with pool.tasks_of("bob") as tasks:
        await submit(tasks)
    async with credits_of(pool, "bob") as client:
        own = await client.balance()
        assert (own.account, own.balance_ucpt, own.held_ucpt) == ("bob", 80 * CPT, 20 * CPT)
        assert await client.balance("bob") == own
    async with credits_of(pool, "root") as admin:
        assert await admin.balance("bob") == own


async def test_anothers_money_is_for_admins_to_see(pool: Pool) -> None:
    async with credits_of(pool, "bob") as client:
        for name in ("ann", "nobody"):
            for call in (client.balance(name), client.history(name)):
                refusal = await refusal_of(call)
                assert refusal.status is Status.PERMISSION_DENIED
                assert refusal.code is ErrorCode.USER_NOT_FOUND
    async with credits_of(pool, "root") as admin:
        refusal = await refusal_of(admin.balance("nobody"))
        assert (refusal.status, refusal.code) == (Status.NOT_FOUND, ErrorCode.USER_NOT_FOUND)


async def test_a_transfer_moves_exactly_what_was_named_and_both_see_it(pool: Pool) -> None:
    async with credits_of(pool, "bob") as client:
        done = await client.transfer("ann", 1, memo="for \N{SNOWMAN}")
        assert (done.balance_ucpt, done.repeated) == (100 * CPT - 1, False)
        given, grant = (await client.history()).entries
        assert (given.kind, given.change_ucpt, given.other) == (MovementKind.TRANSFER, -1, "ann")
        assert given.memo == "for \N{SNOWMAN}"
        assert (grant.kind, grant.change_ucpt, grant.other) == (MovementKind.GRANT, 100 * CPT, "")
    async with credits_of(pool, "ann") as client:
        got = (await client.history()).entries[0]
        assert (got.seq, got.change_ucpt, got.other) == (given.seq, 1, "bob")
        assert (await client.balance()).balance_ucpt == 100 * CPT + 1


@pytest.mark.parametrize(
    ("receiver", "amount", "status", "code", "words"),
    [
        ("ann", 0, Status.INVALID_ARGUMENT, None, "above 0"),
        ("ann", -5, Status.INVALID_ARGUMENT, None, "above 0"),
        ("ann", 2**62, Status.INVALID_ARGUMENT, None, "a billion CPT at most"),
        ("bob", 1, Status.INVALID_ARGUMENT, None, "to oneself"),
        ("nobody", 1, Status.NOT_FOUND, ErrorCode.USER_NOT_FOUND, "no account 'nobody'"),
        ("", 1, Status.NOT_FOUND, ErrorCode.USER_NOT_FOUND, "no account ''"),
        ("../issuer", 1, Status.NOT_FOUND, ErrorCode.USER_NOT_FOUND, "no account"),
        (
            "ann",
            100 * CPT + 1,
            Status.RESOURCE_EXHAUSTED,
            ErrorCode.INSUFFICIENT_RESOURCES,
            "bob has 100 CPT and 100.000001 CPT were to be moved",
        ),
    ],
)
async def test_a_transfer_that_cannot_be_moves_nothing(
    pool: Pool, receiver: str, amount: int, status: Status, code: ErrorCode | None, words: str
) -> None:
    async with credits_of(pool, "bob") as client:
        refusal = await refusal_of(client.transfer(receiver, amount))
        assert (refusal.status, refusal.code) == (status, code)
        assert words in refusal.message
        assert "\n" not in refusal.message
        assert (await client.balance()).balance_ucpt == 100 * CPT


async def test_the_same_key_is_the_same_transfer_however_often_and_at_once(pool: Pool) -> None:
    async with credits_of(pool, "bob") as client:
        repeats: list[bool] = []

        async def send() -> None:
            repeats.append((await client.transfer("ann", 60 * CPT, key="rent")).repeated)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(send)
        assert sorted(repeats) == [False, *[True] * 7]
        assert (await client.balance()).balance_ucpt == 40 * CPT
        other = await refusal_of(client.transfer("ann", 59 * CPT, key="rent"))
        assert other.status is Status.ALREADY_EXISTS
        assert "transfer of 60 CPT to ann has the key 'rent' already" in other.message
    # A key is its giver's own.
    async with credits_of(pool, "ann") as client:
        assert not (await client.transfer("bob", CPT, key="rent")).repeated


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
async def test_a_transfer_whose_commit_fails_is_made_once_when_it_is_repeated(
    pool: Pool, fault: Any
) -> None:
    async with credits_of(pool, "bob") as client:
        pool.store.faults = [fault]
        await refusal_of(client.transfer("ann", CPT, key="k"))
        done = await client.transfer("ann", CPT, key="k")
        assert done.repeated == (fault is AFTER)
        assert (await client.balance()).balance_ucpt == 99 * CPT


async def test_a_history_is_paged_and_a_cursor_that_nobody_gave_is_refused(pool: Pool) -> None:
    async with credits_of(pool, "bob") as client:
        for _ in range(3):
            await client.transfer("ann", 1)
        seen: list[int] = []
        cursor = ""
        while True:
            page = await client.history(cursor=cursor, limit=1)
            seen += [entry.seq for entry in page.entries]
            cursor = page.next_cursor
            if not cursor:
                break
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == 4
        refusal = await refusal_of(client.history(cursor="x"))
        assert refusal.status is Status.INVALID_ARGUMENT


async def test_bad_words_are_refused(pool: Pool) -> None:
    async with credits_of(pool, "bob") as client:
        for wrong in ({"key": "x" * 129}, {"key": "\x1b"}, {"memo": "two\nlines"}):
            refusal = await refusal_of(client.transfer("ann", 1, **wrong))  # type: ignore[arg-type]
            assert refusal.status is Status.INVALID_ARGUMENT


async def test_a_nodes_token_moves_no_money(pool: Pool) -> None:
    async with pool.channel(pool.node_token("n1")) as channel:
        client = CreditsClient(channel)
        for call in (client.balance(), client.history(), client.transfer("bob", 1)):
            assert (await refusal_of(call)).status is Status.PERMISSION_DENIED
    async with pool.channel() as channel:
        refusal = await refusal_of(CreditsClient(channel).balance())
        assert refusal.status is Status.UNAUTHENTICATED


async def test_an_account_moves_so_many_amounts_in_a_minute_and_repeats_are_none(
    tmp_path: Path,
) -> None:
    rules = PoolRules(transfers_per_minute=3)
    async with open_pool(tmp_path, rules=rules) as pool:
        async with credits_of(pool, "bob") as client:
            await client.transfer("ann", 1, key="first")
            await client.transfer("ann", 1)
            await client.transfer("ann", 1)
            for key in ("", "other"):
                refusal = await refusal_of(client.transfer("ann", 1, key=key))
                assert refusal.status is Status.RESOURCE_EXHAUSTED
                assert "too many tries; wait" in str(refusal)
            assert (await client.transfer("ann", 1, key="first")).repeated
            assert (await client.balance()).balance_ucpt == 100 * CPT - 3
        async with credits_of(pool, "ann") as client:
            await client.transfer("bob", 1)
