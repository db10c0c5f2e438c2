"""Workers that tests start: in the test's own process, or as a process that can be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from hivemind.core.confinement import Confinement
from hivemind.core.records import PayloadKind, Requirements, TaskSpec
from hivemind.settings.daemon import WorkerConfig
from hivemind.worker.app import Worker, open_worker
from tests.pool import LIMITS
from tests.worker.recording_master import PATIENCE_S, RecordingMaster

MIB = 1024 * 1024
REPOSITORY = Path(__file__).parents[2]


def make_config(master: RecordingMaster, home: Path, **changes: Any) -> WorkerConfig:
    given: dict[str, Any] = {
        "join_token": "join-me",
        "slots": 2,
        "limits": LIMITS,
        **changes,
    }
    return WorkerConfig(home=home, master=(master.host, master.port), **given)


def running(
    master: RecordingMaster, home: Path, **changes: Any
) -> AbstractAsyncContextManager[Worker]:
    return open_worker(make_config(master, home, **changes))


def script(text: str = "", **changes: Any) -> tuple[TaskSpec, bytes]:
    """A Python task that may use a little."""
    return spec(PayloadKind.SCRIPT, filename="task.py", **changes), text.encode()


def spec(kind: PayloadKind, **changes: Any) -> TaskSpec:
    given: dict[str, Any] = {
        "requirements": Requirements(memory_bytes=128 * MIB, scratch_bytes=64 * MIB),
        "confinement": confined(),
        "wall_s": 60.0,
        **changes,
    }
    return TaskSpec(kind=kind, **given)


def confined(**changes: Any) -> Confinement:
    """As little of /tmp and /dev/shm as such a task's scratch space has room for."""
    return Confinement(**{"tmp_bytes": 4 * MIB, "shm_bytes": 4 * MIB, **changes})


def shell(text: str, **changes: Any) -> TaskSpec:
    """A command that the shell runs."""
    return spec(PayloadKind.COMMAND, argv=("sh", "-c", text), **changes)


def lasting(marker: str) -> str:
    """A command that lasts, and whose processes can be told by the marker."""
    return f"sh -c 'sleep 600; :' {marker}"


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process

    def kill(self) -> None:
        """As the kernel does when it runs out of memory."""
        self.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def worker_process(home: Path, master: RecordingMaster) -> AsyncIterator[WorkerProcess]:
    """Started, but perhaps not yet connected; killed at the end if it is still there."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.worker.worker_process", str(home), master.address],
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    try:
        yield WorkerProcess(process)
    finally:
        process.kill()
        with trio.move_on_after(PATIENCE_S, shield=True):
            await process.wait()


def processes_with(marker: str) -> list[int]:
    """Everything on this machine whose command line has the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


async def gone(pid: int) -> None:
    """Wait until the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
