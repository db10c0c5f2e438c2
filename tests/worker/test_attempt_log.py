import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind.core.records import OutputChunk, OutputStream
from hivemind.worker import attempt_log
from hivemind.worker.attempt_log import AttemptLog

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


def read_all(log: AttemptLog, offset: int, step: int) -> list[OutputChunk]:
    chunks: list[OutputChunk] = []
    cursor = log.seek(offset)
    while cursor.offset < log.size:
        some, cursor = log.read(cursor, step)
        assert some
        chunks += some
    return chunks


def streams_of(chunks: list[OutputChunk]) -> tuple[bytes, bytes]:
    """All bytes, and for each the stream that it came from: order is judged across both."""
    return (
        b"".join(chunk.data for chunk in chunks),
        b"".join(bytes([chunk.stream]) * len(chunk.data) for chunk in chunks),
    )


writes = st.lists(
    st.tuples(
        st.sampled_from([OUT, ERR]),
        st.one_of(st.binary(max_size=9), st.integers(0, 200_000).map(lambda n: b"x" * n)),
        st.floats(0, 0.05),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(writes, st.lists(st.floats(0, 1), max_size=4), st.integers(1, 300_000), st.data())
def test_any_offset_gives_exactly_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    appended: list[tuple[OutputStream, bytes, float]],
    places: list[float],
    step: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("log") / "output.log"
    log = AttemptLog.create(path)
    expected = came_from = b""
    at = 1000.0
    # A reader that follows while it is written, in pieces of its own.
    cursor = log.seek(0)
    followed: list[OutputChunk] = []
    for stream, payload, pause_s in appended:
        at += pause_s
        log.append(stream, payload, at)
        expected += payload
        came_from += bytes([stream]) * len(payload)
        if data.draw(st.booleans()):
            some, cursor = log.read(cursor, step)
            followed += some
    while cursor.offset < log.size:
        some, cursor = log.read(cursor, max(step, 4096))
        followed += some
    assert streams_of(followed) == (expected, came_from)
    assert log.size == len(expected)
    offset = 0
    for chunk in followed:
        assert chunk.offset == offset
        offset += len(chunk.data)

    log.seal()
    again = AttemptLog.open_sealed(path)
    assert again.size == log.size
    for place in places:
        start = int(place * log.size)
        for reader in (log, again):
            rest = read_all(reader, start, max(step, 4096))
            assert streams_of(rest) == (expected[start:], came_from[start:])


def test_an_offset_beyond_the_end_is_the_end(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    log.append(OUT, b"abc", 1.0)
    assert log.seek(99).offset == 3
    assert log.read(log.seek(99), 10)[0] == []
    log.close()


def test_what_is_printed_byte_by_byte_costs_no_header_each(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    for index in range(10_000):
        log.append(OUT, b"x", 5.0 + index / 1_000_000)
    log.seal()
    assert (tmp_path / "log").stat().st_size < 10_100
    assert [len(chunk.data) for chunk in read_all(log, 0, 1 << 20)] == [10_000]


def test_output_keeps_the_time_it_came_at(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    log.append(OUT, b"one", 10.0)
    log.append(OUT, b"two", 11.5)
    log.append(ERR, b"three", 11.5)
    log.seal()
    got = [(chunk.at, chunk.stream, chunk.data) for chunk in read_all(log, 0, 100)]
    assert got == [(10.0, OUT, b"one"), (11.5, OUT, b"two"), (11.5, ERR, b"three")]


def test_one_read_is_bounded_however_small_the_pieces(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    for index in range(3 * attempt_log.READ_CHUNKS):
        log.append(OUT if index % 2 else ERR, b"x", 1.0)
    some, cursor = log.read(log.seek(0), 1 << 20)
    assert len(some) == attempt_log.READ_CHUNKS == cursor.offset
    assert len(read_all(log, 0, 1 << 20)) == 3 * attempt_log.READ_CHUNKS
    log.close()


def test_a_seek_far_into_a_long_log_reads_little_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AttemptLog.create(tmp_path / "log")
    for index in range(200):
        log.append(OUT, bytes([index]) * 50_000, float(index))
    reads: list[int] = []
    pread = os.pread

    def counting(descriptor: int, size: int, position: int) -> bytes:
        reads.append(size)
        return pread(descriptor, size, position)

    monkeypatch.setattr(os, "pread", counting)
    cursor = log.seek(150 * 50_000 + 7)
    chunks, _ = log.read(cursor, 10)
    assert [(chunk.data, chunk.offset) for chunk in chunks] == [(bytes([150]) * 10, 7_500_007)]
    assert len(reads) <= 4
    log.close()


def test_a_full_disk_loses_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AttemptLog.create(tmp_path / "log")
    log.append(OUT, b"before", 1.0)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(OSError, match="No space"):
            log.append(OUT, b" lost", 1.0)
        with pytest.raises(OSError, match="No space"):
            log.append(ERR, b"lost", 1.0)
    log.append(ERR, b" after", 9.0)
    log.seal()
    assert b"".join(c.data for c in read_all(log, 0, 100)) == b"before after"


def test_a_sealed_log_takes_nothing_more(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    log.append(OUT, b"all", 1.0)
    log.seal()
    with pytest.raises(ValueError, match="sealed"):
        log.append(OUT, b"more", 50.0)
    with pytest.raises(ValueError, match="sealed"):
        log.append(OUT, b"more", 1.0)
