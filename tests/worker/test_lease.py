import math

import trio
import trio.testing

from hivemind.worker.lease import Lease


async def test_a_lease_runs_from_the_sending_of_what_was_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lease = Lease()
    start = trio.current_time()
    await trio.sleep(3)
    lease.begin(10.0, start)
    await lease.wait_expiry()
    assert trio.current_time() == start + 10


async def test_renewals_move_the_end_away(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    start = trio.current_time()
    lease.begin(10.0, start)

    async def renew() -> None:
        for _ in range(5):
            await trio.sleep(6)
            lease.renew(trio.current_time() - 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(renew)
        await lease.wait_expiry()
    assert trio.current_time() == start + 30 - 1 + 10


async def test_an_older_answer_takes_nothing_away(autojump_clock: trio.testing.MockClock) -> None:
    lease = Lease()
    start = trio.current_time()
    lease.begin(10.0, start)
    lease.renew(start - 5)
    assert lease.expires_at == start + 10


async def test_there_is_no_lease_before_a_welcome_nor_after_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lease = Lease()
    assert lease.expires_at == math.inf
    lease.renew(trio.current_time())
    assert lease.expires_at == math.inf
    lease.begin(1.0, trio.current_time())
    await lease.wait_expiry()
    lease.renew(trio.current_time())
    assert lease.expires_at == math.inf


async def test_a_new_welcome_with_a_shorter_lease_counts_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lease = Lease()
    start = trio.current_time()
    lease.begin(100.0, start)

    async def welcome_again() -> None:
        await trio.sleep(5)
        lease.begin(10.0, trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(welcome_again)
        await lease.wait_expiry()
    assert trio.current_time() == start + 15
