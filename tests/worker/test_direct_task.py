from pathlib import Path

import pytest
import trio
import trio.lowlevel

from hivemind.core.direct import MOST_OUTPUT_BYTES, MOST_OUTPUT_LINES, DirectKind, DirectTask
from hivemind.core.entry import EntryError
from hivemind.core.records import OutputStream
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.direct_task import NotAsSaid, Program, last_lines, look_at

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


def looked_at(folder: Path, data: bytes, **changes: object) -> Program:
    path = folder / "upload"
    path.write_bytes(data)
    return look_at(path, DirectTask(task_id="t", **changes))  # type: ignore[arg-type]


def test_settings_count_however_far_down_a_script_has_them(tmp_path: Path) -> None:
    settings = b'# /// script\n# [tool.hivemind]\n# memory = "96M"\n# ///\n'
    for before in (b"", b"x = 1\n" * 100_000):
        assert looked_at(tmp_path, before + settings).settings.memory_bytes == 96 << 20


def test_what_would_be_another_task_has_another_digest(tmp_path: Path) -> None:
    seen = [
        looked_at(tmp_path, b"print(1)").digest,
        looked_at(tmp_path, b"print(2)").digest,
        looked_at(tmp_path, b"print(1)", kind=DirectKind.PYTHON).digest,
        looked_at(tmp_path, b"print(1)", parameters={"a": "bc"}).digest,
        looked_at(tmp_path, b"print(1)", parameters={"ab": "c"}).digest,
        looked_at(tmp_path, b"print(1)", parameters={"a": "b", "c": ""}).digest,
        looked_at(tmp_path, b"1:aprint(1)").digest,
    ]
    assert len(set(seen)) == len(seen)
    one = looked_at(tmp_path, b"print(1)", parameters={"a": "1", "b": "2"})
    other = looked_at(tmp_path, b"print(1)", parameters={"b": "2", "a": "1"})
    assert one == other


def test_what_is_no_program_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match="empty"):
        looked_at(tmp_path, b"")
    with pytest.raises(NotAsSaid, match="none"):
        looked_at(tmp_path, b"print(1)", kind=DirectKind.ARCHIVE)
    with pytest.raises(NotAsSaid, match="say archive"):
        looked_at(tmp_path, b"PK\x03\x04", kind=DirectKind.SHELL)
    assert looked_at(tmp_path, b"PK\x03\x04").size == 4


async def test_all_of_little_output_is_told(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    log.append(OUT, b"a\nb", 0.0)
    log.append(ERR, b"x\n", 1.0)
    assert await last_lines(log) == (("a", "x", "b"), "")
    assert await last_lines(None) == ((), "")
    log.close()


async def test_of_much_output_the_end_is_told_and_said_to_be_the_end(tmp_path: Path) -> None:
    log = AttemptLog.create(tmp_path / "log")
    for number in range(MOST_OUTPUT_LINES + 10):
        log.append(OUT, b"%d\n" % number, 0.0)
    lines, left_out = await last_lines(log)
    assert (lines[0], len(lines)) == ("10", MOST_OUTPUT_LINES)
    assert f"last {MOST_OUTPUT_LINES} lines" in left_out
    log.append(OUT, b"y" * (2 * MOST_OUTPUT_BYTES), 1.0)
    lines, left_out = await last_lines(log)
    assert [len(line) for line in lines] == [MOST_OUTPUT_BYTES]
    assert "last 1 lines" in left_out
    log.seal()
    assert (await last_lines(log))[0] == lines


async def test_output_in_tiny_pieces_holds_up_nobody_while_it_is_read(tmp_path: Path) -> None:
    """Both streams in turn, byte by byte, is the dearest that a task can print."""
    log = AttemptLog.create(tmp_path / "log")
    for number in range(100_000):
        log.append(ERR if number % 2 else OUT, b"z", number * 1.0)
    gaps: list[float] = []

    async def tick() -> None:
        last = trio.current_time()
        while True:
            await trio.lowlevel.checkpoint()
            gaps.append(trio.current_time() - last)
            last = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        lines, _ = await last_lines(log)
        nursery.cancel_scope.cancel()
    assert [len(line) for line in lines] == [50_000, 50_000]
    assert len(gaps) > 100
    log.close()
