from pathlib import Path

import pytest

from hivemind.core.lines import LineMerger
from hivemind.core.records import OutputChunk, OutputStream
from hivemind.master import transcripts
from hivemind.master.output import OutputFolder, OutputLog
from hivemind.master.transcripts import Part, Tail, tail_of, transcript

MIB = 1024 * 1024
OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR
EURO = "\N{EURO SIGN}".encode()


async def log_of(path: Path, *pieces: tuple[OutputStream, bytes], number: int = 1) -> OutputLog:
    log = await OutputFolder(path, lambda _id: None).log("t1", number)
    offset, chunks = 0, []
    for stream, data in pieces:
        chunks.append(OutputChunk(stream=stream, offset=offset, data=data, at=1.0))
        offset += len(data)
    await log.append(chunks, most_bytes=100 * MIB)
    return log


async def text_of(*parts: Part) -> str:
    return b"".join([piece async for piece in transcript(parts)]).decode()


async def test_lines_are_of_one_stream_each_in_the_order_of_their_ends(tmp_path: Path) -> None:
    log = await log_of(
        tmp_path, (OUT, b"beg"), (ERR, b"error\nlate"), (OUT, b"un\n\nopen"), (ERR, b"r\n")
    )
    assert await tail_of(log) == Tail(lines=("error", "begun", "", "later", "open"))


async def test_a_character_cut_between_chunks_is_whole_and_bad_bytes_show(tmp_path: Path) -> None:
    log = await log_of(
        tmp_path, (OUT, EURO[:1]), (ERR, b"\xff\n"), (OUT, EURO[1:] + b"\n"), (ERR, EURO[:2])
    )
    assert (await tail_of(log)).lines == ("\ufffd", "\N{EURO SIGN}", "\ufffd")
    assert await text_of(Part(log, log.size)) == "\ufffd\n\N{EURO SIGN}\n\ufffd"


async def test_nothing_printed_is_no_line(tmp_path: Path) -> None:
    assert await tail_of(await log_of(tmp_path)) == Tail(lines=())
    assert await text_of(Part(await log_of(tmp_path), 0)) == ""


async def test_what_a_tail_leaves_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "TAIL_BYTES", 100)
    monkeypatch.setattr(transcripts, "TAIL_LINES", 3)
    log = await log_of(tmp_path / "lines", (OUT, b"1\n2\n3\n4\n5\n"))
    tail = await tail_of(log)
    assert tail.lines == ("3", "4", "5")
    assert tail.omission == "2 earlier lines of its output are left out, GetTaskLogs has everything"
    log = await log_of(tmp_path / "bytes", (OUT, b"x" * 900), (ERR, b"y" * 50), (OUT, b"z" * 40))
    tail = await tail_of(log)
    assert tail.lines == ("x" * 10 + "z" * 40, "y" * 50)
    assert "the first 890 bytes of its output are left out" in tail.omission
    log = await log_of(tmp_path / "both", (OUT, b"x" * 900), (OUT, b"1\n2\n3\n4\n5\n"))
    assert "the first 810 bytes and 2 further lines" in (await tail_of(log)).omission


async def test_a_transcript_ends_where_it_was_to_end_and_is_the_same_twice(tmp_path: Path) -> None:
    log = await log_of(tmp_path, (OUT, b"one\n"), (ERR, b"two\n"))
    part = Part(log, log.size)
    assert await text_of(part) == "one\ntwo\n"
    later = OutputChunk(stream=OUT, offset=8, data=b"three\n", at=2.0)
    await log.append([later], most_bytes=MIB)
    assert await text_of(part) == "one\ntwo\n"
    assert await text_of(Part(log, 6)) == "one\ntw"


async def test_attempts_follow_each_other_under_their_headings(tmp_path: Path) -> None:
    first = await log_of(tmp_path, (OUT, b"a"))
    second = await log_of(tmp_path, (OUT, b"b"), number=2)
    third = await log_of(tmp_path, (OUT, b"c\n"), number=3)
    logs = [first, second, third, await log_of(tmp_path, number=4)]
    parts = [Part(log, log.size, f"--- {number} ---\n") for number, log in enumerate(logs, 1)]
    assert await text_of(*parts) == "--- 1 ---\na\n--- 2 ---\nb\n--- 3 ---\nc\n--- 4 ---\n"


def test_a_long_line_that_comes_byte_by_byte_costs_no_more_than_its_length() -> None:
    merger = LineMerger(10)
    for _ in range(300_000):
        merger.add(OUT, b"x")
    merger.add(OUT, b"\n")
    assert merger.finish() == ("x" * 300_000,)
    assert merger.count == 1
