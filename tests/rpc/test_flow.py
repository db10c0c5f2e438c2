"""Gates, buffers and buckets."""

import tracemalloc

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hivemind.rpc._flow import Buffer, Gate, TokenBucket, TruncatedMessage


async def test_a_gate_closes_again_and_wakes_those_who_waited() -> None:
    gate, passed = Gate(), []

    async def wait(name: str) -> None:
        await gate.wait()
        passed.append(name)
        gate.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "one")
        nursery.start_soon(wait, "two")
        await wait_all_tasks_blocked()
        assert passed == []
        gate.set()
        await wait_all_tasks_blocked()
        assert len(passed) == 1
        gate.set()
    assert sorted(passed) == ["one", "two"]


async def test_a_failed_gate_raises_in_all_who_wait_now_and_later() -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect_failure, gate)
        await wait_all_tasks_blocked()
        gate.fail(KeyError("gone"))
    gate.set()
    await _expect_failure(gate)


async def _expect_failure(gate: Gate) -> None:
    with pytest.raises(KeyError, match="gone"):
        await gate.wait()


async def test_a_buffer_gives_room_back_as_it_is_read_and_padding_at_once() -> None:
    acked: list[int] = []
    buffer = Buffer(acked.append)
    buffer.add(b"abcdef", 10)
    assert acked == [4]
    assert await buffer.read(2) == b"ab"
    assert await buffer.read(0) == b""
    assert acked == [4, 2]
    assert buffer.unacked_size() == 4
    buffer.eof()
    assert await buffer.read(4) == b"cdef"
    assert await buffer.read(5) == b""
    assert sum(acked) == 10


async def test_a_read_longer_than_the_window_gives_room_back_meanwhile() -> None:
    acked: list[int] = []
    buffer = Buffer(acked.append)
    read: list[bytes] = []

    async def reader() -> None:
        read.append(await buffer.read(9))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        for part in (b"abc", b"def", b"ghijk"):
            buffer.add(part, len(part))
            await wait_all_tasks_blocked()
    assert read == [b"abcdefghi"]
    assert acked == [3, 3, 3]
    assert await buffer.read_some(100) == b"jk"


async def test_a_stream_that_ends_within_a_message_is_truncated() -> None:
    buffer = Buffer(lambda size: None)
    buffer.add(b"abc", 3)
    buffer.eof()
    with pytest.raises(TruncatedMessage):
        await buffer.read(5)


def test_bytes_that_come_one_by_one_cost_no_more_than_together() -> None:
    tracemalloc.start()
    try:
        buffer = Buffer(lambda size: None)
        for _ in range(100_000):
            buffer.add(b"x", 1)
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


async def test_a_bucket_allows_a_burst_and_then_a_rate(mock_clock: MockClock) -> None:
    bucket = TokenBucket(3, 2.0)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    mock_clock.jump(0.5)
    assert [bucket.take() for _ in range(2)] == [True, False]
    mock_clock.jump(100)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
