"""What nodes report: their half of MasterNodeService, WorkerNodeService's two reports, and batches
of all of them.
"""

from collections.abc import Awaitable, Sequence
from typing import Protocol

import betterproto2

from hivemind._pb import nodepool
from hivemind._pb.hivemind import v1
from hivemind.core.reports import (
    Answer,
    CompletedSaid,
    LogsSaid,
    OutputSaid,
    ResultSaid,
    RunningSaid,
    Said,
    StatusSaid,
)
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.faults import MalformedMessage, NamedFault, elsewhere
from hivemind.rpc.spool import SpooledField, SpoolFile, current_upload

RESULT_DATA_BYTES = 100_000_000
"""The most that a result may be in this API, whatever the pool's policy says."""

SPOOLED_REPORTS = {
    "/nodepool.MasterNodeService/StoreResult": SpooledField(
        field_number=2, most_bytes=lambda: RESULT_DATA_BYTES
    ),
    "/nodepool.MasterNodeService/ReturnTaskResult": SpooledField(
        field_number=2, most_bytes=lambda: RESULT_DATA_BYTES
    ),
}
"""The methods whose result goes to a file as it arrives."""


class PublicReportHandlers(Protocol):
    """What the master does with reports; each returns once what it says is kept."""

    async def take_output(self, caller: Principal, said: OutputSaid) -> Answer:
        """Output of an attempt."""
        ...

    async def take_logs(self, caller: Principal, said: LogsSaid) -> Answer:
        """Logs about an attempt."""
        ...

    async def take_result(self, caller: Principal, task_id: str, upload: SpoolFile) -> Answer:
        """An attempt's result."""
        ...

    async def take_completed(self, caller: Principal, said: CompletedSaid) -> Answer:
        """An attempt is over."""
        ...

    async def take_running(self, caller: Principal, said: RunningSaid) -> Answer:
        """An attempt runs."""
        ...

    async def take_batch(self, caller: Principal, batch: Sequence[Said]) -> tuple[Answer, ...]:
        """Many of them, each answered by itself."""
        ...


async def _answered(report: Awaitable[Answer]) -> Answer:
    """The answer, where a fault of the code table is one."""
    try:
        return await report
    except NamedFault as fault:
        return Answer(success=False, message=fault.told())


async def _status(report: Awaitable[Answer]) -> nodepool.StatusResponse:
    answer = await _answered(report)
    return nodepool.StatusResponse(success=answer.success, message=answer.message)


class PublicReportCalls(nodepool.MasterNodeServiceBase):
    """The half of MasterNodeService that nodes call."""

    def __init__(self, report_handlers: PublicReportHandlers) -> None:
        self._report_handlers = report_handlers

    async def store_output(self, message: nodepool.StoreOutputRequest) -> nodepool.StatusResponse:
        """Output of an attempt."""
        said = OutputSaid(task_id=message.task_id, text=message.output, sequence=message.sequence)
        return await _status(self._report_handlers.take_output(current_account(), said))

    async def store_logs(self, message: nodepool.StoreLogsRequest) -> nodepool.StatusResponse:
        """Logs about an attempt."""
        said = LogsSaid(
            task_id=message.task_id,
            node_id=message.node_id,
            text=message.logs,
            at=message.timestamp,
            sequence=message.sequence,
        )
        return await _status(self._report_handlers.take_logs(current_account(), said))

    async def store_result(self, message: nodepool.StoreResultRequest) -> nodepool.StatusResponse:
        """An attempt's result."""
        return await _status(
            self._report_handlers.take_result(current_account(), message.task_id, current_upload())
        )

    async def return_task_result(
        self, message: nodepool.ReturnTaskResultRequest
    ) -> nodepool.ReturnTaskResultResponse:
        """The same by another name."""
        answer = await _answered(
            self._report_handlers.take_result(current_account(), message.task_id, current_upload())
        )
        return nodepool.ReturnTaskResultResponse(success=answer.success, message=answer.message)

    async def task_completed(
        self, message: nodepool.TaskCompletedRequest
    ) -> nodepool.StatusResponse:
        """An attempt is over."""
        said = CompletedSaid(
            task_id=message.task_id, node_id=message.node_id, success=message.success
        )
        return await _status(self._report_handlers.take_completed(current_account(), said))


class _WorkerReportCalls(nodepool.WorkerNodeServiceBase):
    """Of WorkerNodeService the two reports; the rest of it is for nodes to serve."""

    def __init__(self, handlers: PublicReportHandlers) -> None:
        self._handlers = handlers

    async def execute_task(
        self, message: nodepool.ExecuteTaskRequest
    ) -> nodepool.ExecuteTaskResponse:
        raise elsewhere(
            "a master runs nothing itself: hand the task in by MasterNodeService/UploadTask, or"
            " call ExecuteTask at a worker's own address"
        )

    async def stop_task_execution(
        self, message: nodepool.StopTaskExecutionRequest
    ) -> nodepool.StopTaskExecutionResponse:
        raise elsewhere(
            "a master runs nothing itself: stop the task by MasterNodeService/StopTask, or call"
            " StopTaskExecution at the worker that was called with it"
        )

    async def report_output(self, message: nodepool.ReportOutputRequest) -> nodepool.StatusResponse:
        said = OutputSaid(
            task_id=message.task_id,
            node_id=message.node_id,
            text=message.output,
            sequence=message.sequence,
        )
        return await _status(self._handlers.take_output(current_account(), said))

    async def report_running_status(
        self, message: nodepool.RunningStatusRequest
    ) -> nodepool.RunningStatusResponse:
        said = RunningSaid(
            task_id=message.task_id,
            node_id=message.node_id,
            cpu_usage=message.cpu_usage,
            memory_usage=message.memory_usage,
            gpu_usage=message.gpu_usage,
            gpu_memory_usage=message.gpu_memory_usage,
        )
        answer = await _answered(self._handlers.take_running(current_account(), said))
        return nodepool.RunningStatusResponse(
            success=answer.success, message=answer.message, cpt_reward=answer.earned_cpt
        )


class _ReportsService(v1.ReportsBase):
    def __init__(self, handlers: PublicReportHandlers) -> None:
        self._handlers = handlers

    async def report_batch(self, message: v1.ReportBatchRequest) -> v1.ReportBatchResponse:
        batch = [_said(entry) for entry in message.reports]
        answers = await self._handlers.take_batch(current_account(), batch)
        return v1.ReportBatchResponse(
            outcomes=[
                v1.ReportOutcome(
                    ok=answer.success,
                    code=answer.code,
                    message=answer.message,
                    cpt_reward=answer.earned_cpt,
                )
                for answer in answers
            ]
        )


def _said(entry: v1.ReportEntry) -> Said:
    """The report. Raises MalformedMessage for an entry without one."""
    _, wire = betterproto2.which_one_of(entry, "report")
    match wire:
        case v1.OutputEntry():
            return OutputSaid(
                task_id=wire.task_id,
                node_id=wire.node_id,
                text=wire.output,
                sequence=wire.sequence,
            )
        case v1.LogsEntry():
            return LogsSaid(
                task_id=wire.task_id,
                node_id=wire.node_id,
                text=wire.logs,
                at=wire.timestamp,
                sequence=wire.sequence,
            )
        case v1.ResultEntry():
            return ResultSaid(task_id=wire.task_id, data=wire.result_data)
        case v1.CompletedEntry():
            return CompletedSaid(task_id=wire.task_id, node_id=wire.node_id, success=wire.success)
        case v1.RunningEntry():
            return RunningSaid(
                task_id=wire.task_id,
                node_id=wire.node_id,
                cpu_usage=wire.cpu_usage,
                memory_usage=wire.memory_usage,
                gpu_usage=wire.gpu_usage,
                gpu_memory_usage=wire.gpu_memory_usage,
            )
        case v1.StatusEntry():
            return StatusSaid(node_id=wire.node_id, status=wire.status)
    raise MalformedMessage("an entry of the batch holds no report")


def serve_reports(handlers: PublicReportHandlers) -> nodepool.MasterNodeServiceBase:
    """MasterNodeService's reports, to hand to ``rpc.server``."""
    return PublicReportCalls(handlers)


def serve_worker_reports(handlers: PublicReportHandlers) -> nodepool.WorkerNodeServiceBase:
    """WorkerNodeService's reports, to hand to ``rpc.server``."""
    return _WorkerReportCalls(handlers)


def serve_report_batches(handlers: PublicReportHandlers) -> v1.ReportsBase:
    """Reports of hivemind.v1, to hand to ``rpc.server``."""
    return _ReportsService(handlers)
