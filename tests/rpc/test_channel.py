"""Opening a channel, the errors of its calls, deadlines and cancelling, with grpcio servers too."""

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from grpclib.const import Status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from hivemind.rpc._client_call import ClientCall
from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.errors import (
    ConnectFailed,
    DeadlineExceeded,
    ErrorCode,
    RemoteError,
    Unreachable,
    fail,
)
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoBase, EchoStub, GateStub, Ping, Pong
from tests.rpc.conftest import open_peer
from tests.rpc.service import EchoService, GateService, served, serving, until


async def test_nobody_listening_is_one_clear_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        async with open_channel("127.0.0.1", port):
            pass
    assert str(caught.value) == f"cannot connect to 127.0.0.1:{port}: Connection refused"


async def test_a_host_without_an_address_is_one_clear_line() -> None:
    with pytest.raises(ConnectFailed, match=r"no-such-host\.invalid:1: "):
        async with open_channel("no-such-host.invalid", 1):
            pass


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
async def test_what_is_no_grpc_server_is_one_clear_line(answer: bytes | None) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer is None:
                await trio.sleep_forever()
            await stream.send_all(answer)

    config = TransportConfig(connect_s=0.2)
    async with trio.open_nursery() as nursery:
        listening = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(listening)
        port = listener.socket.getsockname()[1]
        with trio.fail_after(5), pytest.raises(ConnectFailed, match="no gRPC server there"):
            async with open_channel("127.0.0.1", port, config=config):
                pass
        nursery.cancel_scope.cancel()


class Refusing(EchoBase):
    async def unary(self, message: Ping) -> Pong:
        await trio.lowlevel.checkpoint()
        if message.text == "no code":
            raise fail(None, Status.ABORTED, "nö")
        raise fail(ErrorCode.TASK_NOT_FOUND, Status.NOT_FOUND, "no task 7")

    async def down(self, message: Ping) -> AsyncIterator[Pong]:
        yield Pong(text="one")
        raise fail(ErrorCode.TASK_FAILED, Status.ABORTED, "after one")


async def test_an_error_of_the_server_carries_status_code_and_message() -> None:
    async with served([Refusing()]) as channel:
        stub = bind(EchoStub, channel)
        with pytest.raises(RemoteError) as caught:
            await stub.unary(Ping())
        error = caught.value
        assert (error.status, error.code) == (Status.NOT_FOUND, ErrorCode.TASK_NOT_FOUND)
        assert str(error) == "TASK_NOT_FOUND: no task 7"
        with pytest.raises(RemoteError) as caught:
            await stub.unary(Ping(text="no code"))
        assert (caught.value.status, caught.value.code) == (Status.ABORTED, None)
        assert str(caught.value) == "nö"
        async with aclosing(stub.down(Ping())) as replies:
            assert (await anext(replies)).text == "one"
            with pytest.raises(RemoteError) as caught:
                await anext(replies)
        assert caught.value.code is ErrorCode.TASK_FAILED


async def test_the_channels_metadata_goes_with_every_call_and_a_calls_own_wins() -> None:
    async with serving([GateService()]) as at:
        good = {"authorization": "Bearer good"}
        async with open_channel("127.0.0.1", at.port, metadata=good) as channel:
            stub = bind(GateStub, channel)
            assert (await stub.whoami(Ping())).text == "ada"
            with pytest.raises(RemoteError) as caught:
                await stub.whoami(Ping(), metadata={"authorization": "Bearer bad"})
            assert caught.value.code is ErrorCode.INVALID_SESSION


async def test_a_calls_own_deadline_raises_and_stops_the_handler() -> None:
    service = EchoService()
    async with served([service]) as channel:
        with pytest.raises(DeadlineExceeded):
            await bind(EchoStub, channel).unary(Ping(text="hang"), timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            async with aclosing(bind(EchoStub, channel, timeout=0.1).down(Ping(text="hang"))) as it:
                await anext(it)
        await until(lambda: len(service.ends) == 2)
    assert service.ends == ["Cancelled", "Cancelled"]


async def test_the_callers_scope_cancels_the_call_at_the_server() -> None:
    service = EchoService()
    async with served([service]) as channel:
        stub = bind(EchoStub, channel)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await stub.unary(Ping(text="hang"))
        await until(lambda: service.ends == ["Cancelled"])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stub.unary, Ping(text="hang"))
                await until(lambda: service.hanging == 1)
                scope.cancel()
        await until(lambda: service.ends == ["Cancelled"] * 2)
        assert (await stub.unary(Ping(text="still"))).text == "still"


async def test_a_deadline_that_the_server_saw_first_is_still_the_callers_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(EchoBase):
        async def unary(self, message: Ping) -> Pong:
            raise fail(None, Status.DEADLINE_EXCEEDED, "the call's deadline has passed")

    async with served([Late()]) as channel:
        with pytest.raises(DeadlineExceeded):
            await bind(EchoStub, channel).unary(Ping())
        with trio.CancelScope() as scope:
            remote = ClientCall._remote

            def as_it_is_read(call: Any, status: Any, message: str) -> Exception:
                scope.cancel()
                return remote(call, status, message)

            monkeypatch.setattr(ClientCall, "_remote", as_it_is_read)
            await bind(EchoStub, channel).unary(Ping())
        assert scope.cancelled_caught


async def test_the_deadline_on_the_wire_is_never_earlier_than_the_callers() -> None:
    seen: list[float] = []

    class Timed(EchoBase):
        async def unary(self, message: Ping) -> Pong:
            await trio.lowlevel.checkpoint()
            seen.append(trio.current_effective_deadline() - trio.current_time())
            return Pong()

    async with served([Timed()]) as channel:
        with trio.fail_after(25.9):
            await bind(EchoStub, channel).unary(Ping())
        await bind(EchoStub, channel).unary(Ping(), timeout=15.5)
        await bind(EchoStub, channel).unary(Ping())
    assert 25.8 < seen[0] <= 26
    assert 15.4 < seen[1] <= 16
    assert seen[2] == float("inf")


async def test_a_server_that_is_killed_makes_its_calls_unreachable() -> None:
    async with open_peer("server.py") as peer:
        port = await peer.hear()
        async with open_channel("127.0.0.1", port) as channel:
            stub = bind(EchoStub, channel)
            await stub.unary(Ping())
            async with aclosing(stub.down(Ping(text="hang", count=1))) as replies:
                await anext(replies)
                peer.process.kill()
                with trio.fail_after(5), pytest.raises(Unreachable):
                    await anext(replies)
            with pytest.raises(Unreachable):
                await stub.unary(Ping())
            assert channel.closed_because is not None


FRAMES = {
    # ":status: 103", which the table of the first has from then on.
    "headers before the headers": (
        b"\0\0\x05\x01\x04\0\0\0\x01\x48\x03103",
        b"\0\0\x01\x01\x04\0\0\0\x01\xbe",
    ),
    "other addresses": (b"", b"\0\0\x07\x0a\0\0\0\0\0\0\x01ah2=x"),
    "window updates": (b"", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"),
}
"""By what they are: the first frame, and one to be sent without end."""


@pytest.mark.parametrize("kind", FRAMES)
async def test_a_server_that_answers_with_frames_without_end_is_cut_off(kind: str) -> None:
    first, again = FRAMES[kind]
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        await stream.send_all(h2.data_to_send())
        while not any(
            isinstance(one, RequestReceived)
            for one in h2.receive_data(await stream.receive_some(65536))
        ):
            pass
        await stream.send_all(h2.data_to_send() + first)
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(again * 1000)
                sent += 1000

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with open_channel("127.0.0.1", port) as channel:
            with pytest.raises(Unreachable, match="too many frames that carry nothing"):
                with trio.fail_after(10):
                    await bind(EchoStub, channel).unary(Ping())
        nursery.cancel_scope.cancel()
    assert sent < 100_000


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async with serving([EchoService()]) as at:
        with pytest.raises(KeyError, match="mine"):
            async with open_channel("127.0.0.1", at.port):
                raise KeyError("mine")


async def test_a_reply_over_the_limit_is_refused_unread() -> None:
    async with serving([EchoService()]) as at:
        config = TransportConfig(max_message_bytes=1000)
        async with open_channel("127.0.0.1", at.port, config=config) as channel:
            with pytest.raises(RemoteError, match="limit of 1000 bytes") as caught:
                await bind(EchoStub, channel).unary(Ping(data=b"x" * 2000))
            assert caught.value.status is Status.RESOURCE_EXHAUSTED


async def test_it_calls_every_kind_of_method_of_a_grpcio_server(stubs: Path) -> None:
    async with open_peer("grpcio_server.py", str(stubs)) as peer:
        port = await peer.hear()
        async with open_channel("127.0.0.1", port) as channel:
            stub = bind(EchoStub, channel)
            assert (await stub.unary(Ping(data=b"x" * 300_000))).number == 300_000
            async with aclosing(stub.down(Ping(count=3, data=b"y" * 70_000))) as replies:
                assert [len(pong.data) async for pong in replies] == [70_000] * 3
            assert (await stub.up(Ping(data=b"z" * 100_000) for _ in range(30))).number == 3_000_000
            async with aclosing(stub.both(Ping(text=text) for text in "abc")) as replies:
                assert [pong.text async for pong in replies] == ["a", "b", "c"]
            with pytest.raises(RemoteError) as caught:
                await stub.unary(Ping(text="refuse"))
            assert (caught.value.status, caught.value.message) == (Status.NOT_FOUND, "nöpe")
            assert caught.value.code is ErrorCode.NODE_NOT_FOUND
            with pytest.raises(DeadlineExceeded):
                await stub.unary(Ping(text="hang"), timeout=0.2)
            await peer.tell("cancelled?")
            assert await peer.hear() is True
            # grpcio says that it goes away and finishes what is in flight.
            send, receive = trio.open_memory_channel[Ping](1)
            replies = stub.both(receive)
            await send.send(Ping(text="before"))
            assert (await anext(replies)).text == "before"
            await peer.tell("stop")
            await until(lambda: channel.connection_refusal is not None)
            await send.send(Ping(text="after"))
            assert (await anext(replies)).text == "after"
            await send.aclose()
            assert [pong async for pong in replies] == []
