"""Files to chunks and back."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from hivemind.rpc.chunks import read_chunks, write_chunks


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
