"""Generated stubs through `bind`: every kind of call, and what becomes of it when it is left."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio

from hivemind.rpc.errors import RemoteError
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoStub, Ping
from tests.rpc.service import EchoService, served, until


async def test_every_kind_of_call_works_through_the_unchanged_stub() -> None:
    async with served([EchoService()]) as channel:
        stub = bind(EchoStub, channel)
        with trio.fail_after(10):
            assert (await stub.unary(Ping(data=b"x" * 70_000))).number == 70_000
            async with aclosing(stub.down(Ping(count=4))) as replies:
                assert [pong.number async for pong in replies] == [0, 1, 2, 3]
            pings = (Ping(data=b"y" * 100_000) for _ in range(30))
            assert (await stub.up(pings)).number == 3_000_000
            async with aclosing(stub.both([Ping(text="a"), Ping(text="b")])) as replies:
                assert [pong.text async for pong in replies] == ["a", "b"]


async def test_a_call_both_ways_answers_while_its_requests_are_still_made() -> None:
    async with served([EchoService()]) as channel:
        send, receive = trio.open_memory_channel[Ping](0)
        with trio.fail_after(10):
            async with aclosing(bind(EchoStub, channel).both(receive)) as replies:
                for text in ("one", "two", "three"):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(send.send, Ping(text=text))
                        assert (await anext(replies)).text == text
                await send.aclose()
                with pytest.raises(StopAsyncIteration):
                    await anext(replies)


async def test_an_error_in_the_requests_comes_out_where_replies_are_read() -> None:
    service = EchoService()

    async def requests() -> AsyncIterator[Ping]:
        yield Ping(text="hang")
        await service.started.wait()
        raise KeyError("no more")

    async with served([service]) as channel:
        with trio.fail_after(10), pytest.raises(KeyError, match="no more"):
            async with aclosing(bind(EchoStub, channel).both(requests())) as replies:
                await anext(replies)
        with trio.fail_after(5):
            await service.ended.wait()


async def test_leaving_the_replies_cancels_the_handler() -> None:
    service = EchoService()
    async with served([service]) as channel:
        stub = bind(EchoStub, channel)
        with trio.fail_after(10):
            async with aclosing(stub.down(Ping(count=1, text="hang"))) as replies:
                await anext(replies)
                await service.started.wait()
            await service.ended.wait()
        assert service.ends == ["Cancelled"]
        assert channel.processor.streams == {}


async def test_leaving_a_call_both_ways_ends_the_task_that_sends() -> None:
    ended = trio.Event()

    async def requests() -> AsyncIterator[Ping]:
        try:
            yield Ping(text="first")
            await trio.sleep_forever()
        finally:
            ended.set()

    async with served([EchoService()]) as channel:
        with trio.fail_after(10):
            async with aclosing(bind(EchoStub, channel).both(requests())) as replies:
                assert (await anext(replies)).text == "first"
            await ended.wait()
            await until(lambda: not channel.senders)


async def test_an_early_answer_counts_although_the_requests_are_not_all_sent() -> None:
    async def requests() -> AsyncIterator[Ping]:
        yield Ping(text="enough")
        while True:
            yield Ping(data=b"z" * 100_000)

    async with served([EchoService()]) as channel:
        with trio.fail_after(10):
            assert (await bind(EchoStub, channel).up(requests())).number == -1


async def test_a_request_over_the_limit_is_refused_with_the_limit_in_the_text() -> None:
    async with served([EchoService()]) as channel:
        with trio.fail_after(10), pytest.raises(RemoteError, match="4194304") as caught:
            await bind(EchoStub, channel).unary(Ping(data=b"x" * 5_000_000))
        assert caught.value.status.name == "RESOURCE_EXHAUSTED"
