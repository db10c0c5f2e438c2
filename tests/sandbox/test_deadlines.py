"""Time limits kept by one task: called in their order, once, and never when cancelled."""

from __future__ import annotations

from functools import partial

import trio
import trio.testing

from sandbox.deadlines import Deadlines


async def test_what_is_due_is_called_in_order_and_what_was_cancelled_never(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    deadlines, called = Deadlines(), list[str]()
    nursery.start_soon(deadlines.run)
    now = trio.current_time()
    deadlines.call_at(now + 2, partial(called.append, "late"))
    gone = deadlines.call_at(now + 1.5, partial(called.append, "cancelled"))
    deadlines.call_at(now + 1, partial(called.append, "soon"))
    gone.cancel()
    await trio.sleep_until(now + 1.6)
    assert called == ["soon"]
    deadlines.call_at(now, partial(called.append, "passed"))
    await trio.sleep_until(now + 10)
    assert called == ["soon", "passed", "late"]


async def test_a_long_limit_that_was_cancelled_takes_no_room() -> None:
    deadlines, called = Deadlines(), list[int]()
    kept = [deadlines.call_at(trio.current_time() + 1e6, partial(called.append, 0))]
    for number in range(10_000):
        deadlines.call_at(trio.current_time() + 1e6 + number, partial(called.append, 1)).cancel()
    assert len(deadlines._heap) < 200
    assert not kept[0].is_dead
    assert any(deadline is kept[0] for _, _, deadline in deadlines._heap)
