"""A task's output as raw bytes on this process's own streams."""

import os
import select
import stat

import attrs
import trio

from hivemind.cli.faults import complain, unwritable
from hivemind.core.messages import AttemptOutput
from hivemind.core.records import OutputStream

STDOUT_FD = 1
STDERR_FD = 2
_NAMES = {STDOUT_FD: "standard output", STDERR_FD: "standard error"}
_FDS = {OutputStream.STDOUT: STDOUT_FD, OutputStream.STDERR: STDERR_FD}


@attrs.define(eq=False)
class OutputWriter:
    """Writes each piece whole before the next, so that the streams keep their order.

    Where a new attempt's output follows that of an earlier one, which nothing can take back, a line
    on standard error says so.
    """

    _is_file: dict[int, bool]
    _attempt: int = 0

    async def write(self, output: AttemptOutput) -> None:
        """Hand one piece to the system.

        A reader that is slow makes this wait without holding up signals or the connection, so it
        may be cancelled in the middle of a piece.

        Raises:
            BrokenPipeError: the reader has gone away.
            CommandFailed: the stream takes no more, as on a full disk.
        """
        if self._attempt not in {0, output.attempt}:
            complain(
                f"attempt {self._attempt} is over, and the task is run again:"
                f" the output of attempt {output.attempt} follows, from its beginning"
            )
        self._attempt = output.attempt
        descriptor = _FDS[output.chunk.stream]
        try:
            if self._is_file[descriptor]:
                _write_all(descriptor, output.chunk.data)
            else:
                await trio.to_thread.run_sync(
                    _write_all, descriptor, output.chunk.data, abandon_on_cancel=True
                )
        except BrokenPipeError:
            raise
        except OSError as error:
            raise unwritable(_NAMES[descriptor], error) from error


def output_writer() -> OutputWriter:
    """A writer for what standard output and standard error are now."""
    return OutputWriter({descriptor: _is_regular(descriptor) for descriptor in _FDS.values()})


def _is_regular(descriptor: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # Whoever started this shares the pipe with us and has made it non-blocking.
            select.select([], [descriptor], [])
