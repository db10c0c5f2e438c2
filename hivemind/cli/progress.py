"""What a person at a terminal sees while nothing else is said: one line that is rewritten."""

import os
import sys

from hivemind.core.records import Task, TaskState
from hivemind.core.sizes import show_size
from hivemind.core.wording import one_line

_CLEAR = "\r\x1b[2K"


class Progress:
    """The line; silent where standard error is not a terminal.

    ``clear`` takes it away before anything else is written, so it never mixes with a task's output.
    """

    def __init__(self) -> None:
        """It `is_shown` to somebody who looks at a terminal."""
        self.is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._line = ""

    def sent(self, sent: int, total: int) -> None:
        """So much of an upload has left."""
        if total > 1 << 20:
            self._show(f"sending {show_size(sent)} of {show_size(total)}")

    def task(self, task: Task) -> None:
        """The task is where it is now."""
        if task.stop_requested:
            self._show(f"{task.id}: stopping")
        elif task.state is TaskState.RUNNING:
            again = f", attempt {task.attempt}" if task.attempt > 1 else ""
            self._show(f"{task.id}: running on {task.node_id}{again}")
        elif not task.state.is_end:
            self._show(f"{task.id}: {task.state.value}")

    def waiting(self, task_id: str, headline: str) -> None:
        """Why the task still waits."""
        self._show(f"{task_id}: {headline}")

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.is_shown:
            self.clear()
            self._write(f"{one_line(text)}\n")

    def clear(self) -> None:
        """Take the line away."""
        if self._line:
            self._line = ""
            self._write(_CLEAR)

    def _show(self, text: str) -> None:
        width = self._columns() - 1
        line = one_line(text, most=max(10, width))
        if self.is_shown and line != self._line:
            self._line = line
            self._write(f"{_CLEAR}{line}")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(2).columns or 80
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self.is_shown = False
