import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hivemind.core.records import Blob
from hivemind.store.blobs import INLINE_BYTES, BlobError, BlobFolder, BlobMissing

LARGE = bytes(range(256)) * 4096


@pytest.fixture
async def blobs(tmp_path: Path) -> BlobFolder:
    names: Iterator[str] = (f"name{number}" for number in itertools.count())
    folder = BlobFolder(tmp_path / "blobs", new_name=lambda: next(names))
    await folder.make()
    return folder


def files(blobs: BlobFolder) -> list[str]:
    found = [*blobs.root.iterdir(), *blobs.incoming.iterdir()]
    return sorted(file.name for file in found if file != blobs.incoming)


async def test_small_bytes_stay_in_the_row_and_large_ones_become_a_file(blobs: BlobFolder) -> None:
    small = await blobs.put(bytes(INLINE_BYTES))
    assert (small.size, small.inline, small.file) == (INLINE_BYTES, bytes(INLINE_BYTES), None)
    large = await blobs.put(bytes(INLINE_BYTES + 1))
    assert (large.size, large.inline) == (INLINE_BYTES + 1, None)
    assert files(blobs) == [large.file]
    assert (blobs.root / str(large.file)).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"x", LARGE])
async def test_bytes_come_back_as_they_went_in(blobs: BlobFolder, data: bytes) -> None:
    assert await blobs.read(await blobs.put(data)) == data


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, len(LARGE)])
async def test_a_finished_spool_is_adopted_and_gone_from_where_it_was(
    blobs: BlobFolder, size: int
) -> None:
    spool = blobs.new_spool()
    spool.write_bytes(LARGE[:size])
    blob = await blobs.adopt(spool)
    assert blob.size == size
    assert (blob.file is None) == (size <= INLINE_BYTES)
    assert not spool.exists()
    assert await blobs.read(blob) == LARGE[:size]
    assert len(files(blobs)) == (1 if blob.file else 0)


@pytest.mark.parametrize("kept", [b"0123456789", LARGE])
async def test_a_blob_is_read_in_chunks_from_any_offset(blobs: BlobFolder, kept: bytes) -> None:
    blob = await blobs.put(kept)
    for offset in (0, 3, len(kept) - 1, len(kept), len(kept) + 1):
        async with blobs.open_read(blob, offset=offset, chunk_bytes=100_000) as chunks:
            read = [chunk async for chunk in chunks]
        assert b"".join(read) == kept[offset:]
        assert all(0 < len(chunk) <= 100_000 for chunk in read)


async def test_a_blob_that_is_deleted_while_it_is_read_is_read_to_its_end(
    blobs: BlobFolder,
) -> None:
    blob = await blobs.put(LARGE)
    async with blobs.open_read(blob, chunk_bytes=1000) as chunks:
        read = await anext(chunks)
        await blobs.delete(blob)
        read += b"".join([chunk async for chunk in chunks])
    assert read == LARGE
    assert files(blobs) == []


async def test_leaving_a_read_early_closes_its_file(blobs: BlobFolder) -> None:
    blob = await blobs.put(LARGE)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with blobs.open_read(blob, chunk_bytes=10) as chunks:
        await anext(chunks)
    with trio.move_on_after(0):
        async with blobs.open_read(blob) as chunks:
            await anext(chunks)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_deleting_a_blob_twice_or_an_inline_one_is_no_error(blobs: BlobFolder) -> None:
    blob = await blobs.put(LARGE)
    for _ in range(2):
        await blobs.delete(blob)
    await blobs.delete(Blob(size=1, inline=b"x"))


async def test_a_file_that_is_missing_or_cut_short_is_said_so_before_the_first_byte(
    blobs: BlobFolder,
) -> None:
    blob = await blobs.put(LARGE)
    os.truncate(blobs.root / str(blob.file), 100_000)
    with pytest.raises(BlobMissing, match=f"100000 bytes where {len(LARGE)}"):
        await blobs.read(blob)
    await blobs.delete(blob)
    with pytest.raises(BlobMissing, match="is not there"):
        await blobs.read(blob)


async def test_a_file_cut_short_while_it_is_read_is_said_so(blobs: BlobFolder) -> None:
    blob = await blobs.put(LARGE)
    async with blobs.open_read(blob, chunk_bytes=100_000) as chunks:
        await anext(chunks)
        os.truncate(blobs.root / str(blob.file), 50_000)
        with pytest.raises(BlobMissing, match="ends after 100000"):
            await anext(chunks)


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", "..", ".", "", "a\x00", "a\n", "x" * 129])
async def test_a_name_that_could_leave_the_folder_is_refused(blobs: BlobFolder, name: str) -> None:
    blob = Blob(size=1, file=name)
    with pytest.raises(BlobError, match="cannot be the name"):
        await blobs.read(blob)
    with pytest.raises(BlobError, match="cannot be the name"):
        await blobs.delete(blob)
    with pytest.raises(BlobError, match="cannot be the name"):
        await BlobFolder(blobs.root, new_name=lambda: name).put(LARGE)


async def test_a_link_in_a_blobs_place_is_not_followed(blobs: BlobFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(LARGE)
    (blobs.root / "link").symlink_to(secret)
    with pytest.raises(BlobError):
        await blobs.read(Blob(size=len(LARGE), file="link"))
    (blobs.incoming / "spool").symlink_to(secret)
    with pytest.raises(BlobError):
        await blobs.adopt(blobs.incoming / "spool")
    assert secret.exists()


async def test_a_sweep_keeps_what_rows_name_and_nothing_else(blobs: BlobFolder) -> None:
    named = await blobs.put(LARGE)
    await blobs.put(LARGE)
    blobs.new_spool().write_bytes(b"half")
    assert await blobs.sweep(frozenset({str(named.file), "unknown"})) == 2
    assert files(blobs) == [named.file]
    assert await blobs.read(named) == LARGE


async def test_a_full_disk_leaves_nothing_behind(blobs: BlobFolder) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(BlobError, match="File too large"):
            await blobs.put(LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(blobs) == []
    assert await blobs.read(await blobs.put(LARGE)) == LARGE


async def test_folders_that_cannot_be_made_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobError, match="cannot be made: Not a directory"):
        await BlobFolder(tmp_path / "file" / "blobs", new_name=str).make()
