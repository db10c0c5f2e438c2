"""Final reports that the master has not acknowledged, each in its attempt's folder.

An attempt's folder holds all that is kept of it: its output, the tar of its result, and, once it
is over, its final report. The report is written last and durably, and its file's presence is what
says that the attempt has ended; so a worker that is killed at any moment either reports, after its
restart, exactly what happened, or holds nothing of the attempt.
"""

import json
import shutil
from pathlib import Path

import attrs
import cattrs
import trio

from hivemind.core.ids import is_task_id
from hivemind.core.messages import AttemptRef
from hivemind.core.records import Ending
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.durable import sync, write_durably
from hivemind.worker.errors import WorkerError

_REPORT = "report.json"


class ForeignName(WorkerError):
    """A task's id that no pool makes, and so no part of a path here."""


class BadReportFile(WorkerError):
    """A report's file that this worker did not write whole."""


@attrs.frozen(kw_only=True)
class FinalReport:
    """How an attempt ended, as it is kept until the master has it."""

    ref: AttemptRef
    seq: int
    ending: Ending
    """Its ``result_bytes`` is the size of the tar; 0 where there is none."""


@attrs.frozen
class AttemptFolder:
    """Where everything of one attempt lies."""

    path: Path
    ref: AttemptRef

    @property
    def payload(self) -> Path:
        """The program or archive, while the attempt runs."""
        return self.path / "payload"

    @property
    def stdin(self) -> Path:
        """Standard input, while the attempt runs."""
        return self.path / "stdin"

    @property
    def output(self) -> Path:
        """The attempt's log."""
        return self.path / "output.log"

    @property
    def result(self) -> Path:
        """The tar of what it left in its output folder."""
        return self.path / "result.tar"


class Outbox:
    """All attempts' folders below one root. One worker at a time may use a root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, ref: AttemptRef) -> AttemptFolder:
        """Where the attempt's files belong. Raises ForeignName for an id that no pool makes."""
        if not is_task_id(ref.task_id) or ref.attempt < 1:
            raise ForeignName(f"the master speaks of attempt {ref.attempt} of {ref.task_id[:40]!r}")
        return AttemptFolder(self._root / f"{ref.task_id}.{ref.attempt}", ref)

    async def make(self, folder: AttemptFolder) -> None:
        """Make the attempt's folder, empty. Raises OSError where there is no room for one."""

        def prepare() -> None:
            if folder.path.exists():
                shutil.rmtree(folder.path)
            folder.path.mkdir(mode=0o700)

        await trio.to_thread.run_sync(prepare)

    async def put(
        self, folder: AttemptFolder, output: AttemptLog | None, report: FinalReport
    ) -> None:
        """Have the report on disk, after the output and the result that it speaks of.

        Goes through to its end even when it is cancelled, as a thread cannot be stopped half-way.
        Raises OSError where the disk is full.
        """
        document = json.dumps(cattrs.unstructure(report)).encode()
        if output is not None:
            output.seal()

        def write() -> None:
            for needless in (folder.payload, folder.stdin):
                needless.unlink(missing_ok=True)
            if output is not None:
                sync(output.path)
            if report.ending.result_bytes:
                sync(folder.result)
            write_durably(folder.path / _REPORT, document)
            sync(self._root)

        await trio.to_thread.run_sync(write)

    async def put_without_result(self, folder: AttemptFolder, report: FinalReport) -> None:
        """Have this report on disk in place of the one that is there, and no result any more.

        Goes through to its end even when it is cancelled. Raises OSError where the disk will not.
        """
        document = json.dumps(cattrs.unstructure(report)).encode()

        def write() -> None:
            write_durably(folder.path / _REPORT, document)
            folder.result.unlink(missing_ok=True)

        await trio.to_thread.run_sync(write)

    async def drop(self, folder: AttemptFolder) -> None:
        """Forget the attempt: the master has everything, or wants nothing.

        The report goes first, so that what a crash leaves of the folder reports nothing.
        """

        def remove() -> None:
            (folder.path / _REPORT).unlink(missing_ok=True)
            shutil.rmtree(folder.path, ignore_errors=True)

        await trio.to_thread.run_sync(remove)

    def read(self, folder: AttemptFolder) -> FinalReport | None:
        """The report that was put there; None where the attempt never ended. Blocks.

        Raises BadReportFile for what ``put`` cannot have written.
        """
        try:
            document = (folder.path / _REPORT).read_bytes()
        except FileNotFoundError:
            return None
        try:
            report = cattrs.structure(json.loads(document), FinalReport)
        except Exception as error:
            raise BadReportFile(f"{folder.path / _REPORT} cannot be read: {error}") from error
        if report.ref != folder.ref:
            raise BadReportFile(f"{folder.path / _REPORT} speaks of another attempt")
        return report

    def folders(self) -> list[Path]:
        """Everything below the root; blocks."""
        return sorted(self._root.iterdir())
