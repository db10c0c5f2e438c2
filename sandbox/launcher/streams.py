"""Standard streams as the interpreter makes them, made ahead."""

from __future__ import annotations

import _io
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Streams:
    """The standard streams, made ahead for pipes, which is what they nearly always are."""

    def __init__(self) -> None:
        self._old: tuple[Any, ...] = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        kept = [(number, os.dup(number)) for number in range(3) if _is_open(number)]
        reader, writer = os.pipe()
        try:
            for number, end in enumerate((reader, writer, writer)):
                os.dup2(end, number)
            self._pipes = [self._open(number, False) for number in range(3)]
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            self._null = self._open(0, False)
            self._null_device = os.fstat(0).st_rdev
        finally:
            for number in range(3):
                os.close(number)
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            os.close(reader)
            os.close(writer)

    def take(self, unbuffered: bool) -> list[Any]:
        """The streams of this start; no other reference to them is kept.

        They must end with sys, for what a finaliser printed is flushed by their own end.
        """
        streams = [self._take(number, unbuffered) for number in range(3)]
        self._pipes.clear()
        self._null = None
        return streams

    def _take(self, number: int, unbuffered: bool) -> Any:  # noqa: ANN401
        try:
            status = os.fstat(number)
        except OSError:
            return None
        if not unbuffered and stat.S_ISFIFO(status.st_mode):
            return self._pipes[number]
        if not unbuffered and number == 0 and status.st_rdev == self._null_device:
            return self._null
        return self._open(number, unbuffered)

    def _open(self, number: int, unbuffered: bool) -> Any:  # noqa: ANN401
        """A standard stream as the interpreter makes it (`create_stdio` in pylifecycle.c)."""
        mode = "rww"[number]
        buffering = 0 if unbuffered and mode == "w" else -1
        buffer: Any = _io.open(number, mode + "b", buffering, closefd=False)
        raw = getattr(buffer, "raw", buffer)
        raw.name = ("<stdin>", "<stdout>", "<stderr>")[number]
        stream: Any = _io.TextIOWrapper(
            buffer,
            encoding=self._old[number].encoding,
            errors=self._old[number].errors,
            newline="\n",
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=unbuffered,
        )
        stream.mode = mode
        return stream


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
