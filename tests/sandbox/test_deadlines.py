"""Time limits of many runs, kept by one task."""

from __future__ import annotations

import functools

import trio
import trio.testing

from sandbox.deadlines import Deadlines


async def test_what_is_due_is_called_in_its_order_and_what_was_cancelled_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    called: list[int] = []
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.sleep(1)
        kept = [
            deadlines.call_at(
                trio.current_time() + after_s, functools.partial(called.append, after_s)
            )
            for after_s in (3, 1, 2, 4)
        ]
        kept[2].cancel()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert called == [1, 3, 4]


async def test_cancelled_ones_do_not_pile_up_behind_one_that_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    called: list[str] = []
    deadlines = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        deadlines.call_at(trio.current_time() + 10, lambda: called.append("first"))
        for _ in range(10_000):
            deadlines.call_at(trio.current_time() + 20, lambda: called.append("never")).cancel()
        deadlines.call_at(trio.current_time() + 15, lambda: called.append("last"))
        assert len(deadlines._heap) < 1000
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert called == ["first", "last"]
