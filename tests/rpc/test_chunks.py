"""Files to chunks and back."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from hivemind.rpc.channel import open_channel
from hivemind.rpc.chunks import read_chunks, write_chunks
from hivemind.rpc.config import MIB
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoStub, Ping
from tests.rpc.conftest import open_peer


async def test_a_file_goes_through_chunks_byte_for_byte(tmp_path: Path) -> None:
    content = bytes(range(256)) * 50
    (tmp_path / "in").write_bytes(content)
    async with aclosing(read_chunks(tmp_path / "in", chunk_bytes=1000)) as chunks:
        assert await write_chunks(tmp_path / "out", chunks) == len(content)
    assert (tmp_path / "out").read_bytes() == content


async def test_an_empty_file_has_no_chunks(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    assert [chunk async for chunk in read_chunks(tmp_path / "in")] == []


async def test_a_download_that_breaks_off_leaves_nothing_and_spares_what_was_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "out").write_bytes(b"old")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"new"
        raise KeyError("broke")

    with pytest.raises(KeyError):
        await write_chunks(tmp_path / "out", chunks())
    assert os.listdir(tmp_path)  # noqa: PTH208 == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


async def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await anext(read_chunks(tmp_path / "none"))


async def test_100_mb_up_and_down_cost_the_client_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "in"
    with source.open("wb") as file:
        file.truncate(100_000_000)
    async with open_peer("server.py") as peer:
        port = await peer.hear()
        async with open_channel("127.0.0.1", port) as channel:
            stub = bind(EchoStub, channel)
            await stub.up([Ping(data=b"x" * MIB)])
            before_kib = peak_kib(forget=True)
            async with aclosing(read_chunks(source)) as chunks:
                pong = await stub.up(Ping(data=chunk) async for chunk in chunks)
            assert pong.number == 100_000_000
            async with aclosing(stub.down(Ping(count=100, data=b"x" * MIB))) as replies:
                size = await write_chunks(tmp_path / "out", (pong.data async for pong in replies))
            assert size == 100 * MIB
            assert peak_kib() - before_kib < 32 * 1024


def peak_kib(*, forget: bool = False) -> int:
    """The most memory this process has held, since the last time with `forget` (proc(5))."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
