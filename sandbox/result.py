"""What a run yields: chunks of output while it lasts, and how it ended."""

from __future__ import annotations

import enum

import attrs


class Reason(enum.StrEnum):
    """Why a run ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    CPU_TIME_LIMIT = "cpu_time_limit"
    OUTPUT_LIMIT = "output_limit"
    STOPPED = "stopped"


class Start(enum.StrEnum):
    """How a run was started.

    `COLD` in a sandbox made for it alone; `CELL` in a cell of its tenant's; `WARM` there too, as a
    fork of the cell's warm interpreter.
    """

    COLD = "cold"
    CELL = "cell"
    WARM = "warm"


class Stream(enum.Enum):
    """Where a chunk of output was written to."""

    STDOUT = "stdout"
    STDERR = "stderr"


@attrs.frozen
class Chunk:
    """Some bytes of output, at most 64 KiB, as they were read.

    Attributes:
        at: when they were read, in seconds since the epoch.
    """

    stream: Stream
    data: bytes
    at: float


@attrs.frozen(kw_only=True)
class Usage:
    """What a run used.

    Attributes:
        wall_s: from the moment its process was made until nothing of it was left.
        cpu_s: user and system time of all its processes together; without a cgroup what the
            watchdog last saw of it, some tenths of a second before the end.
        memory_peak_bytes: with a cgroup the peak of its charge, its tmpfs files included; without
            one the largest sum that the watchdog saw.
    """

    wall_s: float
    cpu_s: float
    memory_peak_bytes: int


@attrs.frozen(kw_only=True)
class Result:
    """How a run ended.

    Attributes:
        exit_code: what a shell would report: the program's own status, 128+n for signal n, 127 or
            126 for a command that is missing or not executable; 124 for a time limit, 137 for
            memory and output limits, 143 when stopped.
        signal: the signal that ended the program. It is told as shells tell it, so that a program
            which exits with 128+n by itself reads as ended by signal n.
    """

    reason: Reason
    exit_code: int
    signal: int | None
    usage: Usage


@attrs.frozen(kw_only=True)
class Collected:
    """What `Run.collect` wrote.

    Attributes:
        files: how many regular files.
        bytes: their sizes together.
        skipped: up to 100 names that were left out: links, pipes, sockets, devices, names that are
            not UTF-8 or hold control characters, folders nested too deep.
    """

    files: int
    bytes: int
    skipped: tuple[str, ...]


@attrs.frozen(kw_only=True)
class CompletedRun:
    """A run that is over, with all that it wrote."""

    result: Result
    stdout: bytes
    stderr: bytes
