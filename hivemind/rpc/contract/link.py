"""The Link service of hivemind.v1: between the master and its own workers."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Protocol

from hivemind._pb.hivemind import v1
from hivemind.core.messages import (
    AttemptRef,
    Enrolled,
    Enrolment,
    FinishedReport,
    MasterItem,
    NodeToken,
    WorkerItem,
)
from hivemind.rpc.channel import Channel
from hivemind.rpc.context import current_peer
from hivemind.rpc.contract.callers import current_node
from hivemind.rpc.contract.faults import MalformedMessage
from hivemind.rpc.contract.link_messages import (
    finished_from_wire,
    finished_to_wire,
    master_item_from_wire,
    master_item_to_wire,
    worker_item_from_wire,
    worker_item_to_wire,
)
from hivemind.rpc.contract.streams import closable
from hivemind.rpc.reply import PIECE_BYTES, hold_reply
from hivemind.rpc.stubs import bind

OPEN_METHODS = frozenset(
    {"/hivemind.v1.Link/Enrol", "/hivemind.v1.Link/Challenge", "/hivemind.v1.Link/Prove"}
)
"""Calls that carry their own proof and so need no token."""


class LinkHandlers(Protocol):
    """What the master does for its workers."""

    async def enrol(self, peer: str, enrolment: Enrolment) -> Enrolled:
        """Take a new node in."""
        ...

    async def challenge(self, peer: str, node_id: str) -> bytes:
        """A nonce to sign."""
        ...

    async def prove(self, peer: str, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        """A token for the node that signed the nonce."""
        ...

    def connect(
        self, node_id: str, batches: AsyncIterator[tuple[WorkerItem, ...]]
    ) -> AsyncGenerator[tuple[MasterItem, ...], None]:
        """The conversation, batch by batch; it ends when either side does."""
        ...

    def fetch_payload(
        self, node_id: str, ref: AttemptRef, *, stdin: bool
    ) -> AsyncGenerator[bytes, None]:
        """The payload, or standard input, of an attempt that the node was given."""
        ...

    async def finish_with_result(
        self, node_id: str, report: FinishedReport, result: AsyncIterator[bytes]
    ) -> None:
        """Take a final report with its result; return once both are on disk."""
        ...


async def _items_from_worker(
    messages: AsyncIterator[v1.WorkerMessage],
) -> AsyncGenerator[tuple[WorkerItem, ...], None]:
    async for message in messages:
        yield tuple(worker_item_from_wire(item) for item in message.items)


async def _result_from_worker(
    messages: AsyncIterator[v1.FinishWithResultRequest],
) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        if message.data is None:
            raise MalformedMessage("after the report only the result's chunks may come")
        yield message.data


class _LinkService(v1.LinkBase):
    def __init__(self, handlers: LinkHandlers) -> None:
        self._handlers = handlers

    async def enrol(self, message: v1.EnrolRequest) -> v1.EnrolResponse:
        enrolled = await self._handlers.enrol(
            current_peer(),
            Enrolment(
                join_token=message.join_token,
                public_key=message.public_key,
                name=message.name,
                signature=message.signature,
            ),
        )
        return v1.EnrolResponse(node_id=enrolled.node_id, account=enrolled.account)

    async def challenge(self, message: v1.ChallengeRequest) -> v1.ChallengeResponse:
        nonce = await self._handlers.challenge(current_peer(), message.node_id)
        return v1.ChallengeResponse(nonce=nonce)

    async def prove(self, message: v1.ProveRequest) -> v1.ProveResponse:
        token = await self._handlers.prove(
            current_peer(), message.node_id, message.nonce, message.signature
        )
        return v1.ProveResponse(token=token.text, expires_in_s=token.expires_in_s)

    async def connect(
        self, messages: AsyncIterator[v1.WorkerMessage]
    ) -> AsyncIterator[v1.MasterMessage]:
        async with (
            aclosing(_items_from_worker(messages)) as batches,
            aclosing(self._handlers.connect(current_node(), batches)) as replies,
        ):
            async for items in replies:
                yield v1.MasterMessage(items=[master_item_to_wire(item) for item in items])

    async def fetch_payload(
        self, message: v1.FetchPayloadRequest
    ) -> AsyncIterator[v1.FetchPayloadResponse]:
        await hold_reply(PIECE_BYTES)
        pieces = self._handlers.fetch_payload(
            current_node(),
            AttemptRef(message.task_id, message.attempt),
            stdin=message.stdin,
        )
        async with aclosing(pieces):
            async for data in pieces:
                yield v1.FetchPayloadResponse(data=data)

    async def finish_with_result(
        self, messages: AsyncIterator[v1.FinishWithResultRequest]
    ) -> v1.FinishWithResultResponse:
        node_id = current_node()
        first = await anext(aiter(messages), None)
        if first is None or first.report is None:
            raise MalformedMessage("a result must begin with its final report")
        report = finished_from_wire(first.report)
        async with aclosing(_result_from_worker(messages)) as result:
            await self._handlers.finish_with_result(node_id, report, result)
        return v1.FinishWithResultResponse()


def serve_link(handlers: LinkHandlers) -> v1.LinkBase:
    """The service to hand to ``rpc.server``."""
    return _LinkService(handlers)


class LinkClient:
    """The Link service from the worker's side. Every call raises the RpcError family."""

    def __init__(self, channel: Channel) -> None:
        self._stub = bind(v1.LinkStub, channel)

    async def enrol(self, enrolment: Enrolment) -> Enrolled:
        """Join the pool with a one-time token."""
        reply = await self._stub.enrol(
            v1.EnrolRequest(
                join_token=enrolment.join_token,
                public_key=enrolment.public_key,
                name=enrolment.name,
                signature=enrolment.signature,
            )
        )
        return Enrolled(node_id=reply.node_id, account=reply.account)

    async def challenge(self, node_id: str) -> bytes:
        """A nonce to sign."""
        return (await self._stub.challenge(v1.ChallengeRequest(node_id=node_id))).nonce

    async def prove(self, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        """A short-lived token, for a signed nonce."""
        reply = await self._stub.prove(
            v1.ProveRequest(node_id=node_id, nonce=nonce, signature=signature)
        )
        return NodeToken(text=reply.token, expires_in_s=reply.expires_in_s)

    async def connect(
        self, batches: AsyncIterator[Iterable[WorkerItem]]
    ) -> AsyncGenerator[tuple[MasterItem, ...], None]:
        """The conversation, batch by batch. Close it with aclosing."""

        async def messages() -> AsyncIterator[v1.WorkerMessage]:
            async for items in batches:
                yield v1.WorkerMessage(items=[worker_item_to_wire(item) for item in items])

        replies = closable(self._stub.connect(messages()))
        async with aclosing(replies):
            async for reply in replies:
                yield tuple(master_item_from_wire(item) for item in reply.items)

    async def fetch_payload(self, ref: AttemptRef, *, stdin: bool) -> AsyncGenerator[bytes, None]:
        """The payload, or standard input, in pieces. Close it with aclosing."""
        request = v1.FetchPayloadRequest(task_id=ref.task_id, attempt=ref.attempt, stdin=stdin)
        replies = closable(self._stub.fetch_payload(request))
        async with aclosing(replies):
            async for reply in replies:
                yield reply.data

    async def finish_with_result(
        self, report: FinishedReport, result: AsyncIterator[bytes]
    ) -> None:
        """Send a final report with its result; when it returns, both are on the master's disk."""

        async def messages() -> AsyncIterator[v1.FinishWithResultRequest]:
            yield v1.FinishWithResultRequest(report=finished_to_wire(report))
            async for data in result:
                yield v1.FinishWithResultRequest(data=data)

        await self._stub.finish_with_result(messages())
