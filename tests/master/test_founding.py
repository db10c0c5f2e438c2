import secrets

from hivemind.core.ledger import MovementKind
from hivemind.core.policy import PoolRules
from hivemind.core.records import Account
from hivemind.master import commands
from hivemind.master.founding import found
from hivemind.master.reactor import Reactor
from hivemind.store.changes import Changes
from hivemind.store.memory import MemoryStore
from tests.master.builders import account, check, every_movement, running

CPT = 1_000_000


async def start(reactor: Reactor) -> Account:
    return await found(reactor, clock=lambda: 1.0, random_bytes=secrets.token_bytes)


async def test_accounts_from_before_the_ledger_get_what_a_new_one_gets_once() -> None:
    store = MemoryStore()
    await store.commit(Changes(accounts=(account("ann"), account("bob"))))
    for _ in range(3):
        async with running(store) as reactor:
            await start(reactor)
            assert {
                name: reactor.cluster.balances[f"user/{name}"] for name in ("admin", "ann", "bob")
            } == {"admin": 100 * CPT, "ann": 100 * CPT, "bob": 100 * CPT}
            await check(reactor, store)
    assert len(await every_movement(store)) == 3


async def test_a_grant_is_not_given_later_to_who_came_when_there_was_none() -> None:
    store = MemoryStore()
    async with running(store, PoolRules(grant_ucpt=0)) as reactor:
        await start(reactor)
        await reactor.perform(lambda turn: commands.register(turn, account("zoe"), None))
    async with running(store) as reactor:
        await start(reactor)
        assert reactor.cluster.balances == {}
        await reactor.perform(lambda turn: commands.register(turn, account("yan"), None))
        assert reactor.cluster.balances["user/yan"] == 100 * CPT
    (grant,) = await every_movement(store)
    assert grant.kind is MovementKind.GRANT
