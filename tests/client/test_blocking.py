"""The client without Trio does what the client does, and keeps up with it."""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
import trio

from hivemind.client import Client
from hivemind.client.blocking import BlockingClient
from hivemind.client.errors import NoSuchTask, Refused
from hivemind.core.messages import TaskList, WatchItem, WatchQuery
from hivemind.core.records import Role, TaskState
from tests.client.fake_master import QUOTE, TOKEN, FakeMaster, open_fake_master, output, task

END = task(TaskState.SUCCEEDED, exit_code=0)


async def _watch(query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
    yield task()
    yield output(b"out", 0)
    yield END


@pytest.fixture
async def master() -> AsyncIterator[FakeMaster]:
    async with open_fake_master() as master:
        master.watch_as = _watch
        master.pages = {"": TaskList(tasks=(task(),))}
        yield master


async def _blocking(master: FakeMaster, call: Callable[[BlockingClient], Any]) -> Any:
    """The call's result; it runs in a thread, where Trio does not run yet."""
    client = BlockingClient(master.address, TOKEN)
    return await trio.to_thread.run_sync(functools.partial(call, client))


async def test_each_call_gives_what_the_client_gives(master: FakeMaster) -> None:
    assert await _blocking(master, lambda client: client.submit(command=["true"])) == "t1"
    finished = await _blocking(master, lambda client: client.run(command=["true"]))
    assert (finished.task, finished.stdout) == (END, b"out")
    assert await _blocking(master, lambda client: client.wait("t1")) == END
    assert await _blocking(master, lambda client: client.list()) == (task(),)
    assert (await _blocking(master, lambda client: client.whoami())).account == "ann"
    assert await _blocking(master, lambda client: client.nodes()) == ()
    assert await _blocking(master, lambda client: client.quote(command=["true"])) == QUOTE
    assert (await _blocking(master, lambda client: client.balance())).balance_ucpt == 7
    history = await _blocking(master, lambda client: client.history())
    assert [entry.seq for entry in history] == [2, 1]
    done = await _blocking(master, lambda client: client.transfer("bob", 3, key="k"))
    assert (done.balance_ucpt, done.repeated) == (4, False)
    assert await _blocking(master, lambda client: client.rotate_keys(5.0)) == 5.0
    assert await _blocking(master, lambda client: client.rotate_keys()) == -1.0
    with pytest.raises(Refused, match="only an admin"):
        await _blocking(master, lambda client: client.set_role("bob", Role.ADMIN))


async def test_a_watch_calls_back_with_every_item(master: FakeMaster) -> None:
    seen: list[WatchItem] = []
    await _blocking(master, lambda client: client.watch("t1", seen.append))
    assert seen == [task(), output(b"out", 0), END]


async def test_errors_come_out_bare(master: FakeMaster) -> None:
    with pytest.raises(NoSuchTask):
        await _blocking(master, lambda client: client.get("t9"))


def test_it_has_every_method_of_the_client_with_the_same_arguments() -> None:
    own = {"submit_program", "quote_program", "remember", "forget", "address", "watch"}
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_") or name in own:
            continue
        twin = getattr(BlockingClient, name)
        assert inspect.signature(twin).parameters == inspect.signature(method).parameters, name


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(BlockingClient("h:1", "secret"))
