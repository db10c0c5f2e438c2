"""Who may submit what, and what that holds; over the wire."""

from pathlib import Path
from typing import Any

import pytest
import trio

from hivemind.core.admission import Ask
from hivemind.core.policy import PoolRules
from hivemind.core.prices import Means
from hivemind.core.records import TaskState
from hivemind.rpc.errors import ErrorCode, RemoteError
from hivemind.store.memory import MemoryStore
from tests.master.builders import check, finished, node
from tests.master.gated import GatedStore
from tests.master.pool import Pool, open_pool, submission, submit, until

CPT = 1_000_000


async def refusal_of(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refusal:
        await call
    return refusal.value


def waiting_commands(pool: Pool) -> int:
    return pool.reactor._receive.statistics().current_buffer_used


async def balance(pool: Pool, name: str) -> int:
    await check(pool.reactor, pool.store)
    return pool.reactor.cluster.balances[f"user/{name}"]


async def test_a_newcomers_grant_pays_for_several_default_tasks_and_then_no_more(
    tmp_path: Path,
) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of("bob") as client:
        for _ in range(5):
            await submit(client)
        assert await balance(pool, "bob") == 0
        refusal = await refusal_of(submit(client))
        assert refusal.code is ErrorCode.INSUFFICIENT_RESOURCES
        assert refusal.message == (
            "INSUFFICIENT_RESOURCES: it could cost 20 CPT (2 CPT a minute for up to 10m) and bob "
            "has 0 CPT: shorten its time, ask for less, or get more CPT"
        )
        assert len(pool.reactor.cluster.tasks) == 5


async def test_nothing_is_taken_in_of_what_cannot_be_paid_for(tmp_path: Path) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of("bob") as client:
        await refusal_of(submit(client, ask=Ask(wall_s=7 * 86400.0)))
        assert await balance(pool, "bob") == 100 * CPT
        assert (pool.reactor.cluster.tasks, pool.files()) == ({}, [])


async def test_on_a_pool_of_ones_own_any_number_of_tasks_costs_nothing(tmp_path: Path) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of("ann") as client:
        for _ in range(20):
            id_ = await submit(client, ask=Ask(wall_s=7 * 86400.0))
            assert pool.reactor.cluster.tasks[id_].requirements.only_account == "ann"
        assert await balance(pool, "ann") == 100 * CPT


@pytest.mark.parametrize("name", ["ann", "root"])
async def test_who_has_a_node_or_is_an_admin_may_still_use_own_nodes_when_poor(
    tmp_path: Path, name: str
) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of(name) as client:
        await pool.reactor.perform(lambda turn: turn.put_node(node("n2", "bob")))
        paid = await submit(client, ask=Ask(wall_s=3000.0))
        own = await submit(client)
        tasks = pool.reactor.cluster.tasks
        assert tasks[paid].requirements.only_account == ""
        assert tasks[own].requirements.only_account == name
        assert await balance(pool, name) == 0
        async with pool.link("n2") as link:
            await link.join()
            await trio.sleep(0.05)
            # Bob's node gets what is paid for alone.
            assert tasks[paid].state is TaskState.ASSIGNED
            assert tasks[own].state is TaskState.QUEUED
            explanation = await client.explain(own)
            assert explanation.headline == (
                f"it costs nothing, so that it runs on nodes of {name} alone: none of them takes"
                " work now, and 1 node is somebody else's"
            )


async def test_no_more_is_held_than_was_allowed(tmp_path: Path) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of("bob") as client:
        refusal = await refusal_of(submit(client, ask=Ask(max_ucpt=20 * CPT - 1)))
        assert refusal.code is ErrorCode.INSUFFICIENT_RESOURCES
        assert "max-cpt allows 19.999999 CPT" in refusal.message
        await submit(client, ask=Ask(max_ucpt=20 * CPT))
        assert await balance(pool, "bob") == 80 * CPT


async def test_a_repeated_submit_is_the_same_task_although_the_first_took_all_there_was(
    tmp_path: Path,
) -> None:
    store = GatedStore(MemoryStore())
    async with open_pool(tmp_path, store=store) as pool, pool.tasks_of("bob") as client:
        ask = Ask(wall_s=3000.0)
        ids: list[str] = []

        async def send() -> None:
            ids.append(await submit(client, ask=ask, client_key="k"))

        async with trio.open_nursery() as nursery:
            store.gate = trio.Event()
            nursery.start_soon(send)
            await until(lambda: store.is_held)
            # While the first is on its way to the disk, others look, and find no such task.
            for _ in range(4):
                nursery.start_soon(send)
            await until(lambda: waiting_commands(pool) == 4)
            gate, store.gate = store.gate, None
            gate.set()
        assert len(ids) == 5
        assert len(set(ids)) == 1
        assert await submit(client, ask=ask, client_key="k") == ids[0]
        assert await balance(pool, "bob") == 0


async def test_a_quote_says_what_a_submit_would_hold_and_submits_nothing(tmp_path: Path) -> None:
    async with open_pool(tmp_path) as pool:
        async with pool.tasks_of("bob") as client:
            quote = await client.quote(submission(ask=Ask(retries=2)))
            assert (quote.rate_ucpt, quote.most_ucpt) == (2 * CPT, 60 * CPT)
            assert (quote.wall_s, quote.retries) == (600.0, 2)
            assert (quote.balance_ucpt, quote.means) == (100 * CPT, Means.HOLD)
            dear = await client.quote(submission(ask=Ask(wall_s=86400.0)))
            assert dear.means is Means.NONE
            bad = await refusal_of(client.quote(submission(ask=Ask(policy="admins"))))
            assert "may not use policy admins" in bad.message
        async with pool.tasks_of("ann") as client:
            assert (await client.quote(submission())).means is Means.OWN_NODES
        assert pool.reactor.cluster.tasks == {}
        assert await balance(pool, "bob") == 100 * CPT


async def test_prices_are_those_of_the_policy_at_the_submit(tmp_path: Path) -> None:
    rules = PoolRules(grant_ucpt=7, price_cpu_ucpt=1, price_memory_gb_ucpt=0, price_least_ucpt=0)
    async with open_pool(tmp_path, rules=rules) as pool, pool.tasks_of("bob") as client:
        await submit(client, ask=Ask(wall_s=60.0, cpu_millis=5000))
        assert await balance(pool, "bob") == 2
        assert pool.reactor.cluster.escrows.popitem()[1].rate_ucpt == 5


async def test_what_costs_nothing_holds_nothing_and_may_run_anywhere(tmp_path: Path) -> None:
    free = PoolRules(grant_ucpt=0, price_cpu_ucpt=0, price_memory_gb_ucpt=0, price_least_ucpt=0)
    async with open_pool(tmp_path, rules=free) as pool, pool.tasks_of("bob") as client:
        id_ = await submit(client)
        assert pool.reactor.cluster.tasks[id_].requirements.only_account == ""
        assert (pool.reactor.cluster.escrows, pool.reactor.cluster.balances) == ({}, {})
        await check(pool.reactor, pool.store)


async def test_a_task_may_ask_for_a_trust_that_a_node_has_to_have(tmp_path: Path) -> None:
    async with open_pool(tmp_path) as pool, pool.tasks_of("bob") as client:
        bad = await refusal_of(submit(client, ask=Ask(least_trust=101)))
        assert "trust 101 was asked for" in bad.message
        id_ = await submit(client, ask=Ask(least_trust=41))
        async with pool.link("n1") as link:
            await link.join()
            await trio.sleep(0.05)
            assert pool.reactor.cluster.tasks[id_].state is TaskState.ASSIGNED
            # Its node says what cannot be true, and is not trusted so far any more.
            await link.say(finished(id_, seq=1, exit_code=3))
            assert "success with exit status 3" in str(await link.end())
            await until(lambda: pool.reactor.cluster.nodes["n1"].trust == 40)
        async with pool.link("n1") as link:
            await link.join()
            late = await submit(client, ask=Ask(least_trust=41))
            explanation = await client.explain(late)
            assert explanation.headline == ("it asks for a trust of 41: 1 node is trusted less")
