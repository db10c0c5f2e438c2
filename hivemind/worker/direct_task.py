"""One direct task: what it is, how it is started, and what is told of it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

from hivemind.core.admission import AdmissionError, Ask, admit, check_form
from hivemind.core.direct import (
    MOST_OUTPUT_BYTES,
    MOST_OUTPUT_LINES,
    DirectKind,
    DirectStatus,
    DirectTask,
)
from hivemind.core.entry import SNIFF_BYTES, PayloadForm, payload_kind
from hivemind.core.inline_metadata import SCRIPT_BYTES, FileSettings, read_script
from hivemind.core.lines import LineMerger
from hivemind.core.messages import AttemptRef
from hivemind.core.parameters import read_parameters
from hivemind.core.policy import PoolRules, Profile
from hivemind.core.records import Ending, Outcome, PayloadKind, Role, TaskSpec
from hivemind.worker.attempt_log import AttemptLog
from hivemind.worker.execution import Execution
from hivemind.worker.held import HeldAttempt

_PIECE_BYTES = 1024 * 1024
_STATUSES = {
    Outcome.SUCCEEDED: "COMPLETED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMED_OUT: "FAILED",
    Outcome.STOPPED: "STOPPED",
}
_INTERPRETERS: Mapping[tuple[DirectKind, bool], tuple[str, ...]] = {
    (DirectKind.PYTHON, True): ("python3",),
    (DirectKind.SHELL, False): ("sh",),
}
"""By what the caller says, and whether the first line names an interpreter, who runs a script; who
is not here is told by its first line, and is Python without one."""


@attrs.frozen(kw_only=True)
class Program:
    """What a caller sent, looked at."""

    digest: bytes
    """Of all that would make it another task."""
    size: int
    form: PayloadForm
    settings: FileSettings
    """What a script asks for itself."""


@attrs.frozen
class Guest:
    """A caller as policies look at it."""

    name: str
    role: Role


@attrs.define(eq=False, kw_only=True)
class Direct:
    """One task, from its acceptance until it is dropped."""

    task_id: str
    account: str
    digest: bytes
    held: HeldAttempt
    execution: Execution
    upload: Path
    """Where its bytes are until it begins."""
    ending: Ending | None = None
    file_bytes: int = 0
    """What it takes of the disk, once it has ended."""
    ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def status(self) -> str:
        """The word for where it stands."""
        if self.ending is not None:
            return _STATUSES.get(self.ending.outcome, "FAILED")
        return "RUNNING" if self.held.started else "PENDING"

    def shown(self, output: tuple[str, ...] = (), left_out: str = "") -> DirectStatus:
        """What is told of it."""
        ending = self.ending
        if ending is None:
            return DirectStatus(status=self.status, detail=left_out, output=output)
        return DirectStatus(
            status=self.status,
            detail="; ".join(part for part in (ending.detail, left_out) if part),
            output=output,
            exit_code=-1 if ending.exit_code is None else ending.exit_code,
        )


@attrs.frozen
class Uploaded:
    """The inputs of a direct task: a file that is here already."""

    path: Path

    async def fetch(self, ref: AttemptRef, *, stdin: bool, size: int, into: Path) -> None:
        """See ``execution.Inputs``; there is no standard input."""
        await trio.to_thread.run_sync(self.path.rename, into)


def look_at(path: Path, task: DirectTask) -> Program:
    """What is in the file; blocks.

    Raises:
        EntryError: it cannot be run.
        NotAsSaid: it is not what the caller says that it is.
        MetadataError: what it asks for itself cannot be read.
    """
    digest = hashlib.sha256()
    for text in (task.kind, *(text for pair in sorted(task.parameters.items()) for text in pair)):
        digest.update(b"%d:" % len(text.encode(errors="replace")))
        digest.update(text.encode(errors="replace"))
    head = b""
    size = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            head = head or piece[:SNIFF_BYTES]
            size += len(piece)
            digest.update(piece)
    form = payload_kind(head)
    if (task.kind is DirectKind.ARCHIVE) is not (form.kind is PayloadKind.ARCHIVE):
        if task.kind is DirectKind.ARCHIVE:
            raise NotAsSaid("this was sent as an archive and is none: send a zip or a tar")
        if task.kind is not DirectKind.ANY:
            raise NotAsSaid(f"this was sent as {task.kind} and is an archive: say archive")
    settings = FileSettings()
    if form.kind is PayloadKind.SCRIPT:
        with path.open("rb") as file:
            settings = read_script(file.read(SCRIPT_BYTES).decode(errors="replace"))
    return Program(digest=digest.digest(), size=size, form=form, settings=settings)


class NotAsSaid(AdmissionError):
    """The bytes are not what the caller says that they are."""


def interpreter_of(kind: DirectKind, form: PayloadForm) -> tuple[str, ...]:
    """What runs the script; nothing where its own first line, or Python, does."""
    return _INTERPRETERS.get((kind, form is PayloadForm.HASHBANG), ())


def spec_for(task: DirectTask, program: Program, profile: Profile, guest: Guest) -> TaskSpec:
    """What the task gets: what it asks for itself, and the policy's defaults for the rest.

    Raises PolicyRefused, MalformedSpec and BadParameter.
    """
    given = read_parameters(task.parameters)
    wishes = attrs.asdict(program.settings, recurse=False)
    ask = Ask(**{name: wishes[name] for name in attrs.fields_dict(Ask) if name in wishes})
    admitted = admit(ask, profile, guest, PoolRules())
    runs_itself = program.form is PayloadForm.HASHBANG and task.kind is not DirectKind.PYTHON
    is_shells = runs_itself or task.kind is DirectKind.SHELL
    spec = TaskSpec(
        kind=program.form.kind,
        filename="main" if is_shells else "main.py",
        argv=given.argv,
        env={**admitted.env, **program.settings.env, **given.env},
        policy=admitted.policy,
        requirements=admitted.requirements,
        wall_s=admitted.wall_s,
        cpu_s=admitted.cpu_s,
        pids=admitted.pids,
        output_bytes=admitted.output_bytes,
        result_bytes=admitted.result_bytes,
        confinement=admitted.confinement,
    )
    check_form(spec)
    return spec


async def last_lines(log: AttemptLog | None) -> tuple[tuple[str, ...], str]:
    """The end of what was printed, in lines, and what to say of the rest.

    Raises OSError where the log is gone.
    """
    if log is None:
        return (), ""
    size = log.size
    cursor = log.seek(max(0, size - MOST_OUTPUT_BYTES))
    merger = LineMerger()
    while cursor.offset < size:
        chunks, cursor = log.read(cursor, size - cursor.offset)
        for chunk in chunks:
            merger.add(chunk.stream, chunk.data)
        # A task that prints byte by byte makes many small reads of one: others go in between.
        await trio.lowlevel.checkpoint()
    lines = merger.finish()
    cut = max(0, len(lines) - MOST_OUTPUT_LINES)
    if size <= MOST_OUTPUT_BYTES and not cut:
        return lines, ""
    kept = lines[cut:]
    return kept, f"of {size} bytes of output these are the last {len(kept)} lines"
