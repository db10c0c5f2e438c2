"""Looks: nobody's long work keeps anybody else waiting for more than a turn."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.master.looking import Looks


class Desk:
    """Looks, each of which lasts until it is let go, and in what order they began."""

    def __init__(self, most_at_once: int) -> None:
        self.looks = Looks(most_at_once)
        self.began: list[str] = []
        self._under_way: list[tuple[str, trio.Event]] = []

    async def look(self, account: str) -> None:
        async with self.looks.turn(account):
            self.began.append(account)
            done = trio.Event()
            self._under_way.append((account, done))
            await done.wait()

    async def finish(self, account: str) -> None:
        found = next(one for one in self._under_way if one[0] == account)
        self._under_way.remove(found)
        found[1].set()
        await wait_all_tasks_blocked()


async def test_one_account_has_one_at_a_time_and_leaves_room_for_others() -> None:
    desk = Desk(2)
    async with trio.open_nursery() as handlers:
        for _ in range(5):
            handlers.start_soon(desk.look, "mallory")
        await wait_all_tasks_blocked()
        assert desk.began == ["mallory"]
        handlers.start_soon(desk.look, "alice")
        await wait_all_tasks_blocked()
        assert desk.began == ["mallory", "alice"]
        handlers.cancel_scope.cancel()


async def test_whoever_comes_last_waits_for_each_other_account_once() -> None:
    desk = Desk(2)
    async with trio.open_nursery() as handlers:
        for name in ("mallory", "moriarty", "mallory", "moriarty", "mallory"):
            handlers.start_soon(desk.look, name)
            await wait_all_tasks_blocked()
        handlers.start_soon(desk.look, "alice")
        await wait_all_tasks_blocked()
        assert desk.began == ["mallory", "moriarty"]
        await desk.finish("mallory")
        await desk.finish("moriarty")
        await desk.finish("mallory")
        assert desk.began[2:] == ["mallory", "moriarty", "alice"]
        handlers.cancel_scope.cancel()


@pytest.mark.parametrize("is_begun", [True, False])
async def test_whoever_gives_up_makes_room(is_begun: bool) -> None:
    desk = Desk(1)
    async with trio.open_nursery() as handlers:
        first, second = trio.CancelScope(), trio.CancelScope()

        async def look(scope: trio.CancelScope, account: str) -> None:
            with scope:
                await desk.look(account)

        handlers.start_soon(look, first, "alice")
        await wait_all_tasks_blocked()
        handlers.start_soon(look, second, "bob")
        handlers.start_soon(desk.look, "carol")
        await wait_all_tasks_blocked()
        (first if is_begun else second).cancel()
        await wait_all_tasks_blocked()
        if not is_begun:
            await desk.finish("alice")
        assert desk.began[1] in ({"bob", "carol"} if is_begun else {"carol"})
        handlers.cancel_scope.cancel()
