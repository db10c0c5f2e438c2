"""The Tasks service of hivemind.v1."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from hivemind._pb.hivemind import v1
from hivemind.core.explanation import Cause, CauseKind, Explanation
from hivemind.core.messages import (
    ListQuery,
    Submission,
    Submitted,
    TaskDetail,
    TaskList,
    UploadChunk,
    UploadPart,
    WatchItem,
    WatchQuery,
)
from hivemind.core.prices import Means, Quote
from hivemind.core.records import Task
from hivemind.rpc.auth import Principal
from hivemind.rpc.channel import Channel
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.contract.streams import closable
from hivemind.rpc.contract.task_messages import (
    attempt_from_wire,
    attempt_to_wire,
    chunks_from_wire,
    output_from_wire,
    output_to_wire,
    submission_from_wire,
    submission_to_wire,
    task_from_wire,
    task_to_wire,
)
from hivemind.rpc.reply import PAGE_BYTES, PIECE_BYTES, hold_reply
from hivemind.rpc.stubs import bind


class TaskHandlers(Protocol):
    """What the master does for the Tasks service."""

    async def submit(
        self, caller: Principal, submission: Submission, chunks: AsyncIterator[UploadChunk]
    ) -> Submitted:
        """Take a task; return once it is on disk."""
        ...

    async def get(self, caller: Principal, task_id: str) -> TaskDetail:
        """A task with its attempts."""
        ...

    async def list(self, caller: Principal, query: ListQuery) -> TaskList:
        """A page of tasks."""
        ...

    def watch(self, caller: Principal, query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        """The task now, then its changes and output until it has ended."""
        ...

    def download(self, caller: Principal, task_id: str) -> AsyncGenerator[bytes, None]:
        """The result's zip in pieces."""
        ...

    async def stop(self, caller: Principal, task_id: str) -> Task:
        """Ask for the task's end; return the task once the wish is on disk."""
        ...

    async def explain(self, caller: Principal, task_id: str) -> Explanation:
        """Why the task is where it is."""
        ...

    async def quote(self, caller: Principal, submission: Submission) -> Quote:
        """What a task like this would cost; nothing is submitted."""
        ...


class _TasksService(v1.TasksBase):
    def __init__(self, handlers: TaskHandlers) -> None:
        self._handlers = handlers

    async def submit(self, messages: AsyncIterator[v1.SubmitRequest]) -> v1.SubmitResponse:
        caller = current_account()
        first = await anext(aiter(messages), None)
        if first is None or first.header is None:
            raise MalformedMessage("a submit must begin with its header")
        submission = submission_from_wire(first.header)
        async with aclosing(chunks_from_wire(messages)) as chunks:
            submitted = await self._handlers.submit(caller, submission, chunks)
        return v1.SubmitResponse(task_id=submitted.task_id, repeated_submit=submitted.repeated)

    async def get(self, message: v1.GetRequest) -> v1.GetResponse:
        detail = await self._handlers.get(current_account(), message.task_id)
        return v1.GetResponse(
            task=task_to_wire(detail.task),
            attempts=[attempt_to_wire(attempt) for attempt in detail.attempts],
        )

    async def list(self, message: v1.ListRequest) -> v1.ListResponse:
        await hold_reply(PAGE_BYTES)
        page = await self._handlers.list(
            current_account(),
            ListQuery(
                account=message.account,
                include_ended=message.all,
                cursor=message.cursor,
                limit=message.limit or 100,
            ),
        )
        return v1.ListResponse(
            tasks=[task_to_wire(task) for task in page.tasks], next_cursor=page.next_cursor
        )

    async def watch(self, message: v1.WatchRequest) -> AsyncIterator[v1.WatchResponse]:
        query = WatchQuery(
            task_id=message.task_id,
            output=message.output,
            attempt=message.attempt,
            offset=message.offset,
            until_now=message.until_now,
        )
        async with aclosing(self._handlers.watch(current_account(), query)) as items:
            async for item in items:
                if isinstance(item, Task):
                    yield v1.WatchResponse(task=task_to_wire(item))
                else:
                    yield v1.WatchResponse(output=output_to_wire(item))

    async def download(self, message: v1.DownloadRequest) -> AsyncIterator[v1.DownloadResponse]:
        await hold_reply(PIECE_BYTES)
        pieces = self._handlers.download(current_account(), message.task_id)
        async with aclosing(pieces):
            async for data in pieces:
                yield v1.DownloadResponse(data=data)

    async def stop(self, message: v1.StopRequest) -> v1.StopResponse:
        task = await self._handlers.stop(current_account(), message.task_id)
        return v1.StopResponse(task=task_to_wire(task))

    async def explain(self, message: v1.ExplainRequest) -> v1.ExplainResponse:
        explanation = await self._handlers.explain(current_account(), message.task_id)
        return v1.ExplainResponse(
            headline=explanation.headline,
            causes=[
                v1.Cause(kind=cause.kind, text=cause.text, count=cause.count)
                for cause in explanation.causes
            ],
        )

    async def quote(self, message: v1.QuoteRequest) -> v1.QuoteResponse:
        if message.header is None:
            raise MalformedMessage("a quote needs the header of a submit")
        quote = await self._handlers.quote(current_account(), submission_from_wire(message.header))
        return v1.QuoteResponse(
            rate_ucpt=quote.rate_ucpt,
            most_ucpt=quote.most_ucpt,
            balance_ucpt=quote.balance_ucpt,
            means=quote.means.value,
            wall_s=quote.wall_s,
            retries=quote.retries,
        )


def serve_tasks(handlers: TaskHandlers) -> v1.TasksBase:
    """The service to hand to ``rpc.server``."""
    return _TasksService(handlers)


class TasksClient:
    """The Tasks service from the client's side. Every call raises the RpcError family."""

    def __init__(self, channel: Channel) -> None:
        self._stub = bind(v1.TasksStub, channel)

    async def submit(self, submission: Submission, chunks: AsyncIterator[UploadChunk]) -> Submitted:
        """Send a task; return once the master has it on disk.

        A cancelled or broken call may have submitted: repeat it with the same ``client_key``.
        """

        async def messages() -> AsyncIterator[v1.SubmitRequest]:
            yield v1.SubmitRequest(header=submission_to_wire(submission))
            async for chunk in chunks:
                if chunk.part is UploadPart.PAYLOAD:
                    yield v1.SubmitRequest(payload=chunk.data)
                else:
                    yield v1.SubmitRequest(stdin=chunk.data)

        reply = await self._stub.submit(messages())
        return Submitted(task_id=reply.task_id, repeated=reply.repeated_submit)

    async def get(self, task_id: str) -> TaskDetail:
        """A task with its attempts."""
        reply = await self._stub.get(v1.GetRequest(task_id=task_id))
        return TaskDetail(
            task=task_from_wire(reply.task),
            attempts=tuple(attempt_from_wire(task_id, wire) for wire in reply.attempts),
        )

    async def list(self, query: ListQuery) -> TaskList:
        """One page of tasks, newest first."""
        reply = await self._stub.list(
            v1.ListRequest(
                account=query.account,
                all=query.include_ended,
                cursor=query.cursor,
                limit=query.limit,
            )
        )
        return TaskList(
            tasks=tuple(task_from_wire(wire) for wire in reply.tasks),
            next_cursor=reply.next_cursor,
        )

    async def watch(self, query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        """The task now, then its changes and output until it has ended. Close it with aclosing."""
        request = v1.WatchRequest(
            task_id=query.task_id,
            output=query.output,
            attempt=query.attempt,
            offset=query.offset,
            until_now=query.until_now,
        )
        replies = closable(self._stub.watch(request))
        async with aclosing(replies):
            async for reply in replies:
                if reply.output is not None:
                    yield output_from_wire(reply.output)
                else:
                    yield task_from_wire(reply.task)

    async def download(self, task_id: str) -> AsyncGenerator[bytes, None]:
        """The result's zip in pieces. Close it with aclosing."""
        replies = closable(self._stub.download(v1.DownloadRequest(task_id=task_id)))
        async with aclosing(replies):
            async for reply in replies:
                yield reply.data

    async def stop(self, task_id: str) -> Task:
        """Ask for the task's end; it is over when a watch says so."""
        reply = await self._stub.stop(v1.StopRequest(task_id=task_id))
        return task_from_wire(reply.task)

    async def explain(self, task_id: str) -> Explanation:
        """Why the task is where it is."""
        reply = await self._stub.explain(v1.ExplainRequest(task_id=task_id))
        return Explanation(
            headline=reply.headline,
            causes=tuple(
                Cause(kind=_cause_kind(cause.kind), text=cause.text, count=cause.count)
                for cause in reply.causes
            ),
        )

    async def quote(self, submission: Submission) -> Quote:
        """What a task like this would cost; nothing is submitted."""
        reply = await self._stub.quote(v1.QuoteRequest(header=submission_to_wire(submission)))
        try:
            means = Means(reply.means)
        except ValueError as error:
            raise MalformedMessage(
                f"means {reply.means!r} are unknown; is this client too old?"
            ) from error
        return Quote(
            rate_ucpt=reply.rate_ucpt,
            most_ucpt=reply.most_ucpt,
            balance_ucpt=reply.balance_ucpt,
            means=means,
            wall_s=reply.wall_s,
            retries=reply.retries,
        )


def _cause_kind(text: str) -> CauseKind:
    try:
        return CauseKind(text)
    except ValueError as error:
        raise MalformedMessage(f"cause {text!r} is unknown; is this peer too new?") from error
