"""Tasks, attempts, output and submissions: records into messages and back."""

from collections.abc import AsyncGenerator, AsyncIterator

import betterproto2

from hivemind._pb.hivemind import v1
from hivemind.core.admission import Ask
from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.messages import AttemptOutput, Submission, UploadChunk, UploadPart
from hivemind.core.records import (
    Attempt,
    Outcome,
    OutputChunk,
    OutputStream,
    Reason,
    Task,
    TaskState,
    Usage,
)
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.contract.specs import (
    kind_from_wire,
    kind_to_wire,
    mode_from_wire,
    requirements_from_wire,
    requirements_to_wire,
)

_STATE_TO_WIRE = {state: v1.TaskState[state.name] for state in TaskState}
_STATE_FROM_WIRE = {wire: state for state, wire in _STATE_TO_WIRE.items()}


def task_to_wire(task: Task) -> v1.Task:
    """Field by field."""
    return v1.Task(
        id=task.id,
        account=task.account,
        state=_STATE_TO_WIRE[task.state],
        client_id=task.client_id,
        name=task.name,
        policy=task.policy,
        priority=task.priority,
        requirements=requirements_to_wire(task.requirements),
        wall_s=task.wall_s,
        attempt=task.attempt,
        stop_requested=task.stop_requested,
        stopped_by=task.stopped_by,
        retries=task.retries,
        failures=task.failures,
        crashes=task.crashes,
        node_id=task.node_id,
        reason=task.reason or "",
        detail=task.detail,
        exit_code=task.exit_code,
        submitted_at=task.submitted_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
        unconfirmed=task.unconfirmed,
    )


def task_from_wire(wire: v1.Task | None) -> Task:
    """Field by field. Raises MalformedMessage for an unknown state or reason."""
    if wire is None:
        raise MalformedMessage("a reply lacks its task")
    state = _STATE_FROM_WIRE.get(wire.state)
    if state is None:
        raise MalformedMessage(f"task state {int(wire.state)} is unknown; is this client too old?")
    return Task(
        id=wire.id,
        account=wire.account,
        state=state,
        client_id=wire.client_id,
        name=wire.name,
        policy=wire.policy,
        priority=wire.priority,
        requirements=requirements_from_wire(wire.requirements),
        wall_s=wire.wall_s,
        attempt=wire.attempt,
        stop_requested=wire.stop_requested,
        stopped_by=wire.stopped_by,
        retries=wire.retries,
        failures=wire.failures,
        crashes=wire.crashes,
        node_id=wire.node_id,
        reason=reason_from_wire(wire.reason),
        detail=wire.detail,
        exit_code=wire.exit_code,
        submitted_at=wire.submitted_at,
        started_at=wire.started_at,
        finished_at=wire.finished_at,
        unconfirmed=wire.unconfirmed,
    )


def reason_from_wire(text: str) -> Reason | None:
    """The reason of that name; none for an empty text."""
    if not text:
        return None
    try:
        return Reason(text)
    except ValueError as error:
        raise MalformedMessage(f"reason {text!r} is unknown; is this peer too new?") from error


def outcome_from_wire(text: str) -> Outcome | None:
    """The outcome of that name; none for an empty text."""
    if not text:
        return None
    try:
        return Outcome(text)
    except ValueError as error:
        raise MalformedMessage(f"outcome {text!r} is unknown; is this peer too new?") from error


def usage_to_wire(usage: Usage) -> v1.Usage:
    """Field by field."""
    return v1.Usage(
        wall_s=usage.wall_s,
        cpu_s=usage.cpu_s,
        memory_peak_bytes=usage.memory_peak_bytes,
        gpu_memory_peak_bytes=usage.gpu_memory_peak_bytes,
    )


def usage_from_wire(wire: v1.Usage | None) -> Usage:
    """Field by field; absent is nothing used."""
    if wire is None:
        return Usage()
    return Usage(
        wall_s=wire.wall_s,
        cpu_s=wire.cpu_s,
        memory_peak_bytes=wire.memory_peak_bytes,
        gpu_memory_peak_bytes=wire.gpu_memory_peak_bytes,
    )


def attempt_to_wire(attempt: Attempt) -> v1.Attempt:
    """Field by field; the lease stays at home."""
    return v1.Attempt(
        number=attempt.number,
        node_id=attempt.node_id,
        assigned_at=attempt.assigned_at,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome or "",
        reason=attempt.reason or "",
        detail=attempt.detail,
        exit_code=attempt.exit_code,
        usage=usage_to_wire(attempt.usage),
        result_bytes=attempt.result_bytes,
        raw_result=attempt.raw_result,
        unconfirmed=attempt.unconfirmed,
    )


def attempt_from_wire(task_id: str, wire: v1.Attempt) -> Attempt:
    """Field by field. Raises MalformedMessage for an unknown outcome or reason."""
    return Attempt(
        task_id=task_id,
        number=wire.number,
        node_id=wire.node_id,
        lease_id="",
        assigned_at=wire.assigned_at,
        started_at=wire.started_at,
        ended_at=wire.ended_at,
        outcome=outcome_from_wire(wire.outcome),
        reason=reason_from_wire(wire.reason),
        detail=wire.detail,
        exit_code=wire.exit_code,
        usage=usage_from_wire(wire.usage),
        result_bytes=wire.result_bytes,
        raw_result=wire.raw_result,
        unconfirmed=wire.unconfirmed,
    )


def output_to_wire(output: AttemptOutput) -> v1.Output:
    """Field by field."""
    return v1.Output(
        attempt=output.attempt,
        stream=v1.OutputStream(int(output.chunk.stream)),
        offset=output.chunk.offset,
        data=output.chunk.data,
        at=output.chunk.at,
    )


def output_from_wire(wire: v1.Output) -> AttemptOutput:
    """Field by field. Raises MalformedMessage for a stream other than the two."""
    try:
        stream = OutputStream(int(wire.stream))
    except ValueError as error:
        raise MalformedMessage(f"output stream {int(wire.stream)} is unknown") from error
    return AttemptOutput(
        attempt=wire.attempt,
        chunk=OutputChunk(stream=stream, offset=wire.offset, data=wire.data, at=wire.at),
    )


def submission_to_wire(submission: Submission) -> v1.SubmitHeader:
    """Field by field."""
    ask = submission.ask
    return v1.SubmitHeader(
        kind=kind_to_wire(submission.kind),
        filename=submission.filename,
        argv=list(submission.argv),
        command=list(submission.command),
        env=dict(submission.env),
        ask=v1.Ask(
            policy=ask.policy or "",
            cpu_millis=ask.cpu_millis,
            memory_bytes=ask.memory_bytes,
            scratch_bytes=ask.scratch_bytes,
            gpus=ask.gpus,
            gpu_memory_bytes=ask.gpu_memory_bytes,
            gpu_name=ask.gpu_name or "",
            location=ask.location or "",
            wall_s=ask.wall_s,
            cpu_s=ask.cpu_s,
            pids=ask.pids,
            output_bytes=ask.output_bytes,
            result_bytes=ask.result_bytes,
            retries=ask.retries,
            priority=ask.priority,
            tmp_bytes=ask.tmp_bytes,
            shm_bytes=ask.shm_bytes,
            scratch_inodes=ask.scratch_inodes,
            tmp_inodes=ask.tmp_inodes,
            shm_inodes=ask.shm_inodes,
            file_bytes=ask.file_bytes,
            open_files=ask.open_files,
            network=ask.network or "",
            seccomp=ask.seccomp or "",
            reuse=ask.reuse or "",
            least_trust=ask.least_trust,
            max_ucpt=ask.max_ucpt,
        ),
        name=submission.name,
        client_id=submission.client_id,
        client_key=submission.client_key,
        has_stdin=submission.has_stdin,
        outputs=list(submission.outputs),
        payload_bytes=submission.payload_bytes,
        stdin_bytes=submission.stdin_bytes,
    )


def submission_from_wire(header: v1.SubmitHeader) -> Submission:
    """Field by field. Raises MalformedMessage for an unknown kind or mode."""
    ask = header.ask or v1.Ask()
    return Submission(
        kind=kind_from_wire(header.kind),
        filename=header.filename,
        argv=tuple(header.argv),
        command=tuple(header.command),
        env=dict(header.env),
        ask=Ask(
            policy=ask.policy or None,
            cpu_millis=ask.cpu_millis,
            memory_bytes=ask.memory_bytes,
            scratch_bytes=ask.scratch_bytes,
            gpus=ask.gpus,
            gpu_memory_bytes=ask.gpu_memory_bytes,
            gpu_name=ask.gpu_name or None,
            location=ask.location or None,
            wall_s=ask.wall_s,
            cpu_s=ask.cpu_s,
            pids=ask.pids,
            output_bytes=ask.output_bytes,
            result_bytes=ask.result_bytes,
            retries=ask.retries,
            priority=ask.priority,
            tmp_bytes=ask.tmp_bytes,
            shm_bytes=ask.shm_bytes,
            scratch_inodes=ask.scratch_inodes,
            tmp_inodes=ask.tmp_inodes,
            shm_inodes=ask.shm_inodes,
            file_bytes=ask.file_bytes,
            open_files=ask.open_files,
            network=mode_from_wire(Network, ask.network) if ask.network else None,
            seccomp=mode_from_wire(Seccomp, ask.seccomp) if ask.seccomp else None,
            reuse=mode_from_wire(Reuse, ask.reuse) if ask.reuse else None,
            least_trust=ask.least_trust,
            max_ucpt=ask.max_ucpt,
        ),
        name=header.name,
        client_id=header.client_id,
        client_key=header.client_key,
        has_stdin=header.has_stdin,
        outputs=tuple(header.outputs),
        payload_bytes=header.payload_bytes,
        stdin_bytes=header.stdin_bytes,
    )


async def chunks_from_wire(
    messages: AsyncIterator[v1.SubmitRequest],
) -> AsyncGenerator[UploadChunk, None]:
    """The chunks after the header. Raises MalformedMessage where they come in disorder."""
    part = UploadPart.PAYLOAD
    async for message in messages:
        field, value = betterproto2.which_one_of(message, "part")
        if not isinstance(value, bytes):
            raise MalformedMessage("after the header only payload and stdin chunks may come")
        if field == "payload":
            if part is not UploadPart.PAYLOAD:
                raise MalformedMessage("the payload must come before standard input")
        else:
            part = UploadPart.STDIN
        yield UploadChunk(part, value)
