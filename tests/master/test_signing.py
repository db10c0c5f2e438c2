"""Rotating the key that signs tokens, and giving roles; over the wire."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hivemind.core.policy import PoolRules
from hivemind.core.records import Role
from hivemind.master.signing import OLD_KEYS_FACT, SIGNING_KEY_FACT
from hivemind.rpc.contract.accounts import AccountsClient
from hivemind.rpc.errors import ErrorCode, RemoteError, Status
from tests.master.builders import check
from tests.master.pool import Pool, open_pool

RULES = PoolRules(key_grace_s=3600.0)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    async with open_pool(tmp_path, rules=RULES) as made:
        yield made


async def refusal_of(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refusal:
        await call
    return refusal.value


async def whoami(pool: Pool, token: str) -> str:
    async with pool.channel(token) as channel:
        return (await AccountsClient(channel).whoami()).account


async def rotate(pool: Pool, grace_s: float | None = None, by: str = "root") -> float:
    async with pool.channel(pool.account_token(by)) as channel:
        return await AccountsClient(channel).rotate_keys(grace_s)


async def test_tokens_of_an_old_key_are_believed_until_its_grace_is_over(pool: Pool) -> None:
    old_key = pool.authority.verify_keys()[0]
    old = pool.account_token("ann", ttl_s=86400.0)
    until = await rotate(pool)
    assert until == pytest.approx(pool.clock() + 3600.0, abs=5)
    new = pool.account_token("ann", ttl_s=86400.0)
    newest, kept = pool.authority.verify_keys()
    assert kept == old_key
    assert newest != old_key
    assert [await whoami(pool, token) for token in (old, new)] == ["ann", "ann"]
    pool.clock.ahead_s = 3601.0
    assert (await refusal_of(whoami(pool, old))).code is ErrorCode.INVALID_SESSION
    assert await whoami(pool, new) == "ann"
    assert pool.authority.verify_keys() == (newest,)
    await check(pool.reactor, pool.store)


async def test_an_old_token_is_not_believed_for_longer_than_it_says(pool: Pool) -> None:
    old = pool.account_token("ann", ttl_s=60.0)
    await rotate(pool)
    pool.clock.ahead_s = 61.0
    refusal = await refusal_of(whoami(pool, old))
    assert "expired" in refusal.message


async def test_without_a_grace_no_older_token_is_believed_of_whatever_key(pool: Pool) -> None:
    first = pool.account_token("ann")
    await rotate(pool, 3600.0)
    second = pool.account_token("ann")
    await rotate(pool, 0.0)
    for token in (first, second):
        assert (await refusal_of(whoami(pool, token))).status is Status.UNAUTHENTICATED
    assert await whoami(pool, pool.account_token("ann")) == "ann"
    assert len(pool.authority.verify_keys()) == 1


async def test_of_an_old_key_only_the_public_half_is_kept(pool: Pool) -> None:
    seed = pool.reactor.cluster.facts[SIGNING_KEY_FACT]
    await rotate(pool)
    facts = (await pool.store.load()).facts
    assert facts[SIGNING_KEY_FACT] != seed
    assert seed.hex().encode() not in facts[OLD_KEYS_FACT]
    assert all(seed not in value for value in facts.values())


async def test_a_node_goes_on_with_the_token_that_it_has(pool: Pool) -> None:
    token = pool.node_token("n1")
    await rotate(pool)
    assert pool.authority.principal(token).node_id == "n1"


async def test_only_so_many_old_keys_are_believed_at_a_time(pool: Pool) -> None:
    for _ in range(16):
        await rotate(pool)
    refusal = await refusal_of(rotate(pool))
    assert refusal.status is Status.RESOURCE_EXHAUSTED
    assert "wait, or give a shorter --grace" in refusal.message
    await rotate(pool, 0.0)


@pytest.mark.parametrize("grace_s", [-1.0, 31 * 86400.0, float("nan"), float("inf")])
async def test_a_grace_that_makes_no_sense_is_refused(pool: Pool, grace_s: float) -> None:
    before = pool.authority.verify_keys()
    assert (await refusal_of(rotate(pool, grace_s))).status is Status.INVALID_ARGUMENT
    assert pool.authority.verify_keys() == before


async def test_only_admins_rotate_keys_and_give_roles(pool: Pool) -> None:
    before = pool.authority.verify_keys()
    assert (await refusal_of(rotate(pool, by="ann"))).status is Status.PERMISSION_DENIED
    assert pool.authority.verify_keys() == before
    async with pool.channel(pool.account_token("ann")) as channel:
        client = AccountsClient(channel)
        for name in ("ann", "bob"):
            refusal = await refusal_of(client.set_role(name, Role.ADMIN))
            assert refusal.status is Status.PERMISSION_DENIED
    assert pool.reactor.cluster.accounts["ann"].role is Role.USER


async def test_a_role_counts_at_once_for_tokens_that_are_out(pool: Pool) -> None:
    token = pool.account_token("ann")
    async with pool.channel(pool.account_token("root")) as channel:
        admin = AccountsClient(channel)
        await admin.set_role("ann", Role.ADMIN)
        async with pool.channel(token) as hers:
            await AccountsClient(hers).create_invite()
            # The first admin and she: either may go, the last one may not.
            await AccountsClient(hers).set_role("root", Role.USER)
        refusal = await refusal_of(admin.set_role("ann", Role.USER))
        assert refusal.status is Status.PERMISSION_DENIED
    await check(pool.reactor, pool.store)


async def test_the_last_admin_stays_one_and_an_unknown_name_is_told(pool: Pool) -> None:
    async with pool.channel(pool.account_token("root")) as channel:
        client = AccountsClient(channel)
        refusal = await refusal_of(client.set_role("nobody", Role.ADMIN))
        assert refusal.code is ErrorCode.USER_NOT_FOUND
        await client.set_role("admin", Role.PROVIDER)
        refusal = await refusal_of(client.set_role("root", Role.USER))
        assert refusal.status is Status.FAILED_PRECONDITION
        assert "last admin" in refusal.message
        assert (await client.whoami()).role is Role.ADMIN
