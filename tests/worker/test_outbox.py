import errno
import os
from pathlib import Path

import attrs
import pytest

from hivemind.core.messages import AttemptRef
from hivemind.core.records import Ending, Outcome, OutputStream, Reason, Usage
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.held import HeldAttempts
from hivemind.worker.outbox import (
    AttemptFolder,
    BadReportFile,
    FinalReport,
    ForeignName,
    Outbox,
)
from hivemind.worker.recovery import recover
from tests.worker.recording_master import new_ref

ENDING = Ending(
    outcome=Outcome.FAILED,
    reason=Reason.SIGNALLED,
    exit_code=139,
    detail="ended by SIGSEGV (signal 11)",
    usage=Usage(wall_s=1.5, cpu_s=0.25, memory_peak_bytes=1 << 33, gpu_memory_peak_bytes=1 << 34),
)


async def ended(outbox: Outbox, *, result: bytes = b"") -> tuple[AttemptFolder, FinalReport]:
    """An attempt that has printed, left something, and ended."""
    ref = new_ref()
    folder = outbox.folder(ref)
    await outbox.make(folder)
    folder.payload.write_bytes(b"print()")
    log = AttemptLog.create(folder.output)
    log.append(OutputStream.STDOUT, b"hello", 1.0)
    folder.result.write_bytes(result)
    ending = attrs.evolve(ENDING, result_bytes=len(result))
    report = FinalReport(ref=ref, seq=2, ending=ending)
    await outbox.put(folder, log, report)
    return folder, report


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def recovered(root: Path) -> HeldAttempts:
    held = HeldAttempts()
    await recover(Outbox(root), held)
    return held


async def test_a_report_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    folder, report = await ended(Outbox(tmp_path), result=b"tar")
    held = await recovered(tmp_path)
    (attempt,) = held
    assert attempt.report == report
    assert attempt.log is not None
    chunks, _ = attempt.log.read(attempt.log.seek(0), 100)
    assert [chunk.data for chunk in chunks] == [b"hello"]
    assert folder.result.read_bytes() == b"tar"
    assert not folder.payload.exists()


async def test_an_attempt_that_never_ended_leaves_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    folder = outbox.folder(new_ref())
    await outbox.make(folder)
    folder.payload.write_bytes(b"print()")
    assert list(await recovered(tmp_path)) == []
    assert names_in(tmp_path) == []


async def test_a_dropped_attempt_is_forgotten(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    folder, _ = await ended(outbox)
    await outbox.drop(folder)
    assert names_in(tmp_path) == []
    await outbox.drop(folder)


async def test_what_is_damaged_or_strange_is_removed_and_hides_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    good, _ = await ended(outbox)
    torn, _ = await ended(outbox)
    (torn.path / "report.json").write_bytes(b'{"ref":')
    short, _ = await ended(outbox, result=b"a whole tar")
    short.result.write_bytes(b"a")
    stranger = tmp_path / "not an attempt"
    stranger.mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(good.path)
    held = await recovered(tmp_path)
    assert [attempt.ref for attempt in held] == [good.ref]
    assert names_in(tmp_path) == [good.path.name]


@pytest.mark.parametrize("task_id", ["../../etc", "", "A" * 26, "01hzzzzzzzzzzzzzzzzzzzzzz/"])
def test_an_id_that_no_pool_makes_is_no_path(tmp_path: Path, task_id: str) -> None:
    with pytest.raises(ForeignName):
        Outbox(tmp_path).folder(AttemptRef(task_id, 1))


def test_attempts_are_numbered_from_one(tmp_path: Path) -> None:
    with pytest.raises(ForeignName):
        Outbox(tmp_path).folder(new_ref(0))


async def test_a_report_is_believed_in_its_own_folder_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    folder, _ = await ended(outbox)
    other = outbox.folder(new_ref())
    folder.path.rename(other.path)
    with pytest.raises(BadReportFile, match="another attempt"):
        outbox.read(other)


async def test_a_disk_that_fails_leaves_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path)
    folder = outbox.folder(new_ref())
    await outbox.make(folder)
    report = FinalReport(ref=folder.ref, seq=1, ending=ENDING)

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            await outbox.put(folder, None, report)
    assert outbox.read(folder) is None
    await outbox.put(folder, None, report)
    assert outbox.read(folder) == report
