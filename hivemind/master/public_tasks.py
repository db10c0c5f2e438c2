"""The public API's view of tasks; see ``rpc.contract.public_tasks``."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

import attrs
import trio

from hivemind.core.admission import Ask
from hivemind.core.entry import PayloadForm, payload_kind
from hivemind.core.errors import CoreError
from hivemind.core.ids import check_public_id
from hivemind.core.inline_metadata import (
    FILE_NAME,
    SCRIPT_BYTES,
    FileSettings,
    MetadataError,
    read_file,
    read_script,
)
from hivemind.core.messages import ListQuery, Submission, WatchQuery
from hivemind.core.public_status import describe, public_status
from hivemind.core.records import Blob, PayloadKind, Role, Task, TaskState
from hivemind.master.looking import Looks
from hivemind.master.manifests import read_manifest
from hivemind.master.output import OutputFolder
from hivemind.master.reactor import Reactor
from hivemind.master.reports import LOGS
from hivemind.master.tasks import Tasks
from hivemind.master.transcripts import TAIL_BYTES, Part, tail_of, transcript
from hivemind.master.uploads import Upload, Uploads
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid
from hivemind.rpc.contract.public_tasks import Content, Delivery, Listed, Progress
from hivemind.rpc.errors import ErrorCode
from hivemind.rpc.reply import MOST_REPLY_BYTES, PIECE_BYTES, hold_reply
from hivemind.rpc.spool import SpoolFile
from hivemind.store.blobs import BlobFolder

_IN_MEMORY_BYTES = 64 * 1024
"""A result, or a log, of no more is read once; a larger one a second time, to be sent."""
_POLL_FACTOR = 5
"""What the end of some output takes as lines, in the message and encoded: 1.1 MB of 256 KiB."""
_PAGE = 50
"""Of a listing: encoding one takes some milliseconds, in which nothing else runs."""
_ARCHIVES_AT_ONCE = 2
"""Looking into one keeps a thread, and at worst a processor, busy for some seconds."""
_STOP_S = 3.0
"""How long a stop waits for the end before it answers that it is under way."""


class PublicTasks:
    """See ``PublicTaskHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        tasks: Tasks,
        *,
        uploads: Uploads,
        output: OutputFolder,
        blobs: BlobFolder,
    ) -> None:
        self._reactor = reactor
        self._tasks = tasks
        self._uploads = uploads
        self._output = output
        self._blobs = blobs
        self._looks = Looks(_ARCHIVES_AT_ONCE)

    async def upload(self, caller: Principal, task_id: str, user_id: str, file: SpoolFile) -> str:
        """Take a task; what to tell, once it is on disk. Raises CallRefused."""
        if task_id:
            try:
                check_public_id(task_id)
            except CoreError as error:
                raise invalid(str(error)) from error
        owner = self._owner(caller, user_id)
        async with self._uploads.take(file) as uploaded:
            submission = await self._submission(task_id, uploaded.payload, caller.account)
            submitted = await self._tasks.submit_upload(owner, submission, uploaded)
        shown = task_id or submitted.task_id
        if submitted.repeated:
            return f"task {shown} is known with these bytes; nothing was done twice"
        return f"task {shown} taken{self._confinement(submitted.task_id)}"

    def _confinement(self, task_id: str) -> str:
        """What to add of a task that waits for less than the whole pool, as its CPT want it."""
        task = self._reactor.cluster.tasks.get(task_id)
        owner = "" if task is None else task.requirements.only_account
        nodes = self._reactor.cluster.nodes.values()
        if not owner or all(node.account == owner for node in nodes):
            return ""
        return (
            f"; the CPT of {owner} do not cover it elsewhere, so it is for nodes of {owner} alone"
        )

    async def _submission(self, task_id: str, payload: Upload, account: str) -> Submission:
        """What the bytes ask for, and how they are run; an archive is looked into when it is the
        account's turn. Raises CallRefused.
        """
        try:
            form = payload_kind(payload.head)
            if form.kind is PayloadKind.SCRIPT:
                settings = await self._script_settings(payload, account)
            else:
                settings = await self._archive_settings(payload, account)
        except CoreError as error:
            raise invalid(str(error)) from error
        filename = ""
        if form.kind is PayloadKind.SCRIPT:
            filename = "main.py" if form is PayloadForm.PYTHON else "main"
        return Submission(
            kind=form.kind,
            ask=_ask(settings),
            filename=filename,
            command=settings.command,
            env=settings.env,
            client_id=task_id,
            outputs=settings.outputs,
        )

    async def _script_settings(self, payload: Upload, account: str) -> FileSettings:
        """What a script says in its first `SCRIPT_BYTES`. Raises CoreError."""
        if payload.blob is None or payload.blob.file is None:
            return read_script(payload.head.decode(errors="replace"))
        async with self._looks.turn(account):
            return await trio.to_thread.run_sync(
                _read_long_script, self._blobs.root / payload.blob.file
            )

    async def _archive_settings(self, payload: Upload, account: str) -> FileSettings:
        """What an archive's own file says. Raises CoreError."""
        blob = payload.blob
        if blob is None:
            return FileSettings()
        source = blob.inline
        async with self._looks.turn(account):
            found = await trio.to_thread.run_sync(
                read_manifest,
                source if source is not None else self._blobs.root / (blob.file or ""),
            )
        if found is None:
            return FileSettings()
        try:
            return read_file(found.decode())
        except UnicodeDecodeError as error:
            raise MetadataError(f"{FILE_NAME} is not UTF-8; save it as UTF-8") from error

    def _owner(self, caller: Principal, user_id: str) -> str:
        """The account that the task is to be of."""
        if user_id in {"", caller.account}:
            return caller.account
        if caller.role != Role.ADMIN:
            raise denied(
                f"user_id {user_id[:64]!a} is not yours; leave it empty or give {caller.account!r}",
                ErrorCode.USER_NOT_FOUND,
            )
        if user_id not in self._reactor.cluster.accounts:
            raise NamedFault(
                ErrorCode.USER_NOT_FOUND,
                f"no account {user_id[:64]!a} is in this pool; check its name",
            )
        return user_id

    async def poll(self, caller: Principal, task_id: str) -> Progress:
        """The task now, and the end of its output. Raises CallRefused."""
        task = await self._tasks.find(caller, task_id)
        text = describe(task)
        if not task.attempt:
            return Progress(task=task, text=text, lines=())
        log = await self._output.log(task.id, task.attempt)
        await hold_reply(_POLL_FACTOR * min(log.size, TAIL_BYTES))
        tail = await tail_of(log)
        if tail.omission:
            text = f"{text}; {tail.omission}"
        return Progress(task=task, text=text, lines=tail.lines)

    async def result(self, caller: Principal, task_id: str) -> Delivery:
        """What an ended task left. Raises CallRefused; one that has not ended is no success."""
        task = await self._tasks.find(caller, task_id)
        if not task.state.is_end:
            return Delivery(
                content=Content(0, _each(())),
                text=f"task {task_id} is {public_status(task.state)}: {describe(task)};"
                " poll until it has ended",
                is_success=False,
            )
        await hold_reply(PIECE_BYTES)
        raw = await self._tasks.raw_result(task)
        if raw is not None:
            content = Content(raw.size, self._blob_pieces(raw))
        else:
            content = await _content(lambda: self._tasks.result_pieces(task))
        match task.state:
            case TaskState.SUCCEEDED:
                return Delivery(content=content, text=describe(task))
            case TaskState.STOPPED:
                code = ErrorCode.TASK_CANCELLED
            case _:
                code = ErrorCode.TASK_FAILED
        return Delivery(
            content=content, text=f"{code.name}: {describe(task)}", is_success=False, code=code
        )

    async def _blob_pieces(self, blob: Blob) -> AsyncGenerator[bytes, None]:
        async with self._blobs.open_read(blob) as pieces:
            async for piece in pieces:
                yield piece

    async def logs(self, caller: Principal, task_id: str) -> Content:
        """All of the task's output, each attempt's followed by what its node stored as logs.

        Raises CallRefused.
        """
        task = await self._tasks.find(caller, task_id)
        if not task.attempt:
            return Content(0, _each(()))
        await hold_reply(PIECE_BYTES)
        parts = []
        for number in range(1, task.attempt + 1):
            log = await self._output.log(task.id, number)
            heading = f"--- attempt {number} ---\n" if task.attempt > 1 else ""
            parts.append(Part(log, log.size, heading))
            stored = await self._output.log(task.id, number, LOGS)
            if stored.size:
                parts.append(Part(stored, stored.size))
        return await _content(lambda: transcript(parts))

    async def list_all(self, caller: Principal) -> AsyncGenerator[Iterable[Listed], None]:
        """All tasks of the caller, for an admin everybody's, newest first. Raises CallRefused."""
        account = "*" if caller.role == Role.ADMIN else ""
        query = ListQuery(account=account, include_ended=True, limit=_PAGE)
        while True:
            page = await self._tasks.list(caller, query)
            yield [Listed(task, _shown_id(task, caller)) for task in page.tasks]
            if not page.next_cursor:
                return
            query = ListQuery(
                account=account, include_ended=True, limit=_PAGE, cursor=page.next_cursor
            )

    async def stop(self, caller: Principal, task_id: str) -> str:
        """Ask for the task's end; what to tell, once the wish is on disk. Raises CallRefused."""
        before = await self._tasks.find(caller, task_id)
        if before.state.is_end:
            return f"task {task_id} was over already: {public_status(before.state)}"
        task = await self._tasks.stop(caller, before.id)
        with trio.move_on_after(_STOP_S):
            query = WatchQuery(task_id=before.id, output=False)
            async with aclosing(self._tasks.watch(caller, query)) as items:
                async for item in items:
                    if isinstance(item, Task):
                        task = item
        if task.state.is_end:
            return f"task {task_id} is {public_status(task.state)}: {describe(task)}"
        return f"task {task_id} was told to stop and has not ended yet; poll until it has"


def _read_long_script(path: Path) -> FileSettings:
    with path.open("rb") as file:
        return read_script(file.read(SCRIPT_BYTES).decode(errors="replace"))


def _shown_id(task: Task, caller: Principal) -> str:
    # Another account's client id means nothing to, or another task of, an admin.
    return task.client_id if task.client_id and task.account == caller.account else task.id


def _ask(settings: FileSettings) -> Ask:
    """What a file asks for itself, as a submission's wish."""
    wishes = attrs.asdict(settings, recurse=False)
    return Ask(**{name: wishes[name] for name in attrs.fields_dict(Ask) if name in wishes})


async def _content(read: Callable[[], AsyncGenerator[bytes, None]]) -> Content:
    """What ``read`` gives, which is the same every time; its size must be known before it."""
    held: list[bytes] = []
    size = 0
    async with aclosing(read()) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size <= _IN_MEMORY_BYTES:
                held.append(piece)
            if size > MOST_REPLY_BYTES:
                break
    if size <= _IN_MEMORY_BYTES:
        return Content(size, _each(held))
    return Content(size, read())


async def _each(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece
