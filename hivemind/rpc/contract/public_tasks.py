"""What clients call of MasterNodeService: tasks in, their state, output and results out."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Protocol

import attrs

from hivemind._pb import nodepool
from hivemind.core.public_status import public_status
from hivemind.core.records import Task
from hivemind.rpc.auth import Principal
from hivemind.rpc.context import note_error_code
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.faults import NamedFault, exhausted
from hivemind.rpc.errors import ErrorCode
from hivemind.rpc.reply import (
    MOST_REPLY_BYTES,
    ReplyTail,
    bytes_field,
    hold_reply,
    leave_reply_tail,
)
from hivemind.rpc.spool import SpooledField, SpoolFile, current_upload

TASK_DATA_BYTES = 100_000_000
"""The most that a task's data may be in this API, whatever the pool's policy says."""

MESSAGE_TOKENS = {
    "/nodepool.MasterNodeService/GetTaskResult": "token",
    "/nodepool.MasterNodeService/GetTaskLogs": "token",
    "/nodepool.MasterNodeService/GetAllTasks": "token",
    "/nodepool.MasterNodeService/StopTask": "token",
}
"""Methods whose token may travel in the message, and in which field."""

_UPLOAD_FIELD = 2
_RESULT_FIELD = 3
_LOGS_FIELD = 3
_MOST_LIST_BYTES = 64 * 1024 * 1024
"""Half a million tasks or more; this much is held in memory until it is sent."""


def spooled_uploads(policy_bytes: Callable[[], int]) -> Mapping[str, SpooledField]:
    """Requests whose bytes go to a file as they arrive, by method.

    Args:
        policy_bytes: the most that the pool's policy allows a payload now.
    """

    def most_bytes() -> int:
        return min(TASK_DATA_BYTES, policy_bytes())

    def remedy() -> str:
        if policy_bytes() <= TASK_DATA_BYTES:
            return ""
        return "hand in a larger one with hivemind.v1.Tasks/Submit, or `hivemind submit`"

    field = SpooledField(field_number=_UPLOAD_FIELD, most_bytes=most_bytes, remedy=remedy)
    return {"/nodepool.MasterNodeService/UploadTask": field}


@attrs.frozen(kw_only=True)
class Progress:
    """A task as a poll tells it."""

    task: Task
    text: str
    lines: tuple[str, ...]
    """The newest lines of its output, both streams, without their line ends."""


@attrs.frozen
class Content:
    """Bytes to be sent as they are read."""

    size_bytes: int
    chunks: AsyncGenerator[bytes, None]


@attrs.frozen(kw_only=True)
class Delivery:
    """A result, and what is to be said of it."""

    content: Content
    text: str
    is_success: bool = True
    code: ErrorCode | None = None
    """What of the table it is, where it is no success."""


@attrs.frozen
class Listed:
    """A task in a listing."""

    task: Task
    shown_id: str
    """By which the caller can ask for it."""


class PublicTaskHandlers(Protocol):
    """What the master does for clients. A fault of api.md's table is raised as NamedFault."""

    async def upload(self, caller: Principal, task_id: str, user_id: str, file: SpoolFile) -> str:
        """Take a task; what to tell, once it is on disk."""
        ...

    async def poll(self, caller: Principal, task_id: str) -> Progress:
        """The task now, and the end of its output."""
        ...

    async def result(self, caller: Principal, task_id: str) -> Delivery:
        """What an ended task left."""
        ...

    async def logs(self, caller: Principal, task_id: str) -> Content:
        """All of the task's output, as UTF-8."""
        ...

    def list_all(self, caller: Principal) -> AsyncGenerator[Iterable[Listed], None]:
        """All tasks of the caller, an admin's are everybody's, newest first, in pages."""
        ...

    async def stop(self, caller: Principal, task_id: str) -> str:
        """Ask for the task's end; what to tell, once the wish is on disk."""
        ...


class PublicTaskCalls(nodepool.MasterNodeServiceBase):
    """The calls of clients. A fault that the table names is an answer here, not a status."""

    def __init__(self, tasks: PublicTaskHandlers) -> None:
        self._tasks = tasks

    async def upload_task(self, message: nodepool.UploadTaskRequest) -> nodepool.UploadTaskResponse:
        """Take a task."""
        try:
            text = await self._tasks.upload(
                current_account(), message.task_id, message.user_id, current_upload()
            )
        except NamedFault as fault:
            return nodepool.UploadTaskResponse(success=False, message=fault.told())
        return nodepool.UploadTaskResponse(success=True, message=text)

    async def poll_task_status(
        self, message: nodepool.PollTaskStatusRequest
    ) -> nodepool.PollTaskStatusResponse:
        """Its status and the end of its output."""
        try:
            progress = await self._tasks.poll(current_account(), message.task_id)
        except NamedFault as fault:
            return nodepool.PollTaskStatusResponse(success=False, message=fault.told())
        return nodepool.PollTaskStatusResponse(
            success=True,
            message=progress.text,
            status=public_status(progress.task.state),
            output=list(progress.lines),
        )

    async def get_task_result(
        self, message: nodepool.GetTaskResultRequest
    ) -> nodepool.GetTaskResultResponse:
        """What it left; the bytes follow the reply as they are read."""
        try:
            delivery = await self._tasks.result(current_account(), message.task_id)
        except NamedFault as fault:
            return nodepool.GetTaskResultResponse(success=False, message=fault.told())
        if delivery.code is not None:
            note_error_code(delivery.code)
        _leave(_RESULT_FIELD, delivery.content, "fetch it with hivemind.v1.Tasks/Download")
        return nodepool.GetTaskResultResponse(success=delivery.is_success, message=delivery.text)

    async def get_task_logs(
        self, message: nodepool.GetTaskLogsRequest
    ) -> nodepool.GetTaskLogsResponse:
        """All of its output; likewise."""
        try:
            content = await self._tasks.logs(current_account(), message.task_id)
        except NamedFault as fault:
            return nodepool.GetTaskLogsResponse(success=False, message=fault.told())
        _leave(_LOGS_FIELD, content, "read them with hivemind.v1.Tasks/Watch")
        return nodepool.GetTaskLogsResponse(
            success=True, message=f"{content.size_bytes} bytes of output"
        )

    async def get_all_tasks(
        self, message: nodepool.GetAllTasksRequest
    ) -> nodepool.GetAllTasksResponse:
        """Every task of the caller."""
        # Page by page, since encoding a long list at once would hold everybody up.
        pages: list[bytes] = []
        size_bytes = 0
        async with aclosing(self._tasks.list_all(current_account())) as listed:
            async for tasks in listed:
                page = bytes(nodepool.GetAllTasksResponse(tasks=[_status(one) for one in tasks]))
                size_bytes += len(page)
                if size_bytes > _MOST_LIST_BYTES:
                    raise exhausted(
                        f"the list of tasks is over the limit of {_MOST_LIST_BYTES} bytes;"
                        " read it in pages with hivemind.v1.Tasks/List"
                    )
                # It is sent after its length, so all of it is here first.
                await hold_reply(len(page))
                pages.append(page)
        leave_reply_tail(ReplyTail(size_bytes, _each(pages)))
        return nodepool.GetAllTasksResponse()

    async def stop_task(self, message: nodepool.StopTaskRequest) -> nodepool.StopTaskResponse:
        """Ask for its end."""
        try:
            text = await self._tasks.stop(current_account(), message.task_id)
        except NamedFault as fault:
            return nodepool.StopTaskResponse(success=False, message=fault.told())
        return nodepool.StopTaskResponse(success=True, message=text)


def _leave(field_number: int, content: Content, remedy: str) -> None:
    """Have the content follow the reply, as its field of that number."""
    head = bytes_field(field_number, content.size_bytes)
    size_bytes = len(head) + content.size_bytes
    if size_bytes > MOST_REPLY_BYTES:
        raise exhausted(f"it is over the {MOST_REPLY_BYTES} bytes that a message holds; {remedy}")
    leave_reply_tail(ReplyTail(size_bytes, _headed(head, content.chunks)))


async def _headed(head: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield head
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk


async def _each(pages: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for page in pages:
        yield page


def _status(listed: Listed) -> nodepool.TaskStatus:
    task = listed.task
    return nodepool.TaskStatus(
        task_id=listed.shown_id,
        status=public_status(task.state),
        assigned_node=task.node_id,
        created_at=task.submitted_at,
        started_at=task.started_at or 0.0,
        completed_at=task.finished_at or 0.0,
        user_id=task.account,
    )
