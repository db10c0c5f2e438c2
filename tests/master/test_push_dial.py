"""Where the master goes for a node, and where it does not."""

import threading  # noqa: TID251 - a resolver that hangs is a thread that hangs
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.lowlevel

from hivemind.master.push_dial import AddressRefused, PushDial
from hivemind.master.push_lookups import MOST, MOST_OF_ONE, Lookups, resolve
from hivemind.rpc.errors import ConnectFailed


def dial(*names: str, may_be_local: bool = False) -> PushDial:
    """One for which every name stands for these addresses; without any, for what it does."""

    def told(host: str, port: int) -> Sequence[str]:
        return names or resolve(host, port)

    return PushDial(
        tls=lambda: None,
        allow_plaintext=True,
        may_be_local=lambda: may_be_local,
        lookups=Lookups(resolve=told),
    )


@attrs.define
class Listener:
    """Something on this machine that is no node, and who called it."""

    port: int
    callers: int = 0
    heard: bytes = b""


@asynccontextmanager
async def open_listener() -> AsyncIterator[Listener]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    seen = Listener(listeners[0].socket.getsockname()[1])

    async def listen(stream: trio.SocketStream) -> None:
        seen.callers += 1
        seen.heard += await stream.receive_some(100)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, listen, listeners)
        yield seen
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", ()),
        ("127.8.8.8", ()),
        ("::1", ()),
        ("::ffff:127.0.0.1", ()),
        ("localhost", ()),
        ("node.example", ("127.0.0.1",)),
        ("node.example", ("::1", "::ffff:127.0.0.1")),
        ("node.example", ("0.0.0.0",)),
        ("node.example", ("169.254.169.254", "fe80::1%lo")),
    ],
)
async def test_what_listens_for_this_machine_alone_is_not_called_for_a_node(
    host: str, addresses: tuple[str, ...]
) -> None:
    async with open_listener() as listener:
        with pytest.raises(AddressRefused, match="is no address of a node"):
            async with dial(*addresses).connect(host, listener.port, "mallory"):
                pass
    assert listener.callers == 0


async def test_it_is_called_where_nodes_may_be_on_the_masters_machine() -> None:
    async with open_listener() as listener:
        with pytest.raises(ConnectFailed, match="no gRPC server there"):
            async with dial(may_be_local=True).connect("localhost", listener.port, "ann"):
                pass
    assert listener.heard.startswith(b"PRI * HTTP/2.0")


async def test_the_next_address_of_a_name_is_tried_where_one_does_not_answer() -> None:
    async with open_listener() as listener:
        way = dial("::1", "127.0.0.1", may_be_local=True)
        with pytest.raises(ConnectFailed, match="no gRPC server there"):
            async with way.connect("node.example", listener.port, "ann"):
                pass
    assert listener.callers == 1


# --- names that nobody answers for ---


@attrs.define
class Silence:
    """A resolver that answers for nothing until it is let go."""

    over: threading.Event = attrs.field(factory=threading.Event)
    asked: int = 0

    def resolve(self, host: str, port: int) -> Sequence[str]:
        if host == "known":
            return ["192.0.2.1"]
        self.asked += 1
        self.over.wait(30)
        return []


async def test_names_that_are_not_answered_for_hold_up_their_own_account_alone() -> None:
    silence = Silence()
    lookups = Lookups(resolve=silence.resolve)

    async def ask(owner: str) -> None:
        await lookups.addresses("silent", 1, owner=owner)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask, "mallory")
            with trio.fail_after(5):
                while silence.asked < MOST_OF_ONE:  # noqa: ASYNC110 - a thread tells nobody
                    await trio.sleep(0.01)
                # Neither another account's names nor what others do in threads waits for them.
                assert await lookups.addresses("known", 1, owner="ann") == ["192.0.2.1"]
                limiter = trio.to_thread.current_default_thread_limiter()
                assert limiter.borrowed_tokens == 0
            assert silence.asked == MOST_OF_ONE
            nursery.cancel_scope.cancel()
        # Those that were given up are at it still.
        with trio.move_on_after(0.2):
            await ask("mallory")
        assert silence.asked == MOST_OF_ONE
    finally:
        silence.over.set()


async def test_very_many_accounts_with_such_names_take_a_bounded_number_of_threads() -> None:
    silence = Silence()
    lookups = Lookups(resolve=silence.resolve)
    refusals: list[str] = []

    async def ask(owner: str) -> None:
        try:
            await lookups.addresses("silent", 1, owner=owner)
        except ConnectFailed as error:
            refusals.append(str(error))

    try:
        async with trio.open_nursery() as nursery:
            for number in range(MOST + 10):
                nursery.start_soon(ask, f"mallory-{number}")
                await trio.lowlevel.checkpoint()
            with trio.fail_after(5):
                while len(refusals) < 10:  # noqa: ASYNC110 - a thread tells nobody
                    await trio.sleep(0.01)
            assert silence.asked <= MOST
            nursery.cancel_scope.cancel()
    finally:
        silence.over.set()
    assert all("too many names" in said for said in refusals)
