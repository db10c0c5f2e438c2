"""Ann's task on bob's node: what is held, what bob earns, what goes back, how far he is trusted."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hivemind.core.lifecycle import LifecycleError
from hivemind.core.messages import AttemptRef
from hivemind.core.policy import PoolRules
from hivemind.core.records import (
    Ending,
    Outcome,
    Reason,
    RefusalKind,
    Requirements,
    TaskState,
)
from hivemind.master import commands
from hivemind.master.reactor import Reactor
from hivemind.store.failing import Fault, Moment
from hivemind.store.memory import MemoryStore
from tests.master.builders import (
    RICHES_UCPT,
    check,
    failed,
    finished,
    join,
    people,
    refused,
    report,
    running,
    started,
    submit,
)
from tests.master.gated import GatedStore

CPT = 1_000_000
RATE = 2 * CPT
GIB = 1 << 30
TASK = {
    "requirements": Requirements(cpu_millis=1000, memory_bytes=GIB, scratch_bytes=0),
    "wall_s": 600.0,
}
RULES = PoolRules(retry_backoff_s=0.001, refusal_bar_s=0.001, crash_limit=3)


@attrs.define
class Market:
    """Ann submits; bob's node n1 is all that is here."""

    reactor: Reactor
    store: GatedStore
    now: float

    async def run(self, command: Callable[[Any], Any]) -> Any:
        got = await self.reactor.perform(command)
        await wait_all_tasks_blocked()
        await check(self.reactor, self.store)
        return got

    async def submit(self, id_: str = "t", account: str = "ann", **fields: Any) -> None:
        await self.run(submit(id_, account, **{**TASK, **fields}))

    async def start(self, attempt: int = 1, *, for_s: float = 0.0) -> None:
        """The newest attempt runs so long."""
        await self.run(report("n1", started("t", attempt)))
        self.now += for_s

    async def again(self) -> None:
        """Wait until a requeued task was given out."""
        await trio.sleep(0.01)
        await wait_all_tasks_blocked()

    def spent(self) -> int:
        """What ann has less than at first, with nothing held."""
        assert not self.reactor.cluster.escrows
        return RICHES_UCPT - self.reactor.cluster.balances["user/ann"]

    def earned(self) -> int:
        return self.reactor.cluster.balances["user/bob"] - RICHES_UCPT

    def trust(self) -> int:
        """As it is stored, and as it is scheduled by."""
        trust = self.reactor.cluster.nodes["n1"].trust
        assert self.reactor.cluster.fleet.node("n1").trust == trust
        return trust

    def state(self) -> TaskState | None:
        task = self.reactor.cluster.tasks.get("t")
        return None if task is None else task.state


@asynccontextmanager
async def open_market(*, owner: str = "bob") -> AsyncIterator[Market]:
    store = GatedStore(MemoryStore(clock=lambda: 0.0))
    market: Market | None = None

    def clock() -> float:
        return 1000.0 if market is None else market.now

    async with running(store, RULES, clock=clock) as reactor:
        market = Market(reactor, store, 1000.0)
        await people(reactor, "n1", accounts=("ann", "bob"), owners={"n1": owner})
        await reactor.perform(join("n1", 4))
        yield market


@pytest.fixture
async def market(autojump_clock: MockClock) -> AsyncIterator[Market]:
    async with open_market() as opened:
        yield opened


async def test_a_submit_holds_the_most_that_the_task_can_cost(market: Market) -> None:
    await market.submit(retries=2)
    cluster = market.reactor.cluster
    assert cluster.balances["escrow/t"] == 3 * 10 * RATE
    assert cluster.balances["user/ann"] == RICHES_UCPT - 60 * CPT
    assert cluster.held_ucpt_of["ann"] == 60 * CPT


async def test_a_provider_is_paid_for_what_ran_and_the_rest_goes_back(market: Market) -> None:
    await market.submit()
    await market.start(for_s=90.0)
    await market.run(report("n1", finished("t")))
    assert (market.spent(), market.earned()) == (3 * CPT, 3 * CPT)
    assert market.trust() == 51


async def test_a_task_that_ends_is_settled_once_however_often_it_is_reported(
    market: Market,
) -> None:
    await market.submit()
    await market.start(for_s=90.0)
    for _ in range(3):
        await market.run(report("n1", finished("t")))
        market.now += 60.0
    await market.run(lambda turn: commands.stop(turn, "t", "ann"))
    assert (market.spent(), market.earned(), market.trust()) == (3 * CPT, 3 * CPT, 51)


async def test_a_stop_before_the_start_costs_nothing(market: Market) -> None:
    await market.run(lambda turn: commands.set_draining(turn, "n1", draining=True))
    await market.submit()
    await market.run(lambda turn: commands.stop(turn, "t", "ann"))
    assert (market.spent(), market.earned(), market.trust()) == (0, 0, 50)


async def test_a_stop_on_the_way_costs_what_ran_and_no_trust(market: Market) -> None:
    await market.submit()
    await market.start(for_s=30.0)
    await market.run(lambda turn: commands.stop(turn, "t", "ann"))
    ending = {"outcome": Outcome.STOPPED, "reason": Reason.STOPPED, "exit_code": None}
    await market.run(report("n1", finished("t", **ending)))  # type: ignore[arg-type]
    assert (market.spent(), market.earned(), market.trust()) == (CPT, CPT, 50)


async def test_every_attempt_is_paid_and_a_failing_program_costs_no_trust(market: Market) -> None:
    await market.submit(retries=1)
    await market.start(for_s=60.0)
    await market.run(report("n1", failed("t")))
    await market.again()
    assert market.earned() == 0
    await market.start(2, for_s=30.0)
    await market.run(report("n1", failed("t", 2)))
    assert market.state() is None
    assert (market.spent(), market.earned(), market.trust()) == (3 * CPT, 3 * CPT, 50)


async def test_a_lost_attempt_is_paid_for_its_whole_minutes_and_costs_trust(
    market: Market,
) -> None:
    await market.submit()
    await market.start(for_s=119.0)
    await market.run(
        lambda turn: (
            commands.set_away(turn, "n1"),
            commands.lose(turn, "n1", "silence"),
        )
    )
    assert market.reactor.cluster.nodes["n1"].trust == 40
    await market.run(join("n1", 4))
    assert market.trust() == 40
    await market.start(2, for_s=30.0)
    await market.run(report("n1", finished("t", 2)))
    assert (market.spent(), market.earned(), market.trust()) == (3 * CPT, 3 * CPT, 41)


async def test_a_node_that_comes_back_without_an_attempt_is_scheduled_by_its_lower_trust(
    market: Market,
) -> None:
    await market.submit()
    await market.start()
    await market.run(join("n1", 4))
    assert market.trust() == 40


async def test_what_a_node_loses_at_once_costs_its_trust_once(market: Market) -> None:
    for number in range(4):
        await market.submit(f"t{number}")
        await market.run(report("n1", started(f"t{number}")))
    await market.run(join("n1", 4))
    assert market.trust() == 40


async def test_many_lost_attempts_never_cost_more_than_was_held(market: Market) -> None:
    await market.submit(wall_s=60.0)
    for attempt in range(1, RULES.crash_limit + 1):
        await market.start(attempt, for_s=60.0)
        await market.run(join("n1", 4))
        await market.again()
    assert market.state() is None
    # One minute was held for one attempt; three ran.
    assert (market.spent(), market.earned(), market.trust()) == (RATE, RATE, 20)


async def test_what_was_earned_before_survives_a_restart_of_the_master(
    autojump_clock: MockClock,
) -> None:
    async with open_market() as before:
        await before.submit(retries=1)
        await before.start(for_s=60.0)
        await before.run(report("n1", failed("t")))
    async with running(before.store, RULES, clock=lambda: 5000.0) as reactor:
        (due,) = reactor.cluster.escrows["t"].dues
        assert (due.account, due.amount_ucpt) == ("bob", RATE)
        await reactor.perform(lambda turn: commands.stop(turn, "t", "ann"))
        await check(reactor, before.store)
        assert reactor.cluster.balances["user/bob"] == RICHES_UCPT + RATE
        assert reactor.cluster.balances["user/ann"] == RICHES_UCPT - RATE


@pytest.mark.parametrize("moment", Moment)
async def test_an_end_whose_commit_fails_is_settled_once_when_it_is_reported_again(
    market: Market, moment: Moment, autojump_clock: MockClock
) -> None:
    await market.submit()
    await market.start(for_s=60.0)
    market.store.faults = [Fault(moment)]
    with pytest.raises(Exception, match="master"):
        await market.reactor.perform(report("n1", finished("t")))
    await trio.sleep(2)
    await check(market.reactor, market.store)
    await market.run(report("n1", finished("t")))
    assert (market.spent(), market.earned()) == (RATE, RATE)


async def test_a_refused_attempt_is_worth_nothing_and_costs_no_trust(market: Market) -> None:
    await market.submit()
    market.now += 60.0
    await market.run(report("n1", refused("t", kind=RefusalKind.POLICY)))
    assert market.state() is None
    assert (market.spent(), market.earned(), market.trust()) == (0, 0, 50)


async def test_a_machine_that_cannot_set_up_a_sandbox_earns_nothing_and_loses_trust(
    market: Market,
) -> None:
    await market.submit()
    await market.start(for_s=60.0)
    await market.run(
        report("n1", finished("t", outcome=Outcome.FAILED, reason=Reason.SANDBOX_FAILED))
    )
    assert (market.spent(), market.earned(), market.trust()) == (0, 0, 45)


async def test_a_node_that_never_reports_is_paid_for_the_time_limit_at_most(
    market: Market, autojump_clock: MockClock
) -> None:
    await market.submit()
    await market.start(for_s=100_000.0)
    await trio.sleep(600 + RULES.time_limit_grace_s + 1)
    await check(market.reactor, market.store)
    assert market.state() is None
    assert (market.spent(), market.earned()) == (10 * RATE, 10 * RATE)


async def test_a_node_that_says_it_ran_longer_than_it_had_it_gains_nothing(
    market: Market,
) -> None:
    await market.submit()
    market.now += 30.0
    late = finished("t")
    usage = attrs.evolve(late.ending.usage, wall_s=1e6)
    lie = attrs.evolve(late, ending=attrs.evolve(late.ending, usage=usage))
    await market.run(report("n1", lie))
    assert (market.spent(), market.earned()) == (CPT, CPT)


async def test_what_a_draining_node_gives_back_costs_it_no_trust(market: Market) -> None:
    await market.submit()
    await market.start(for_s=60.0)
    await market.run(lambda turn: commands.set_draining(turn, "n1", draining=True))
    ending = {"outcome": Outcome.STOPPED, "reason": Reason.STOPPED, "exit_code": None}
    await market.run(report("n1", finished("t", **ending)))  # type: ignore[arg-type]
    assert market.state() is TaskState.QUEUED
    assert market.trust() == 50


async def test_a_node_that_drains_and_falls_silent_is_trusted_less(market: Market) -> None:
    await market.submit()
    await market.start(for_s=60.0)
    await market.run(lambda turn: commands.set_draining(turn, "n1", draining=True))
    await market.run(lambda turn: commands.set_away(turn, "n1"))
    await market.run(lambda turn: commands.lose(turn, "n1", "its node was silent"))
    assert market.state() is TaskState.QUEUED
    assert market.reactor.cluster.nodes["n1"].trust == 40


async def test_a_report_that_cannot_be_true_costs_trust_and_nothing_else(market: Market) -> None:
    await market.submit()
    await market.start()
    with pytest.raises(LifecycleError):
        await market.run(report("n1", finished("t", exit_code=3)))
    await market.run(lambda turn: commands.distrust(turn, "n1"))
    assert market.trust() == 40
    assert market.state() is TaskState.RUNNING


async def test_what_no_sandbox_would_let_through_costs_trust(market: Market) -> None:
    await market.submit()
    await market.start()
    ending = Ending(outcome=Outcome.FAILED, reason=Reason.OUTPUT_LIMIT)
    await market.run(lambda turn: commands.end_attempt(turn, "n1", AttemptRef("t", 1), ending))
    assert market.trust() == 40


async def test_ones_own_node_costs_nothing_and_is_trusted_within_normal(
    autojump_clock: MockClock,
) -> None:
    async with open_market(owner="ann") as market:
        await market.submit(retries=1)
        assert market.reactor.cluster.tasks["t"].requirements.only_account == "ann"
        for attempt in (1, 2):
            await market.start(attempt, for_s=120.0)
            await market.run(join("n1", 4))
            await market.again()
        assert market.state() is TaskState.ASSIGNED
        assert (market.spent(), market.earned(), market.trust()) == (0, 0, 40)


async def test_a_turn_that_is_dropped_leaves_no_trace_in_fleet_or_ledger(market: Market) -> None:
    await market.submit()
    await market.start(for_s=60.0)
    before = dict(market.reactor.cluster.balances)

    def spoilt(turn: Any) -> None:
        report("n1", finished("t"))(turn)
        assert turn.books.balance("user/bob") == RICHES_UCPT + RATE
        assert turn.books.escrow("t") is None
        raise RuntimeError("spoilt")

    with pytest.raises(RuntimeError, match="spoilt"):
        await market.run(spoilt)
    assert market.reactor.cluster.balances == before
    assert market.trust() == 50
    assert market.reactor.cluster.escrows["t"].held_ucpt == 10 * RATE
