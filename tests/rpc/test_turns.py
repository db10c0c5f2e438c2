"""Turns: one caller's expensive work, however much of it there is, keeps no other waiting."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.rpc.turns import MOST_AT_ONCE, SLICE_S, Turns


class Clock:
    """Time that passes only in the work of the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Workplace:
    """Turns, a clock, and what was worked in which order."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turns = Turns(clock=self.clock)
        self.done: list[str] = []

    async def work(self, caller: str, cost_s: float = 2 * SLICE_S) -> None:
        await self.turns.take(caller)
        with self.turns.working():
            self.clock.now += cost_s
        self.done.append(caller)


@pytest.fixture
async def place() -> AsyncIterator[Workplace]:
    made = Workplace()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.turns.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_what_is_cheap_begins_at_once(place: Workplace) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.work, "later")
        for _ in range(100):
            await place.work("one", cost_s=SLICE_S / 1000)
        assert place.done == ["one"] * 100


async def test_one_caller_who_comes_last_is_served_next(place: Workplace) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(place.work, "many")
        await trio.lowlevel.checkpoint()
        nursery.start_soon(place.work, "one")
        while "one" not in place.done:
            await trio.lowlevel.checkpoint()
        assert len(place.done) < 10
    assert len(place.done) == 201


async def test_expensive_work_leaves_a_round_to_everybody_in_between(place: Workplace) -> None:
    rounds: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(place.work, "many")
        while len(place.done) < 50:
            before = len(place.done)
            await trio.lowlevel.checkpoint()
            rounds.append(len(place.done) - before)
    # Between two looks lie up to two rounds: tasks run in no particular order.
    assert max(rounds) <= 3


async def test_cheap_work_that_has_to_wait_goes_many_at_a_time(place: Workplace) -> None:
    rounds: list[int] = []
    await place.work("one")
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(place.work, "many", 0.0)
        while len(place.done) < 501:
            before = len(place.done)
            await trio.lowlevel.checkpoint()
            rounds.append(len(place.done) - before)
    assert max(rounds) <= 2 * MOST_AT_ONCE + 1
    assert len(rounds) < 200


async def test_who_gives_up_waiting_holds_up_nobody(place: Workplace) -> None:
    await place.work("one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.work, "impatient")
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await place.work("two")
    await wait_all_tasks_blocked()
    assert place.done == ["one", "two"]
