"""Replies whose end is sent as it is read."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
import trio.testing

from hivemind.rpc.config import MIB, TransportConfig
from hivemind.rpc.errors import RemoteError, Status
from hivemind.rpc.reply import ReplyTail, bytes_field, hold_reply, leave_reply_tail, varint
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoBase, EchoStub, Ping, Pong
from tests.rpc.raw import framed, raw_client
from tests.rpc.service import CONFIG, served, serving, until

PIECE = b"p" * 100_000
DATA = 2
"""The number of the reply's field."""


class Tailing(EchoBase):
    """Replies with `count` pieces, having announced as many as `text` says, or just them."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = 0

    async def unary(self, message: Ping) -> Pong:
        size = len(PIECE) * int(message.text or message.count)
        head = bytes_field(DATA, size)
        leave_reply_tail(ReplyTail(len(head) + size, self._pieces(head, message.count)))
        return Pong(text="before", number=7)

    async def _pieces(self, head: bytes, count: int) -> AsyncGenerator[bytes, None]:
        self.begun += 1
        try:
            yield head
            for _ in range(count):
                yield PIECE
        finally:
            self.closed += 1


@pytest.mark.parametrize("count", [0, 1, 35])
async def test_the_tail_is_part_of_the_message(count: int) -> None:
    service = Tailing()
    async with served([service]) as channel:
        reply = await bind(EchoStub, channel).unary(Ping(count=count))
    assert (reply.text, reply.number, reply.data) == ("before", 7, PIECE * count)
    assert service.closed == 1


@pytest.mark.parametrize("announced", ["2", "4"])
async def test_a_tail_of_another_size_than_announced_is_a_fault(announced: str, logs: Any) -> None:
    service = Tailing()
    async with served([service]) as channel:
        with pytest.raises(RemoteError) as caught:
            await bind(EchoStub, channel).unary(Ping(count=3, text=announced))
        assert (await bind(EchoStub, channel).unary(Ping(count=1))).data == PIECE
    assert caught.value.status is Status.INTERNAL
    assert service.closed == 2
    assert [line["event"] for line in logs] == ["rpc_handler_failed"]


async def test_a_caller_that_stops_reading_and_leaves_ends_the_tail() -> None:
    service = Tailing()
    async with serving([service]) as at, raw_client(at.port) as client:
        stream_id = await client.call("/hmtest.Echo/Unary")
        # More than the window, which it never opens again.
        await client.send(stream_id, framed(Ping(count=10)), end=True)
        await until(lambda: service.begun == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert service.closed == 0
        client.h2.reset_stream(stream_id)
        await client.flush()
        await until(lambda: service.closed == 1)


class Holding(EchoBase):
    """Holds `count` bytes until its reply is sent; `hang` sends none."""

    def __init__(self) -> None:
        self.held = trio.Event()

    async def unary(self, message: Ping) -> Pong:
        await hold_reply(message.count)
        self.held.set()
        if message.text == "hang":
            await trio.sleep_forever()
        return Pong()


async def test_what_replies_hold_together_is_bounded_and_comes_back() -> None:
    config = TransportConfig(open_message_bytes=CONFIG.open_message_bytes, reply_budget_bytes=MIB)
    service = Holding()
    async with served([service], config=config) as channel:
        stub = bind(EchoStub, channel)
        with pytest.raises(RemoteError, match="all calls share"):
            await stub.unary(Ping(count=MIB + 1))
        for _ in range(3):
            await stub.unary(Ping(count=MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stub.unary, Ping(count=MIB, text="hang"))
            await service.held.wait()
            nursery.cancel_scope.cancel()
        await stub.unary(Ping(count=MIB))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31 - 1, 2**63 - 1])
def test_numbers_are_written_as_protobuf_does(value: int) -> None:
    assert Pong.parse(b"\x18" + varint(value)).number == value
