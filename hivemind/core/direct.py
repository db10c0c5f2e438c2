"""What a worker and those who call it directly say to each other, as records."""

import enum
from collections.abc import Mapping

import attrs

MOST_OUTPUT_BYTES = 1024 * 1024
MOST_OUTPUT_LINES = 10_000
"""How much of a task's output, its end, rides in one answer about its status."""


class DirectKind(enum.StrEnum):
    """What a caller says that its task is."""

    ANY = "any"
    """It does not say: the bytes tell."""
    PYTHON = "python"
    SHELL = "shell"
    """A script for the shell, or one that names another interpreter in its first line."""
    ARCHIVE = "archive"


SUPPORTED_KINDS = (DirectKind.PYTHON, DirectKind.SHELL, DirectKind.ARCHIVE)


@attrs.frozen(kw_only=True)
class DirectTask:
    """What a caller wants run; its bytes come beside it."""

    task_id: str
    """The caller's own choice."""
    kind: DirectKind = DirectKind.ANY
    parameters: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class DirectStatus:
    """How a direct task is doing."""

    status: str
    """PENDING, RUNNING, COMPLETED, FAILED or STOPPED."""
    detail: str = ""
    """One line for people: why it ended as it did, and what of its output is left out."""
    output: tuple[str, ...] = ()
    """The lines of both its streams, in the order in which they came."""
    exit_code: int = 0
    """As a shell has it; 0 while it has not ended, and -1 where it ended without one."""


@attrs.frozen(kw_only=True)
class SystemInfo:
    """What a worker offers, and how busy its machine is."""

    hostname: str
    version: str
    cpu_millis: int
    memory_bytes: int
    gpus: int
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    network_mbps: float
    """Megabits a second, in and out, over all interfaces but loopback."""
