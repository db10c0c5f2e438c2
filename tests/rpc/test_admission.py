"""How many calls may be in flight, and what those cost whose replies nobody reads."""

import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import h2.events
import pytest
import trio
from h2.settings import SettingCodes

from hivemind.rpc.admission import CallShares
from hivemind.rpc.auth import Authenticator, Principal
from hivemind.rpc.config import KIB, MIB, TransportConfig
from hivemind.rpc.contract.streams import closable
from hivemind.rpc.errors import RemoteError
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoStub, Ping, Pong
from tests.rpc.conftest import GrpcioClient
from tests.rpc.raw import RawClient, framed, raw_client
from tests.rpc.service import OPEN_METHODS, EchoService, served, serving, until

UNARY = "/hmtest.Echo/Unary"
DOWN = "/hmtest.Echo/Down"


async def verify_any(token: str, peer: str) -> Principal:
    await trio.lowlevel.checkpoint()
    return Principal(account=token, role="user", kind="account", token_id="t", expires_at=9e9)


def options(config: TransportConfig, *, opened: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {"config": config, "authenticator": Authenticator(opened, verify_any)}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


async def hang(client: RawClient, name: str) -> int:
    stream_id = await client.call(UNARY, headers=bearer(name))
    await client.send(stream_id, framed(Ping(text="hang")), end=True)
    return stream_id


async def shut_window(client: RawClient) -> None:
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    await client.flush()
    client.h2.ping(b"and then")
    await client.flush()
    await client.hear(h2.events.PingAckReceived)


def test_one_alone_gets_half_and_something_is_left_for_others() -> None:
    shares = CallShares(8)
    got = [shares.take("a") for _ in range(8)]
    assert got == [True] * 4 + [False] * 4
    assert [shares.take("b") for _ in range(4)] == [True, True, False, False]
    assert shares.take("c")
    assert shares.largest() == "a"


def test_what_is_given_back_can_be_had_again() -> None:
    shares = CallShares(1)
    for _ in range(3):
        assert shares.take("a")
        assert not shares.take("b")
        shares.give("a")
    assert shares.largest() is None


async def test_an_account_with_many_calls_keeps_no_other_from_calling() -> None:
    service = EchoService()
    async with serving([service], **options(TransportConfig(max_calls=8))) as at:
        async with raw_client(at.port) as one, raw_client(at.port) as another:
            for client in (one, another):
                for _ in range(2):
                    await hang(client, "hog")
            await until(lambda: service.hanging == 4)
            refused = await one.unary(UNARY, Ping(), bearer("hog"))
            assert refused["grpc-status"] == "8", refused
            assert "too many calls of yours" in refused["grpc-message"]
            assert (await one.unary(UNARY, Ping(), bearer("other")))["grpc-status"] == "0"
        # Places come back with the end of the calls.
        async with raw_client(at.port) as again:
            await until(lambda: service.hanging == 0)
            assert (await again.unary(UNARY, Ping(), bearer("hog")))["grpc-status"] == "0"


async def test_strangers_calls_are_bounded_and_a_newcomer_gets_in() -> None:
    service = EchoService()
    config = TransportConfig(max_all_open_calls=8, max_open_calls=6)
    serve = serving([service], **options(config, opened=OPEN_METHODS))
    async with serve as at, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(at.port)) for _ in range(4)]
        # 4 for the first, which then has as many as are free; 2, 1 and the last for the others.
        for client, most in zip(clients, (4, 2, 1, 1), strict=True):
            before = service.hanging
            for _ in range(most):
                stream_id = await client.call(UNARY)
                await client.send(stream_id, framed(Ping(text="hang")), end=True)
            await until(lambda before=before, most=most: service.hanging == before + most)
        newcomer = await stack.enter_async_context(raw_client(at.port))
        assert (await newcomer.unary(UNARY, Ping()))["grpc-status"] == "0"
        await clients[0].hung_up()
        assert (await clients[1].unary(UNARY, Ping()))["grpc-status"] == "0"


async def test_calls_that_were_not_looked_at_yet_are_bounded() -> None:
    config = TransportConfig(max_arrivals=20)
    serve = serving([EchoService()], **options(config, opened=OPEN_METHODS))
    async with serve as at, raw_client(at.port) as client:
        for _ in range(200):
            stream_id = client.h2.get_next_available_stream_id()
            fields = {":method": "POST", ":scheme": "http", ":path": UNARY, ":authority": "x"}
            fields |= {"content-type": "application/grpc", "te": "trailers"}
            client.h2.send_headers(stream_id, list(fields.items()))
        await client.flush()  # all of them in one piece, so that they arrive together
        reset = await client.hear(h2.events.StreamReset)
        assert reset.error_code == 7  # REFUSED_STREAM: it may be tried again
        with trio.fail_after(5):
            while (await client.unary(UNARY, Ping()))["grpc-status"] != "0":
                pass


async def test_a_reply_that_nobody_reads_is_given_up_in_time() -> None:
    config = TransportConfig(reply_s=0.3, min_bytes_per_s=MIB)
    async with serving([EchoService()], **options(config)) as at, raw_client(at.port) as client:
        await shut_window(client)
        stream_id = await client.call(DOWN, headers=bearer("ann"))
        await client.send(stream_id, framed(Ping(count=3, data=b"x" * KIB)), end=True)
        answer = await client.trailers(stream_id)
        assert answer["grpc-status"] == "14", answer
        assert "was not read within" in answer["grpc-message"]


IMPATIENT = TransportConfig(reply_s=0.3, min_bytes_per_s=4 * MIB, max_open_calls=1000)


async def test_our_client_learns_why_a_reply_ended_in_its_midst() -> None:
    async with served([EchoService()], config=IMPATIENT) as channel:
        stub = bind(EchoStub, channel)
        async with aclosing(closable(stub.down(Ping(count=400, data=b"x" * 60 * KIB)))) as replies:
            await anext(replies)
            await trio.sleep(1)
            with pytest.raises(RemoteError, match="was not read within") as caught:
                async for _ in replies:
                    pass
        assert caught.value.status.name == "UNAVAILABLE"
        assert (await stub.unary(Ping(text="on"))).text == "on"


async def test_grpcio_learns_why_a_reply_ended_in_its_midst(grpcio_client: GrpcioClient) -> None:
    code = """
import time
replies = stub.Down(pb.Ping(count=400, data=b"x" * 60_000), timeout=20)
next(replies)
time.sleep(1.5)
try:
    list(replies)
except grpc.RpcError as error:
    say([error.code().name, error.details()])
"""
    serve = serving([EchoService()], config=IMPATIENT)
    async with serve as at, grpcio_client(at.port, code) as client:
        name, details = await client.hear()
    assert name == "UNAVAILABLE"
    assert "was not read within" in details


async def test_unread_replies_of_one_account_are_counted_however_they_are_made() -> None:
    """Each of 8 KiB, of which nobody counted anything before it was made."""
    config = TransportConfig(reply_budget_bytes=200 * KIB)
    async with serving([EchoService()], **options(config)) as at, raw_client(at.port) as client:
        await shut_window(client)
        for _ in range(100):
            stream_id = await client.call(DOWN, headers=bearer("hog"))
            await client.send(stream_id, framed(Ping(count=1, data=b"x" * 8 * KIB)), end=True)
        budget = at.server._setting.reply_budget
        await until(lambda: budget.used_bytes > 90 * KIB)
        await trio.sleep(0.1)
        assert budget.used_bytes <= 100 * KIB
        async with raw_client(at.port) as other:
            body = framed(Ping(count=1, data=b"y" * 60 * KIB))
            theirs = await other.call(DOWN, headers=bearer("other"))
            await other.send(theirs, body, end=True)
            assert (await other.trailers(theirs))["grpc-status"] == "0"
    await until(lambda: budget.used_bytes == 0)


@pytest.mark.parametrize("size", [0, 5, 4 * KIB + 1, 70 * KIB, 3 * MIB])
async def test_a_reply_arrives_whole_through_a_window_that_opens_slowly(size: int) -> None:
    class Sized(EchoService):
        async def down(self, message: Ping) -> AsyncIterator[Pong]:
            yield Pong(data=b"x" * message.count)

    config = TransportConfig(reply_budget_bytes=8 * MIB)
    async with serving([Sized()], **options(config)) as at, raw_client(at.port) as client:
        await shut_window(client)
        stream_id = await client.call(DOWN, headers=bearer("ann"))
        await client.send(stream_id, framed(Ping(count=size)), end=True)
        for _ in range(4):
            await trio.sleep(0.02)
            client.h2.increment_flow_control_window(MIB, stream_id)
            client.h2.increment_flow_control_window(MIB)
            await client.flush()
        assert (await client.trailers(stream_id))["grpc-status"] == "0"
        data = b"".join(
            event.data for event in client.events if isinstance(event, h2.events.DataReceived)
        )
        (length,) = struct.unpack_from(">I", data, 1)
        assert len(data) == 5 + length
        assert Pong.parse(data[5:]).data == b"x" * size
        await until(lambda: at.server._setting.reply_budget.used_bytes == 0)
