"""What an earlier worker left in this home: unfinished attempts go, unsent reports are taken up.

What it left running is gone by then: a sandbox's processes die with the worker that made it, and
opening the pool removes the cgroups that remain.
"""

import shutil
from pathlib import Path

import structlog
import trio

from hivemind.core.messages import AttemptRef
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.held import HeldAttempt, HeldAttempts
from hivemind.worker.outbox import BadReportFile, ForeignName, Outbox

log = structlog.get_logger(__name__)


async def recover(outbox: Outbox, held: HeldAttempts) -> None:
    """Hold again every attempt that ended and was not acknowledged; remove everything else.

    Raises OSError where the home cannot be read.
    """
    for attempt in await trio.to_thread.run_sync(_take_up, outbox):
        held.add(attempt)
        log.info("report_taken_up", task_id=attempt.ref.task_id, attempt=attempt.ref.attempt)


def _take_up(outbox: Outbox) -> list[HeldAttempt]:
    found: list[HeldAttempt] = []
    for path in outbox.folders():
        try:
            attempt = _read(outbox, path)
        except (BadReportFile, ForeignName, OSError) as error:
            log.warning("leftover_unreadable", path=str(path), reason=str(error))
            attempt = None
        if attempt is not None:
            found.append(attempt)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


def _read(outbox: Outbox, path: Path) -> HeldAttempt | None:
    task_id, _, number = path.name.partition(".")
    ref = AttemptRef(task_id, int(number) if number.isdecimal() else 0)
    folder = outbox.folder(ref)
    report = outbox.read(folder)
    if report is None:
        return None
    size = report.ending.result_bytes
    if size and folder.result.stat().st_size != size:
        raise BadReportFile(f"{folder.result} has not the size that its report says")
    output = AttemptLog.open_sealed(folder.output) if folder.output.exists() else None
    return HeldAttempt(ref=ref, folder=folder, log=output, started=True, report=report)
