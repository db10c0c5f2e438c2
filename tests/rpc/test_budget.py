"""The byte budget: never over its limit, in turn, and never waited for without end."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.errors import CallRefused


async def test_what_is_free_is_had_at_once_and_comes_back() -> None:
    budget = ByteBudget(100)
    async with budget.reserve(60) as reservation:
        await reservation.grow(40)
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_more_than_the_whole_budget_is_refused_at_once() -> None:
    budget = ByteBudget(100)
    with pytest.raises(CallRefused, match="101 bytes is more than the 100") as caught:
        await budget.take(101)
    assert caught.value.status.name == "RESOURCE_EXHAUSTED"
    assert budget.used_bytes == 0


async def test_waiting_ends_with_resource_exhausted(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100, wait_s=30)
    async with budget.reserve(80):
        with pytest.raises(CallRefused, match="try again") as caught:
            await budget.take(21)
        assert caught.value.status.name == "RESOURCE_EXHAUSTED"
        assert trio.current_time() >= 30
        assert budget.used_bytes == 80
        await budget.take(20)


async def test_small_ones_do_not_pass_a_large_one_that_waits(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100)
    order: list[int] = []

    async def take(size: int) -> None:
        async with budget.reserve(size):
            order.append(size)

    async with trio.open_nursery() as nursery, budget.reserve(50):
        nursery.start_soon(take, 100)
        await wait_all_tasks_blocked()
        nursery.start_soon(take, 1)
        await wait_all_tasks_blocked()
        assert order == []
    assert order == [100, 1]
    assert budget.used_bytes == 0


async def test_giving_up_the_wait_lets_the_next_one_in() -> None:
    budget = ByteBudget(100)
    async with trio.open_nursery() as nursery, budget.reserve(50):
        impatient = trio.CancelScope()
        nursery.start_soon(_take_in, impatient, budget, 100)
        await wait_all_tasks_blocked()
        nursery.start_soon(budget.take, 50)
        await wait_all_tasks_blocked()
        assert budget.used_bytes == 50
        impatient.cancel()
        await wait_all_tasks_blocked()
        assert budget.used_bytes == 100


async def _take_in(scope: trio.CancelScope, budget: ByteBudget, size: int) -> None:
    with scope:
        await budget.take(size)


async def test_one_owner_cannot_keep_another_waiting(autojump_clock: MockClock) -> None:
    budget = ByteBudget(100, wait_s=30)
    async with trio.open_nursery() as hogs:
        for _ in range(50):
            hogs.start_soon(_hold, budget, 10, "hog")
        await wait_all_tasks_blocked()
        assert budget.used_bytes == 50
        waited_from = trio.current_time()
        async with budget.reserve(25, owner="second"), budget.reserve(10, owner="third"):
            assert trio.current_time() == waited_from
        hogs.cancel_scope.cancel()
    assert budget.used_bytes == 0


async def test_owners_who_wait_are_served_in_turn() -> None:
    budget = ByteBudget(100)
    order: list[str] = []

    async def take(owner: str) -> None:
        async with budget.reserve(90, owner=owner):
            order.append(owner)

    async with trio.open_nursery() as nursery, budget.reserve(20, owner="first"):
        for owner in ("many", "many", "many", "few"):
            nursery.start_soon(take, owner)
            await wait_all_tasks_blocked()
        assert order == []
    assert order == ["many", "few", "many", "many"]


async def test_an_owner_who_holds_nothing_may_have_all_of_it() -> None:
    budget = ByteBudget(100)
    async with budget.reserve(100, owner="one"):
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_a_share_granted_to_a_caller_who_is_cancelled_meanwhile_comes_back(
    cancel_first: bool,
) -> None:
    budget = ByteBudget(100)
    await budget.take(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hold, budget, 100)
        await wait_all_tasks_blocked()
        # No task runs in between: the cancel and the grant meet.
        if cancel_first:
            nursery.cancel_scope.cancel()
        budget.give(100)
        nursery.cancel_scope.cancel()
    assert budget.used_bytes == 0


async def _hold(budget: ByteBudget, size: int, owner: str | None = None) -> None:
    async with budget.reserve(size, owner=owner):
        await trio.sleep_forever()
