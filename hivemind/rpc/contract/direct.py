"""What a worker serves on a port of its own: WorkerNodeService and TaskWorkerService."""

from typing import Protocol

from hivemind._pb import nodepool, taskworker
from hivemind.core.direct import (
    SUPPORTED_KINDS,
    DirectKind,
    DirectStatus,
    DirectTask,
    SystemInfo,
)
from hivemind.rpc.auth import Principal, current_principal
from hivemind.rpc.contract.faults import MalformedMessage, NamedFault
from hivemind.rpc.contract.serving import Servable
from hivemind.rpc.spool import SpooledField, SpoolFile, current_upload

MIB = 1024 * 1024

SPOOLED = {
    "/nodepool.WorkerNodeService/ExecuteTask": SpooledField(field_number=2),
    "/taskworker.TaskWorkerService/ExecuteTask": SpooledField(field_number=3),
}
"""The calls whose task goes to a file as it arrives, and where in the message it is."""


class DirectHandlers(Protocol):
    """What a worker does for those who call it. A fault of api.md's table is a NamedFault."""

    async def execute(self, caller: Principal, task: DirectTask, upload: SpoolFile) -> bool:
        """Begin the task; whether it is the caller's earlier one, sent again."""
        ...

    async def stop(self, caller: Principal, task_id: str) -> DirectStatus:
        """End the task; how it ended, once nothing of it is left."""
        ...

    async def status(self, caller: Principal, task_id: str) -> DirectStatus:
        """How the task is doing, with its output."""
        ...

    async def check_held(self, caller: Principal, task_id: str) -> None:
        """Whether the caller has such a task here."""
        ...

    async def system_info(self, caller: Principal) -> SystemInfo:
        """What the machine is and how busy."""
        ...


_SAID = {
    "PENDING": "it has not begun",
    "RUNNING": "it runs",
    "COMPLETED": "it succeeded",
    "FAILED": "it failed",
    "STOPPED": "it was stopped",
}
"""What to tell of a status where there is nothing else to tell."""


def _accepted(task_id: str, *, is_repeated: bool) -> str:
    return f"task {task_id} was accepted before" if is_repeated else f"task {task_id} accepted"


def _stopped(task_id: str, ended: DirectStatus) -> str:
    why = f": {ended.detail}" if ended.detail else ""
    return f"task {task_id} has ended: {ended.status}{why}"


class _WorkerNodeService(nodepool.WorkerNodeServiceBase):
    def __init__(self, handlers: DirectHandlers) -> None:
        self._handlers = handlers

    async def execute_task(
        self, message: nodepool.ExecuteTaskRequest
    ) -> nodepool.ExecuteTaskResponse:
        task = DirectTask(task_id=message.task_id)
        try:
            is_repeated = await self._handlers.execute(current_principal(), task, current_upload())
        except NamedFault as fault:
            return nodepool.ExecuteTaskResponse(success=False, message=fault.told())
        text = _accepted(task.task_id, is_repeated=is_repeated)
        return nodepool.ExecuteTaskResponse(success=True, message=text)

    async def stop_task_execution(
        self, message: nodepool.StopTaskExecutionRequest
    ) -> nodepool.StopTaskExecutionResponse:
        try:
            ended = await self._handlers.stop(current_principal(), message.task_id)
        except NamedFault as fault:
            return nodepool.StopTaskExecutionResponse(success=False, message=fault.told())
        text = _stopped(message.task_id, ended)
        return nodepool.StopTaskExecutionResponse(success=True, message=text)

    async def report_output(self, message: nodepool.ReportOutputRequest) -> nodepool.StatusResponse:
        """The worker records its tasks' output itself: this is heard, and changes nothing."""
        try:
            await self._handlers.check_held(current_principal(), message.task_id)
        except NamedFault as fault:
            return nodepool.StatusResponse(success=False, message=fault.told())
        return nodepool.StatusResponse(success=True, message="this worker sees its output itself")

    async def report_running_status(
        self, message: nodepool.RunningStatusRequest
    ) -> nodepool.RunningStatusResponse:
        """The worker measures its tasks itself: this is heard, and earns nothing."""
        try:
            await self._handlers.check_held(current_principal(), message.task_id)
        except NamedFault as fault:
            return nodepool.RunningStatusResponse(success=False, message=fault.told())
        return nodepool.RunningStatusResponse(success=True, message="direct tasks earn nothing")


class _TaskWorkerService(taskworker.TaskWorkerServiceBase):
    def __init__(self, handlers: DirectHandlers) -> None:
        self._handlers = handlers

    async def execute_task(
        self, message: taskworker.ExecuteTaskRequest
    ) -> taskworker.ExecuteTaskResponse:
        task = DirectTask(
            task_id=message.task_id,
            kind=_kind_of(message.task_type),
            parameters=dict(message.parameters),
        )
        try:
            is_repeated = await self._handlers.execute(current_principal(), task, current_upload())
        except NamedFault as fault:
            return taskworker.ExecuteTaskResponse(success=False, message=fault.told())
        text = _accepted(task.task_id, is_repeated=is_repeated)
        return taskworker.ExecuteTaskResponse(success=True, message=text)

    async def get_task_status(
        self, message: taskworker.GetTaskStatusRequest
    ) -> taskworker.GetTaskStatusResponse:
        try:
            seen = await self._handlers.status(current_principal(), message.task_id)
        except NamedFault as fault:
            return taskworker.GetTaskStatusResponse(success=False, message=fault.told())
        return taskworker.GetTaskStatusResponse(
            success=True,
            message=seen.detail or _SAID.get(seen.status, ""),
            status=seen.status,
            output=list(seen.output),
            exit_code=seen.exit_code,
        )

    async def cancel_task(
        self, message: taskworker.CancelTaskRequest
    ) -> taskworker.CancelTaskResponse:
        try:
            ended = await self._handlers.stop(current_principal(), message.task_id)
        except NamedFault as fault:
            return taskworker.CancelTaskResponse(success=False, message=fault.told())
        return taskworker.CancelTaskResponse(success=True, message=_stopped(message.task_id, ended))

    async def get_system_info(
        self, message: taskworker.GetSystemInfoRequest
    ) -> taskworker.GetSystemInfoResponse:
        seen = await self._handlers.system_info(current_principal())
        return taskworker.GetSystemInfoResponse(
            capabilities=taskworker.NodeCapabilities(
                cpu_cores=-(-seen.cpu_millis // 1000),
                memory_mb=seen.memory_bytes // MIB,
                has_gpu=seen.gpus > 0,
                supported_tasks=[kind.value for kind in SUPPORTED_KINDS],
            ),
            usage=taskworker.ResourceUsage(
                cpu_percent=seen.cpu_percent,
                memory_percent=seen.memory_percent,
                disk_percent=seen.disk_percent,
                network_mbps=seen.network_mbps,
            ),
            hostname=seen.hostname,
            version=seen.version,
        )


def _kind_of(task_type: str) -> DirectKind:
    if task_type not in SUPPORTED_KINDS:
        known = ", ".join(SUPPORTED_KINDS)
        raise MalformedMessage(f"task_type {task_type[:40]!a} is unknown; {known} are known")
    return DirectKind(task_type)


def serve_direct(handlers: DirectHandlers) -> list[Servable]:
    """Both services to hand to ``rpc.server``, with ``SPOOLED``."""
    return [_WorkerNodeService(handlers), _TaskWorkerService(handlers)]
