"""A reported log takes each number once, before and after a crash."""

from pathlib import Path

import pytest

from hivemind.core.records import OutputChunk, OutputStream
from hivemind.master.output import OutputFolder, OutputTooLarge
from hivemind.master.reported_log import ReportedLog

MOST = 1000


def open_log(folder: Path) -> tuple[OutputFolder, ReportedLog]:
    """As a master has it that begins anew."""
    outputs = OutputFolder(folder, lambda _: None)
    return outputs, ReportedLog(outputs, "t", 1, "log")


async def content(outputs: OutputFolder) -> bytes:
    place = (await outputs.log("t", 1)).follow()
    found = b""
    while chunks := await place.next_batch():
        found += b"".join(chunk.data for chunk in chunks)
    return found


async def test_a_number_is_taken_once_and_what_has_none_every_time(tmp_path: Path) -> None:
    outputs, log = open_log(tmp_path)
    took = [
        await log.add(data, 1.0, sequence, most_bytes=MOST)
        for data, sequence in ((b"a", 1), (b"a", 1), (b"b", 5), (b"c", 3), (b"-", 0), (b"-", 0))
    ]
    assert took == [True, False, True, False, True, True]
    assert await content(outputs) == b"ab--"
    again, log = open_log(tmp_path)
    assert not await log.add(b"b", 1.0, 5, most_bytes=MOST)
    assert await log.add(b"d", 1.0, 6, most_bytes=MOST)
    assert await content(again) == b"ab--d"


async def test_what_was_not_acknowledged_before_a_crash_is_taken_when_it_is_repeated(
    tmp_path: Path,
) -> None:
    outputs, log = open_log(tmp_path)
    await log.add(b"kept", 1.0, 1, most_bytes=MOST)
    # As a crash leaves it between the log and its mark.
    half = OutputChunk(stream=OutputStream.STDOUT, offset=4, data=b"half", at=1.0)
    await (await outputs.log("t", 1)).append([half], most_bytes=MOST)
    again, log = open_log(tmp_path)
    assert await log.add(b"half", 1.0, 2, most_bytes=MOST)
    assert await content(again) == b"kepthalf"


async def test_too_much_is_not_added(tmp_path: Path) -> None:
    outputs, log = open_log(tmp_path)
    await log.add(b"x" * 600, 1.0, 1, most_bytes=MOST)
    with pytest.raises(OutputTooLarge):
        await log.add(b"y" * 600, 1.0, 2, most_bytes=MOST)
    assert await log.add(b"z", 1.0, 2, most_bytes=MOST)
    assert await content(outputs) == b"x" * 600 + b"z"
