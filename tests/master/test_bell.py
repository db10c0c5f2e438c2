import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.master.bell import Bell, Bells


async def test_a_ring_between_two_waits_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    with trio.fail_after(1):
        await bell.wait()
    with trio.move_on_after(0.01) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    bell.ring()
    with trio.fail_after(1):
        await bell.wait()


async def test_a_ring_wakes_everybody_who_waits_for_that_key_and_nobody_else() -> None:
    bells, woken = Bells(), []

    async def wait(key: str, name: str) -> None:
        bell = Bell()
        with bells.hung(key, bell):
            await bell.wait()
            woken.append(name)

    async with trio.open_nursery() as nursery:
        for key, name in (("a", "a1"), ("a", "a2"), ("b", "b1")):
            nursery.start_soon(wait, key, name)
        await wait_all_tasks_blocked()
        bells.ring("nobody")
        bells.ring("a")
        await wait_all_tasks_blocked()
        assert sorted(woken) == ["a1", "a2"]
        bells.ring_all()
    assert sorted(woken) == ["a1", "a2", "b1"]
    assert bells._bells == {}
