"""From a task's spec to what the sandbox is asked to run. Pure: nothing is read or made."""

from collections.abc import Mapping
from pathlib import Path

import sandbox
from hivemind.core.messages import AttemptRef
from hivemind.core.outputs import OUTPUT_FOLDER
from hivemind.core.records import TaskSpec
from hivemind.worker.errors import WorkerError

_SCRIPT_NAME = "script"
_LEAST_QUOTA_BYTES = 64 * 1024
_SMALL_TMPFS_BYTES = 64 * 1024 * 1024


class BadPayload(WorkerError):
    """The task's own bytes cannot be run as what they are said to be."""


def build_command(
    spec: TaskSpec, ref: AttemptRef, *, argv: tuple[str, ...], stdin: Path | None
) -> sandbox.Spec:
    """A command of the task's own choosing. Raises sandbox.BadSpec where it cannot be run."""
    return _build(spec, ref, argv=argv, stdin=stdin)


def build_script(
    spec: TaskSpec, ref: AttemptRef, *, payload: Path, head: bytes, stdin: Path | None
) -> sandbox.Spec:
    """A single file: an executable where its ``head`` is ``#!``, else Python.

    Raises BadPayload for a name that the task's folder has taken, and sandbox.BadSpec.
    """
    name = spec.filename or _SCRIPT_NAME
    if name == OUTPUT_FOLDER:
        raise BadPayload(
            f"a script cannot be called {OUTPUT_FOLDER}: that is the folder for results; rename it"
        )
    is_executable = head.startswith(b"#!")
    staged = sandbox.StagedFile(source=payload, name=name, mode=0o755 if is_executable else 0o644)
    start: tuple[str, ...]
    if is_executable:
        start = (f"./{name}",)
    else:
        # Python would take a name that begins with a dash for options of its own.
        start = ("python3", f"./{name}" if name.startswith("-") else name)
    return _build(spec, ref, argv=(*start, *spec.argv), stdin=stdin, files=(staged,))


def build_archive(
    spec: TaskSpec, ref: AttemptRef, *, payload: Path, entry: tuple[str, ...], stdin: Path | None
) -> sandbox.Spec:
    """An archive that is unpacked, and the command in it that is its entry."""
    archive = sandbox.Archive(source=payload, max_bytes=max(1, _quotas(spec)["scratch_bytes"]))
    return _build(spec, ref, argv=(*entry, *spec.argv), stdin=stdin, archive=archive)


def _build(
    spec: TaskSpec,
    ref: AttemptRef,
    *,
    argv: tuple[str, ...],
    stdin: Path | None,
    files: tuple[sandbox.StagedFile, ...] = (),
    archive: sandbox.Archive | None = None,
) -> sandbox.Spec:
    return sandbox.Spec(
        argv=argv,
        env=_environment(spec, ref),
        limits=_limits(spec),
        files=files,
        archive=archive,
        stdin=stdin,
        output_dir=OUTPUT_FOLDER,
        outputs=spec.outputs,
    )


def _environment(spec: TaskSpec, ref: AttemptRef) -> Mapping[str, str]:
    """The task's variables and ours, which it cannot override.

    Python would keep what it prints to a pipe until it has 8 KiB, and nobody could follow a task.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        **spec.env,
        "HIVEMIND_TASK_ID": ref.task_id,
        "HIVEMIND_ATTEMPT": str(ref.attempt),
        "HIVEMIND_OUTPUT": f"/task/{OUTPUT_FOLDER}",
    }


def _limits(spec: TaskSpec) -> sandbox.Limits:
    quotas = _quotas(spec)
    return sandbox.Limits(
        memory_bytes=spec.requirements.memory_bytes,
        pids=spec.pids,
        cpus=spec.requirements.cpu_millis / 1000,
        wall_s=spec.wall_s,
        cpu_s=spec.cpu_s,
        output_bytes=spec.output_bytes,
        file_bytes=max(quotas.values()),
        **quotas,
    )


def _quotas(spec: TaskSpec) -> dict[str, int]:
    """The scratch space shared out, so that all of it together is what was reserved.

    /tmp and /dev/shm get an eighth each, up to 64 MiB; the working folder gets the rest.
    """
    scratch = spec.requirements.scratch_bytes
    small = max(_LEAST_QUOTA_BYTES, min(_SMALL_TMPFS_BYTES, scratch // 8))
    return {
        "scratch_bytes": max(_LEAST_QUOTA_BYTES, scratch - 2 * small),
        "tmp_bytes": small,
        "shm_bytes": small,
    }
