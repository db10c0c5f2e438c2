"""What a pushed node reports of an attempt's output, or of its logs, in the order of its arrival.

Beside the log lies a mark: the highest sequence number that was taken, and how long the log was
then. It is written after the log, before the report is acknowledged. So after a crash the log is
cut to what was acknowledged, and a repeat of the rest is taken as new.
"""

import os
from pathlib import Path

import trio

from hivemind.core.records import OutputChunk, OutputStream
from hivemind.master.output import MARK, OutputFolder, OutputLog, mark_of, read_mark

_WRITE_S = 30.0


class ReportedLog:
    """One attempt's log of one kind; nobody else may append to it."""

    def __init__(self, folder: OutputFolder, task_id: str, attempt: int, kind: str) -> None:
        self._folder = folder
        self._task_id = task_id
        self._attempt = attempt
        self._kind = kind
        self._path = folder.path(task_id, attempt, kind)
        self._lock = trio.Lock()
        self._log: OutputLog | None = None
        self._sequence = 0

    async def add(self, data: bytes, at: float, sequence: int, *, most_bytes: int) -> bool:
        """Append ``data``. False: a number as high was taken before, and nothing was added.

        Args:
            data: any amount.
            at: when, in seconds since the epoch.
            sequence: 0 for a report without a number.
            most_bytes: of the whole log.

        Raises:
            OutputTooLarge: it would have more; nothing was added.
            OSError: the disk would not take it.
        """
        async with self._lock:
            log = await self._opened()
            if sequence and sequence <= self._sequence:
                return False
            chunk = OutputChunk(stream=OutputStream.STDOUT, offset=log.size, data=data, at=at)
            # Not to be cancelled between the log and its mark: a repeat would be added again.
            with trio.move_on_after(_WRITE_S, shield=True):
                await log.append([chunk], most_bytes=most_bytes)
                self._sequence = max(self._sequence, sequence)
                await self._write_mark(log)
            return True

    async def sync(self) -> None:
        """Have everything so far on disk."""
        async with self._lock:
            await (await self._opened()).sync()

    async def _opened(self) -> OutputLog:
        if self._log is None:
            log = await self._folder.log(self._task_id, self._attempt, self._kind)
            mark = await trio.to_thread.run_sync(read_mark, self._path)
            if mark is None:
                # Before the log, so that what it holds never counts without it.
                await self._write_mark(log)
            else:
                self._sequence = mark[0]
            self._log = log
        return self._log

    async def _write_mark(self, log: OutputLog) -> None:
        mark = MARK.pack(self._sequence, log.size, log.file_bytes)
        await trio.to_thread.run_sync(_write, mark_of(self._path), mark)


def _write(path: Path, mark: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, mark, 0)
    finally:
        os.close(descriptor)
