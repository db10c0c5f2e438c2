"""Faults as one line on standard error and an exit status. No traceback ever reaches a user."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from hivemind.client.errors import ClientError
from hivemind.core.wording import one_line

_MOST_CHARACTERS = 2000


class CommandFailed(Exception):
    """A command cannot do what it was told; the text is one line for people."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        """The exit status, where it is not the command's usual one for faults."""


def unwritable(stream: str, error: OSError) -> CommandFailed:
    """What to raise where ``stream`` of this process takes no more, but for a reader that left."""
    return CommandFailed(
        f"{stream} cannot be written: {error.strerror}; make room, or send it elsewhere"
    )


def told_of(task_id: str, error: Exception) -> str:
    """What ``error`` says, with the task that it is about, for a command that was given several."""
    text = str(error)
    return text if task_id in text else f"{task_id}: {text}"


def complain(text: str) -> None:
    """One line on standard error. A reader of it that has gone away is nobody's concern."""
    line = one_line(text, most=_MOST_CHARACTERS)
    try:
        sys.stderr.write(f"hivemind: {line}\n")
        sys.stderr.flush()
    except OSError:
        return


def status_of(run: Callable[[], Any], failure_status: int) -> int:
    """How a command went: what ``run`` returns (None is 0), or what its fault comes to.

    The one place where exception groups are unwrapped: the fault that a nursery wraps is told like
    a bare one. Usage errors and interrupts pass, bare. A pipe that nobody reads any more ends the
    process.
    """
    try:
        status = run()
    except (Exception, BaseExceptionGroup) as raised:
        error = _only(raised)
        if isinstance(error, BrokenPipeError):
            die_of_broken_pipe()
        if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
            raise error from None
        if not isinstance(error, Exception):
            raise error from None
        return _told(error, failure_status)
    return status if isinstance(status, int) else 0


def _told(error: Exception, failure_status: int) -> int:
    if isinstance(error, CommandFailed):
        complain(str(error))
        return failure_status if error.status is None else error.status
    if isinstance(error, ClientError):
        complain(str(error))
        return failure_status
    if isinstance(error, UnicodeEncodeError):
        # Bytes that are no UTF-8 reach Python as lone surrogates, which no message can carry.
        complain(f"{error.object!a} is not UTF-8; write it in UTF-8")
        return failure_status
    _tell_unforeseen(error)
    return failure_status


def _tell_unforeseen(error: Exception) -> None:
    fault_id = os.urandom(4).hex()
    if os.environ.get("HIVEMIND_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
        complain(f"unforeseen fault {fault_id}: {type(error).__name__}: {error}")
    else:
        complain(
            f"unforeseen fault {fault_id}: {type(error).__name__}: {error}; "
            "HIVEMIND_DEBUG=1 shows where it happened"
        )


def _only(error: BaseException) -> BaseException:
    """The one exception that a group holds, however deep; else the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def die_of_broken_pipe() -> NoReturn:
    """End by SIGPIPE, as a program does that writes to a pipe nobody reads; shells show 141."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # where the signal is blocked
