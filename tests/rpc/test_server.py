"""The server, as grpcio clients in their own processes see it: capacity, slow readers, drain."""

import socket
import struct
from contextlib import AsyncExitStack
from typing import Any

import h2.events
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.rpc._link import Link
from hivemind.rpc.auth import Authenticator, Principal
from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import MIB, TransportConfig
from hivemind.rpc.errors import PortInUse, RemoteError, Unreachable
from hivemind.rpc.reply import hold_reply
from hivemind.rpc.server import open_listeners
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoStub, Ping, Pong
from tests.rpc.conftest import GrpcioClient, open_peer
from tests.rpc.raw import raw_client
from tests.rpc.service import EchoService, GateService, serving, until

ALL_KINDS = """
say(stub.Unary(pb.Ping(text="héllo", data=b"x" * 100_000), timeout=20).number)
say([pong.number for pong in stub.Down(pb.Ping(count=5, data=b"y" * 50_000), timeout=20)])
say(stub.Up((pb.Ping(data=b"z" * 200_000) for _ in range(20)), timeout=20).number)
say([pong.text for pong in stub.Both((pb.Ping(text=str(i)) for i in range(4)), timeout=20)])
"""


async def test_grpcio_calls_every_kind_of_method(grpcio_client: GrpcioClient) -> None:
    async with serving([EchoService()]) as at, grpcio_client(at.port, ALL_KINDS) as client:
        assert await client.hear() == 100_000
        assert await client.hear() == [0, 1, 2, 3, 4]
        assert await client.hear() == 4_000_000
        assert await client.hear() == ["0", "1", "2", "3"]


async def test_many_hung_calls_on_one_connection_do_not_hold_up_another(
    grpcio_client: GrpcioClient,
) -> None:
    service = EchoService()
    code = """
hung = [stub.Unary.future(pb.Ping(text="hang")) for _ in range(300)]
heed()
say(stub.Unary(pb.Ping(text="here"), timeout=20).text)
"""
    async with serving([service]) as at, grpcio_client(at.port, code) as client:
        await until(lambda: service.hanging == 300)
        await client.tell("all hang")
        assert await client.hear() == "here"


async def test_a_reader_that_stops_costs_little_and_holds_up_no_other_stream() -> None:
    async with open_peer("server.py") as peer:
        port = await peer.hear()
        async with open_channel("127.0.0.1", port) as channel:
            stub = bind(EchoStub, channel)
            await stub.unary(Ping())
            await peer.tell("rss")
            before_kib = await peer.hear()
            replies = [stub.down(Ping(count=300, data=b"x" * MIB)) for _ in range(3)]
            for reply in replies:
                await anext(reply)
            for _ in range(20):
                assert (await stub.unary(Ping(data=b"y" * 100_000))).number == 100_000
            await peer.tell("peak")
            assert await peer.hear() - before_kib < 32 * 1024
            for reply in replies:
                await reply.aclose()


async def test_an_announced_length_over_the_limit_costs_nothing() -> None:
    async with open_peer("server.py") as peer:
        port = await peer.hear()
        async with raw_client(port) as client:
            await client.unary("/hmtest.Echo/Unary", Ping())
            await peer.tell("rss")
            before_kib = await peer.hear()
            for _ in range(20):
                stream_id = await client.call("/hmtest.Echo/Unary")
                await client.send(stream_id, struct.pack(">BI", 0, 200_000_000) + b"x" * 10_000)
                trailers = await client.trailers(stream_id)
                assert trailers["grpc-status"] == "8"
                assert "200000000 bytes is over the limit of 4194304" in trailers["grpc-message"]
            await peer.tell("peak")
            assert await peer.hear() - before_kib < 4 * 1024


async def test_all_large_messages_share_one_budget() -> None:
    config = TransportConfig(open_message_bytes=4 * MIB, message_budget_bytes=3 * MIB)
    async with serving([EchoService()], config=config) as at, raw_client(at.port) as client:
        first = await client.call("/hmtest.Echo/Unary")
        await client.send(first, struct.pack(">BI", 0, 2 * MIB))
        second = await client.call("/hmtest.Echo/Unary", headers={"grpc-timeout": "100m"})
        await client.send(second, struct.pack(">BI", 0, 2 * MIB))
        assert (await client.trailers(second))["grpc-status"] == "4"
        client.h2.reset_stream(first)
        await client.flush()
        third = await client.call("/hmtest.Echo/Unary")
        body = bytes(Ping(data=b"x" * (2 * MIB)))
        await client.send(third, struct.pack(">BI", 0, len(body)) + body[:60_000])
        client.h2.end_stream(third)
        await client.flush()
        answer = await client.trailers(third)
        assert (answer["grpc-status"], "too soon" in answer["grpc-message"]) == ("3", True)


async def test_messages_that_one_account_announces_keep_no_other_account_waiting() -> None:
    hog, other = ({"authorization": f"Bearer {name}"} for name in ("hog", "other"))

    async def verify_any(token: str, peer: str) -> Principal:
        await trio.lowlevel.checkpoint()
        return Principal(account=token, role="user", kind="account", token_id="t", expires_at=9e9)

    config = TransportConfig(message_budget_bytes=8 * MIB)
    authenticator = Authenticator(frozenset(), verify_any)
    options: dict[str, Any] = {"config": config, "authenticator": authenticator}
    async with serving([EchoService()], **options) as at, raw_client(at.port) as client:
        for _ in range(20):
            silent = await client.call("/hmtest.Echo/Unary", headers=hog)
            await client.send(silent, struct.pack(">BI", 0, 2 * MIB))
        announced = await client.call("/hmtest.Echo/Unary", headers=other)
        await client.send(announced, struct.pack(">BI", 0, 2 * MIB) + b"x" * 10, end=True)
        answer = await client.trailers(announced)
        assert (answer["grpc-status"], "too soon" in answer["grpc-message"]) == ("3", True)


async def test_large_replies_of_one_account_are_held_within_its_share() -> None:
    """Whoever asks for much and reads none of it waits for itself, and keeps nobody waiting."""

    class Large(EchoService):
        async def unary(self, message: Ping) -> Pong:
            await hold_reply(2 * MIB)
            self.hanging += 1
            return Pong(data=b"x" * (2 * MIB))

    hog, other = ({"authorization": f"Bearer {name}"} for name in ("hog", "other"))

    async def verify_any(token: str, peer: str) -> Principal:
        await trio.lowlevel.checkpoint()
        return Principal(account=token, role="user", kind="account", token_id="t", expires_at=9e9)

    service = Large()
    options: dict[str, Any] = {
        "config": TransportConfig(reply_budget_bytes=8 * MIB),
        "authenticator": Authenticator(frozenset(), verify_any),
    }
    async with serving([service], **options) as at, raw_client(at.port) as client:
        asked = [await client.call("/hmtest.Echo/Unary", headers=hog) for _ in range(20)]
        for stream_id in asked:
            await client.send(stream_id, struct.pack(">BI", 0, 0), end=True)
        await until(lambda: service.hanging == 2)
        theirs = await client.call("/hmtest.Echo/Unary", headers=other)
        await client.send(theirs, struct.pack(">BI", 0, 0), end=True)
        await until(lambda: service.hanging == 3)
        await trio.sleep(0.1)
        assert service.hanging == 3
        # What is held is free again when the calls are over, however they end.
        for stream_id in asked:
            client.h2.reset_stream(stream_id)
        await client.flush()
        await trio.sleep(0.1)
        before = service.hanging
        again = [await client.call("/hmtest.Echo/Unary", headers=hog) for _ in range(2)]
        for stream_id in again:
            await client.send(stream_id, struct.pack(">BI", 0, 0), end=True)
        await until(lambda: service.hanging == before + 2)


async def test_a_stranger_who_never_sends_the_request_is_refused_in_time() -> None:
    config = TransportConfig(first_message_s=0.1)
    async with serving([EchoService()], config=config) as at, raw_client(at.port) as client:
        silent = await client.call("/hmtest.Echo/Unary")
        stuck = await client.call("/hmtest.Echo/Unary")
        await client.send(stuck, struct.pack(">BI", 0, 100) + b"x")
        assert (await client.trailers(silent))["grpc-status"] == "4"
        assert (await client.trailers(stuck))["grpc-status"] == "4"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({":method": "GET"}, {":status": "405"}),
        ({"content-type": "text/html"}, {":status": "415"}),
        ({"te": "none"}, {":status": "400"}),
        ({":path": "/hmtest.Echo/None"}, {"grpc-status": "12"}),
        ({"grpc-timeout": "soon"}, {"grpc-status": "3"}),
        ({"grpc-timeout": "9" * 400 + "S"}, {"grpc-status": "3"}),
        ({"x-bin": "a"}, {"grpc-status": "3"}),
        ({":path": ""}, {"grpc-status": "12"}),
    ],
)
async def test_headers_that_are_no_call_are_refused_by_themselves(
    headers: dict[str, str], status: dict[str, str]
) -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        stream_id = await client.call("/hmtest.Echo/Unary", headers=headers)
        answer = await client.trailers(stream_id)
        assert {name: answer[name] for name in status} == status
        assert (await client.unary("/hmtest.Echo/Unary", Ping()))["grpc-status"] == "0"


async def test_a_compressed_message_is_told_what_is_taken() -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        stream_id = await client.call("/hmtest.Echo/Unary", headers={"grpc-encoding": "gzip"})
        await client.send(stream_id, struct.pack(">BI", 1, 3) + b"abc", end=True)
        answer = await client.trailers(stream_id)
        assert (answer["grpc-status"], answer["grpc-accept-encoding"]) == ("12", "identity")


async def test_connections_are_bounded_and_strangers_give_way_to_new_ones() -> None:
    config = TransportConfig(max_connections=2)
    whoami, good = "/hmtest.Gate/Whoami", {"authorization": "Bearer good"}
    async with serving([EchoService(), GateService()], config=config) as at:
        known, idle, hanging, third = (raw_client(at.port) for _ in range(4))
        async with known as known_client, idle as idle_client:
            assert (await known_client.unary(whoami, Ping(), good))["grpc-status"] == "0"
            async with hanging as hanging_client:
                await idle_client.hung_up()
                await hanging_client.call("/hmtest.Echo/Unary")
                async with third as third_client:
                    await hanging_client.hung_up()
                    assert (await third_client.unary(whoami, Ping(), good))["grpc-status"] == "0"
                    async with await trio.open_tcp_stream("127.0.0.1", at.port) as refused:
                        with trio.fail_after(5):
                            assert await refused.receive_some(100) == b""
                    assert (await known_client.unary(whoami, Ping(), good))["grpc-status"] == "0"


async def test_whoever_has_most_connections_gives_way_when_they_are_all_taken() -> None:
    async def verify_any(token: str, peer: str) -> Principal:
        await trio.lowlevel.checkpoint()
        return Principal(account=token, role="user", kind="account", token_id="t", expires_at=9e9)

    def bearer(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {name}"}

    config, whoami = TransportConfig(max_connections=12), "/hmtest.Gate/Whoami"
    options: dict[str, Any] = {
        "config": config,
        "authenticator": Authenticator(frozenset(), verify_any),
    }
    async with serving([GateService()], **options) as at, AsyncExitStack() as stack:
        few = await stack.enter_async_context(raw_client(at.port))
        assert (await few.unary(whoami, Ping(), bearer("few")))["grpc-status"] == "0"
        many = [await stack.enter_async_context(raw_client(at.port)) for _ in range(11)]
        for client in many:
            assert (await client.unary(whoami, Ping(), bearer("many")))["grpc-status"] == "0"
        late = await stack.enter_async_context(raw_client(at.port))
        assert (await late.unary(whoami, Ping(), bearer("late")))["grpc-status"] == "0"
        await many[0].hung_up()
        assert (await few.unary(whoami, Ping(), bearer("few")))["grpc-status"] == "0"


async def test_calls_without_a_token_are_few_on_one_connection() -> None:
    config = TransportConfig(max_open_calls=3)
    async with serving([EchoService()], config=config) as at, raw_client(at.port) as client:
        for _ in range(3):
            await client.call("/hmtest.Echo/Unary")
        # Calls that arrive together begin in no particular order.
        client.h2.ping(b"and then")
        await client.flush()
        await client.hear(h2.events.PingAckReceived)
        await wait_all_tasks_blocked()
        assert (await client.unary("/hmtest.Echo/Unary", Ping()))["grpc-status"] == "8"
        client.h2.reset_stream(1)
        await client.flush()
        with trio.fail_after(5):
            while (await client.unary("/hmtest.Echo/Unary", Ping()))["grpc-status"] != "0":
                pass


async def test_a_fault_of_a_connection_is_logged_and_ends_no_other(
    logs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as witness:
        await witness.unary("/hmtest.Echo/Unary", Ping())

        async def broken(link: Link) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(Link, "run", broken)
        async with await trio.open_tcp_stream("127.0.0.1", at.port) as stream:
            with trio.fail_after(5):
                assert await stream.receive_some(100) == b""
        assert (await witness.unary("/hmtest.Echo/Unary", Ping()))["grpc-status"] == "0"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "rpc_connection_failed"
    ]


async def test_a_drain_finishes_what_is_in_flight_and_refuses_what_is_new(
    grpcio_client: GrpcioClient,
) -> None:
    code = """
import queue
sends = queue.Queue()
call = stub.Both(iter(sends.get, None), timeout=20)
sends.put(pb.Ping(text="before"))
say(next(call).text)
heed()
say(outcome(stub.Unary.future(pb.Ping(), timeout=20))["status"])
sends.put(pb.Ping(text="after"))
say(next(call).text)
sends.put(None)
say([pong.text for pong in call])
say(call.code().name)
"""
    async with serving([EchoService()]) as at, grpcio_client(at.port, code) as client:
        assert await client.hear() == "before"
        at.server.drain()
        await until(lambda: at.server.draining.is_set())
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.tell("drained")
        assert await client.hear() == "UNAVAILABLE"
        assert await client.hear() == "after"
        assert await client.hear() == []
        assert await client.hear() == "OK"
        with trio.fail_after(5):
            await at.stopped.wait()


async def test_a_call_longer_than_the_grace_of_the_drain_is_cut_off_as_unavailable(
    grpcio_client: GrpcioClient,
) -> None:
    service = EchoService()
    code = "say(outcome(stub.Unary.future(pb.Ping(text='hang'), timeout=20)))"
    config = TransportConfig(drain_grace_s=0.1)
    async with (
        serving([service], config=config) as at,
        grpcio_client(at.port, code) as client,
    ):
        await service.started.wait()
        at.server.drain()
        answer = await client.hear()
        assert (answer["status"], answer["details"]) == (
            "UNAVAILABLE",
            "the server is shutting down",
        )
        with trio.fail_after(5):
            await at.stopped.wait()
    assert service.ends == ["Cancelled"]


async def test_our_own_client_finishes_its_calls_through_a_drain() -> None:
    async with serving([EchoService()]) as at, open_channel("127.0.0.1", at.port) as channel:
        stub = bind(EchoStub, channel)
        send, receive = trio.open_memory_channel[Ping](1)
        replies = stub.both(receive)
        await send.send(Ping(text="before"))
        assert (await anext(replies)).text == "before"
        at.server.drain()
        await until(lambda: channel.connection_refusal is not None)
        with pytest.raises(Unreachable, match="going away"):
            await stub.unary(Ping())
        await send.send(Ping(text="after"))
        assert (await anext(replies)).text == "after"
        await send.aclose()
        assert [pong async for pong in replies] == []
        with trio.fail_after(5):
            await at.stopped.wait()
            await channel.closed.wait()


async def test_an_idle_server_drains_at_once_although_clients_are_connected() -> None:
    async with serving([EchoService()]) as at, open_channel("127.0.0.1", at.port) as channel:
        await bind(EchoStub, channel).unary(Ping())
        at.server.drain()
        with trio.fail_after(5):
            await at.stopped.wait()


async def test_cancelling_the_server_ends_handlers_and_connections_at_once() -> None:
    service = EchoService()
    async with serving([service]) as at, open_channel("127.0.0.1", at.port) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_cut_off, channel)
            await service.started.wait()
            at.scope.cancel()
        with trio.fail_after(5):
            await at.stopped.wait()
    assert service.ends == ["Cancelled"]


async def _expect_cut_off(channel: object) -> None:
    with pytest.raises((Unreachable, RemoteError)):
        await bind(EchoStub, channel).unary(Ping(text="hang"))  # type: ignore[arg-type]


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}: another program") as caught:
            await open_listeners("127.0.0.1", port)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_is_one_clear_line(host: str) -> None:
    with pytest.raises(PortInUse, match=f"cannot listen on {host}:0: "):
        await open_listeners(host, 0)


async def test_port_0_gives_every_address_of_the_host_the_same_port() -> None:
    listeners = await open_listeners("localhost", 0)
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()
