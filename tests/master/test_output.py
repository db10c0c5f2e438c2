import gc
import math
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind.core.records import OutputChunk, OutputStream
from hivemind.master import output
from hivemind.master.output import (
    MARK,
    OutputFolder,
    OutputGap,
    OutputLog,
    OutputTooLarge,
    mark_of,
)

MIB = 1024 * 1024
OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


def chunk(offset: int, data: bytes, stream: OutputStream = OUT, at: float = 1.0) -> OutputChunk:
    return OutputChunk(stream=stream, offset=offset, data=data, at=at)


def folder(path: Path) -> OutputFolder:
    return OutputFolder(path, lambda _id: None)


async def everything(log: OutputLog, offset: int = 0) -> bytes:
    place, got = log.follow(offset), b""
    while chunks := await place.next_batch():
        for one in chunks:
            assert one.offset == offset + len(got)
            got += one.data
    return got


async def test_output_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    written = [chunk(0, b"one\n", at=1.25), chunk(4, b"two\n", ERR, 2.5), chunk(8, b"three")]
    await log.append(written, most_bytes=MIB)
    assert await log.follow().next_batch() == tuple(written)
    assert log.size == 13
    assert list(log.sync_chunks(OUT)) == [b"one\n", b"three"]
    assert list(log.sync_chunks(ERR)) == [b"two\n"]


async def test_what_is_known_is_skipped_and_what_is_missing_is_noticed(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    await log.append([chunk(0, b"abcdef")], most_bytes=MIB)
    await log.append([chunk(0, b"abcdef"), chunk(3, b"defghi")], most_bytes=MIB)
    await log.append([chunk(9, b"")], most_bytes=MIB)
    assert await everything(log) == b"abcdefghi"
    with pytest.raises(OutputGap, match="byte 10; 9 are known"):
        await log.append([chunk(10, b"x")], most_bytes=MIB)
    assert log.size == 9


async def test_a_batch_with_a_gap_adds_nothing(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    with pytest.raises(OutputGap):
        await log.append([chunk(0, b"a"), chunk(5, b"b")], most_bytes=MIB)
    assert log.size == 0
    assert await everything(log) == b""


async def test_more_than_the_most_is_refused_whole(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    await log.append([chunk(0, b"12345")], most_bytes=10)
    with pytest.raises(OutputTooLarge, match="10 bytes"):
        await log.append([chunk(5, b"678901")], most_bytes=10)
    await log.append([chunk(5, b"67890")], most_bytes=10)
    assert await everything(log) == b"1234567890"


async def test_a_follower_begins_near_its_offset_and_not_at_the_logs_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PLACE_BYTES", 100)
    written = [chunk(10 * number, b"%010d" % number) for number in range(100)]
    log = await folder(tmp_path).log("t1", 1)
    for one in written:
        await log.append([one], most_bytes=MIB)
    again = await folder(tmp_path).log("t1", 1)
    whole = b"".join(one.data for one in written)
    for known in (log, again):
        for offset in (0, 5, 100, 101, 555, 999, 1000):
            place = known.follow(offset)
            assert offset - 110 <= place._at <= offset
            assert await everything(known, offset) == whole[offset:]
    await again.append([chunk(1000, b"more")], most_bytes=MIB)
    assert await everything(again, 998) == b"99more"


async def test_a_large_chunk_is_read_in_parts(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    data = bytes(range(256)) * 4096
    await log.append([chunk(0, data)], most_bytes=2 * MIB)
    assert await everything(log) == data
    assert await everything(log, 77_777) == data[77_777:]


@pytest.mark.parametrize("torn", [1, 5, 13, 14])
async def test_a_frame_that_a_crash_tore_is_written_over(tmp_path: Path, torn: int) -> None:
    log = await folder(tmp_path).log("t1", 1)
    await log.append([chunk(0, b"whole"), chunk(5, b"torn")], most_bytes=MIB)
    path = tmp_path / "t1" / "1.log"
    path.write_bytes(path.read_bytes()[:-torn])
    del log
    log = await folder(tmp_path).log("t1", 1)
    assert log.size == 5
    await log.append([chunk(5, b"again")], most_bytes=MIB)
    assert await everything(log) == b"wholeagain"
    assert await everything(await folder(tmp_path).log("t1", 1)) == b"wholeagain"


async def test_zeros_that_a_power_cut_left_are_not_output(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    await log.append([chunk(0, b"kept")], most_bytes=MIB)
    path = tmp_path / "t1" / "1.log"
    path.write_bytes(path.read_bytes() + bytes(5000))
    del log
    log = await folder(tmp_path).log("t1", 1)
    assert log.size == 4
    await log.append([chunk(4, b"!")], most_bytes=MIB)
    assert await everything(log) == b"kept!"


async def test_everybody_has_the_same_log_and_it_is_measured_once(tmp_path: Path) -> None:
    home, got = folder(tmp_path), []

    async def ask() -> None:
        got.append(await home.log("t1", 1))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len({id(log) for log in got}) == 1
    assert await home.log("t1", 2) is not got[0]


async def test_a_log_that_takes_long_to_measure_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, measure = trio.Event(), output._measure

    def slow(path: Path, before: Any) -> object:
        if path.name == "1.log":
            trio.from_thread.run(go.wait)
        return measure(path, before)

    monkeypatch.setattr(output, "_measure", slow)
    home = folder(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.log, "t1", 1)
        with trio.fail_after(5):
            await home.log("t1", 2)
        go.set()


async def test_a_log_is_gone_through_again_only_where_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    whole_frames = output._whole_frames

    def look(path: Path) -> Any:
        looks.append(path.name)
        return whole_frames(path)

    monkeypatch.setattr(output, "_whole_frames", look)
    home = folder(tmp_path)

    async def size() -> int:
        """Of the log as somebody finds it who comes when nobody holds it."""
        gc.collect()
        return (await home.log("t1", 1)).size

    assert [await size(), await size()] == [0, 0]
    await (await home.log("t1", 1)).append([chunk(0, b"abc")], most_bytes=MIB)
    assert [await size() for _ in range(3)] == [3, 3, 3]
    await (await home.log("t1", 1)).append([chunk(3, b"d")], most_bytes=MIB)
    assert [await size() for _ in range(3)] == [4, 4, 4]
    mark_of(home.path("t1", 1)).write_bytes(MARK.pack(1, 3, 13 + 3))
    assert [await size(), await size()] == [3, 3]
    await home.remove("t1")
    assert [await size(), await size()] == [0, 0]
    assert len(looks) == 5


async def test_a_long_row_of_frames_is_measured_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_READ_BYTES", 100)
    monkeypatch.setattr(output, "_PLACE_BYTES", 50)
    log = await folder(tmp_path).log("t1", 1)
    data = bytes(range(200))
    for size in (1, 7, 60, 87, 88, 99, 100, 101, 200):
        start = log.size
        await log.append([chunk(start, data[:size])], most_bytes=MIB)
    whole = await folder(tmp_path).log("t1", 1)
    assert (whole.size, whole.file_bytes, whole._places) == (
        log.size,
        log.file_bytes,
        log._places,
    )
    path = folder(tmp_path).path("t1", 1)
    path.write_bytes(path.read_bytes()[:-1])
    assert (await folder(tmp_path).log("t1", 1)).size == log.size - 200


async def test_followers_go_at_their_own_speed(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    quick, slow = log.follow(), log.follow()
    total = b""
    for number in range(50):
        data = f"line {number}\n".encode()
        await log.append([chunk(len(total), data)], most_bytes=MIB)
        total += data
        (fresh,) = await quick.next_batch()
        assert fresh.data == data
    assert await quick.next_batch() == ()
    assert b"".join(one.data for one in await slow.next_batch()) == total


async def test_whoever_waits_for_output_is_woken_once_it_is_all_there(tmp_path: Path) -> None:
    log = await folder(tmp_path).log("t1", 1)
    async with trio.open_nursery() as nursery:
        woken = trio.Event()

        async def wait() -> None:
            await log.wait_for(3)
            assert log.size >= 3
            woken.set()

        nursery.start_soon(wait)
        for number in range(3):
            await log.append([chunk(number, b"x")], most_bytes=MIB)
        with trio.fail_after(5):
            await woken.wait()


async def test_growth_is_told_by_task(tmp_path: Path) -> None:
    told: list[str] = []
    home = OutputFolder(tmp_path, told.append)
    log = await home.log("t1", 2)
    await log.append([chunk(0, b"x")], most_bytes=MIB)
    await log.append([chunk(0, b"x")], most_bytes=MIB)
    assert told == ["t1"]


async def test_syncing_makes_the_file_and_both_folders_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr("hivemind.master.output.os.fsync", noted)
    log = await folder(tmp_path / "output").log("t1", 1)
    await log.sync()
    assert synced == []
    await log.append([chunk(0, b"x")], most_bytes=MIB)
    await log.sync()
    root = tmp_path / "output"
    assert set(synced) == {str(root / "t1" / "1.log"), str(root / "t1"), str(root)}


pieces = st.lists(
    st.tuples(st.sampled_from(OutputStream), st.binary(min_size=1, max_size=40)), max_size=12
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces,
    st.lists(st.tuples(st.integers(0, 11), st.integers(1, 6)), max_size=8),
    st.integers(0, 500),
    st.integers(0, 60),
)
def test_any_chunking_with_any_repeats_gives_the_same_output(
    tmp_path_factory: pytest.TempPathFactory,
    whole: list[tuple[OutputStream, bytes]],
    repeats: list[tuple[int, int]],
    offset: int,
    torn: int,
) -> None:
    path = tmp_path_factory.mktemp("output")
    chunks, size = [], 0
    for stream, data in whole:
        chunks.append(chunk(size, data, stream, at=float(size)))
        size += len(data)
    total = b"".join(data for _, data in whole)

    async def main() -> None:
        log = await folder(path).log("t", 1)
        known = 0
        for place, count in [*repeats, (0, len(chunks))]:
            some = chunks[place : place + count]
            if some and some[0].offset > log.size:
                with pytest.raises(OutputGap):
                    await log.append(some, most_bytes=MIB)
            else:
                await log.append(some, most_bytes=MIB)
            assert log.size >= known
            known = log.size
        assert await everything(log) == total
        assert await everything(log, min(offset, size)) == total[offset:]
        for stream in OutputStream:
            wanted = b"".join(data for which, data in whole if which is stream)
            assert b"".join(log.sync_chunks(stream)) == wanted
        # After a crash that tore its end off, the same chunks make it whole again.
        file = path / "t" / "1.log"
        if file.exists():
            file.write_bytes(file.read_bytes()[: -torn or None])
        again = await folder(path).log("t", 1)
        await again.append(chunks, most_bytes=MIB)
        assert await everything(again) == total

    trio.run(main)
    assert math.isfinite(size)
