"""From a task's spec to what the sandbox is asked to run. Pure: nothing is read or made."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import attrs

import sandbox
from hivemind.core.admission import working_folder_bytes
from hivemind.core.confinement import Reuse
from hivemind.core.messages import AttemptRef
from hivemind.core.outputs import OUTPUT_FOLDER
from hivemind.core.policy import HOST_ROOT, Profile
from hivemind.core.records import TaskSpec
from hivemind.worker.errors import WorkerError

_SCRIPT_NAME = "script"


@attrs.frozen(kw_only=True)
class Order:
    """What the master wants run, and this machine's own policy for it, which it fits."""

    spec: TaskSpec
    ref: AttemptRef
    account: str
    profile: Profile
    known_as: str = ""
    """What whoever started it calls the task, where that is not the id of ``ref``."""


class BadPayload(WorkerError):
    """The task's own bytes cannot be run as what they are said to be."""


def build_command(order: Order, *, argv: tuple[str, ...], stdin: Path | None) -> sandbox.Spec:
    """A command of the task's own choosing. Raises sandbox.BadSpec where it cannot be run."""
    return _build(order, argv=argv, stdin=stdin)


def build_script(
    order: Order,
    *,
    payload: Path,
    head: bytes,
    stdin: Path | None,
    interpreter: tuple[str, ...] = (),
) -> sandbox.Spec:
    """A single file: run by ``interpreter`` if there is one, else by itself where its ``head`` is
    ``#!``, else by Python.

    Raises BadPayload for a name that the task's folder has taken, and sandbox.BadSpec.
    """
    name = order.spec.filename or _SCRIPT_NAME
    if name == OUTPUT_FOLDER:
        raise BadPayload(
            f"a script cannot be called {OUTPUT_FOLDER}: that is the folder for results; rename it"
        )
    is_executable = head.startswith(b"#!")
    staged = sandbox.StagedFile(source=payload, name=name, mode=0o755 if is_executable else 0o644)
    start: tuple[str, ...]
    if is_executable and not interpreter:
        start = (f"./{name}",)
    else:
        # An interpreter would take a name that begins with a dash for options of its own.
        file = f"./{name}" if name.startswith("-") else name
        start = (*(interpreter or ("python3",)), file)
    return _build(order, argv=(*start, *order.spec.argv), stdin=stdin, files=(staged,))


def build_archive(
    order: Order, *, payload: Path, entry: tuple[str, ...], stdin: Path | None
) -> sandbox.Spec:
    """An archive that is unpacked, and the command in it that is its entry."""
    archive = sandbox.Archive(source=payload, max_bytes=working_folder_bytes(order.spec))
    return _build(order, argv=(*entry, *order.spec.argv), stdin=stdin, archive=archive)


def _build(
    order: Order,
    *,
    argv: tuple[str, ...],
    stdin: Path | None,
    files: tuple[sandbox.StagedFile, ...] = (),
    archive: sandbox.Archive | None = None,
) -> sandbox.Spec:
    spec, profile = order.spec, order.profile
    tenant = tenant_of(order)
    # Without reuse, a sandbox that was made ahead still may be this task's first and last.
    alone = _account_and_policy(order) if tenant is None and profile.parked else None
    return sandbox.Spec(
        argv=argv,
        env=_environment(order),
        limits=_limits(spec),
        files=files,
        archive=archive,
        stdin=stdin,
        binds=tuple(
            sandbox.ReadOnlyBind(source=Path(mount.source), target=PurePosixPath(mount.target))
            for mount in profile.mounts
        ),
        network=spec.confinement.network.value,
        seccomp=spec.confinement.seccomp.value,
        root=None if profile.root == HOST_ROOT else Path(profile.root),
        tenant=tenant or alone,
        reuse=tenant is not None,
        warm_python=spec.confinement.warm_python and profile.warm_python,
        output_dir=OUTPUT_FOLDER,
        outputs=spec.outputs,
    )


def tenant_of(order: Order) -> str | None:
    """Whose run it is to the sandbox, which keeps one for each tenant; None where it keeps none.

    The stricter of the task's and the machine's reuse counts. Tasks of two accounts, policies or
    jobs never have the same tenant: each part is quoted, so that none can look like two. A task
    without a name is a job by its id, which its retries share.
    """
    spec, own = order.spec, order.profile.reuse
    reuse = spec.confinement.reuse if spec.confinement.reuse.is_within(own) else own
    if reuse is Reuse.NEVER:
        return None
    whose = _account_and_policy(order)
    if reuse is Reuse.ACCOUNT:
        return whose
    job = f"name={_quoted(spec.name)}" if spec.name else f"task={_quoted(order.ref.task_id)}"
    return f"{whose}/{job}"


def _account_and_policy(order: Order) -> str:
    return f"{_quoted(order.account)}/{_quoted(order.spec.policy)}"


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _environment(order: Order) -> Mapping[str, str]:
    """The machine's variables, over them the task's, over them ours.

    Python would keep what it prints to a pipe until it has 8 KiB, and nobody could follow a task.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        **order.profile.env,
        **order.spec.env,
        "HIVEMIND_TASK_ID": order.known_as or order.ref.task_id,
        "HIVEMIND_ATTEMPT": str(order.ref.attempt),
        "HIVEMIND_OUTPUT": f"/task/{OUTPUT_FOLDER}",
    }


def _limits(spec: TaskSpec) -> sandbox.Limits:
    """Memory and the three folders together are what was reserved."""
    confinement = spec.confinement
    folder_bytes = working_folder_bytes(spec)
    most_file_bytes = max(folder_bytes, confinement.tmp_bytes, confinement.shm_bytes)
    return sandbox.Limits(
        memory_bytes=spec.requirements.memory_bytes,
        scratch_bytes=folder_bytes,
        scratch_inodes=confinement.scratch_inodes,
        tmp_bytes=confinement.tmp_bytes,
        tmp_inodes=confinement.tmp_inodes,
        shm_bytes=confinement.shm_bytes,
        shm_inodes=confinement.shm_inodes,
        pids=spec.pids,
        cpus=spec.requirements.cpu_millis / 1000,
        wall_s=spec.wall_s,
        cpu_s=spec.cpu_s,
        output_bytes=spec.output_bytes,
        file_bytes=min(confinement.file_bytes, most_file_bytes),
        open_files=confinement.open_files,
    )
