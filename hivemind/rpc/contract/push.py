"""What the master calls on a node that speaks the public API alone."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import attrs
import trio

from hivemind._pb import nodepool
from hivemind.rpc._client_call import ClientCall
from hivemind.rpc._grpclib import Cardinality
from hivemind.rpc._standard import HealthCheckRequest, HealthCheckResponse
from hivemind.rpc.channel import Channel, open_channel
from hivemind.rpc.config import KIB, TransportConfig
from hivemind.rpc.errors import CallRefused, RemoteError, Status
from hivemind.rpc.reply import varint
from hivemind.rpc.stubs import bind

_DATA_TAG = b"\x12"
"""Of ``task_data``, field 2 of ExecuteTaskRequest: bytes of a length that follows."""

_TRANSPORT = TransportConfig(
    max_message_bytes=16 * KIB,
    max_reply_fields=100,
    max_frame_bytes=16 * KIB,
    max_header_bytes=8 * KIB,
    stream_window_bytes=32 * KIB,
    connection_window_bytes=256 * KIB,
)
"""A node may be given thousands of tasks at once, and what it answers is a word for each: it must
not be able to have that many answers held which never end."""

_NOT_ANSWERED = frozenset({Status.UNAVAILABLE, Status.CANCELLED, Status.INTERNAL, Status.UNKNOWN})
"""Statuses that stand for an answer which never came, whoever made them up."""


@attrs.frozen
class PushReply:
    """A node's answer."""

    success: bool
    message: str


def is_refusal(error: RemoteError) -> bool:
    """Whether the node itself has looked at the call, and will not."""
    return error.status not in _NOT_ANSWERED


class PushClient:
    """WorkerNodeService as the master uses it. Every call raises the RpcError family."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def closed(self) -> trio.Event:
        """Set when the connection is over."""
        return self._channel.closed

    async def check(self) -> None:
        """Return if the node answers at all; that it knows no health service is an answer."""
        request = self._channel.request(
            "/grpc.health.v1.Health/Check",
            Cardinality.UNARY_UNARY,
            HealthCheckRequest,
            HealthCheckResponse,
        )
        try:
            async with request as call:
                await call.send_message(HealthCheckRequest())
                await call.recv_message()
        except RemoteError as error:
            if error.status is Status.UNAVAILABLE:
                raise

    async def execute(
        self,
        task_id: str,
        size: int,
        pieces: AsyncIterator[bytes],
        *,
        token: str,
        on_sending: Callable[[], None],
        on_sent: Callable[[], None],
    ) -> PushReply:
        """Give the node a task, whose ``size`` bytes are sent as they come.

        A node may answer when it has taken the task, or when it is done with it. No deadline that
        is set after ``on_sending`` was called is told to the node.
        """
        head = bytes(nodepool.ExecuteTaskRequest(task_id=task_id)) + _DATA_TAG + varint(size)

        async def message() -> AsyncGenerator[bytes, None]:
            yield head
            async for piece in pieces:
                yield piece

        request = self._channel.request(
            "/nodepool.WorkerNodeService/ExecuteTask",
            Cardinality.UNARY_UNARY,
            nodepool.ExecuteTaskRequest,
            nodepool.ExecuteTaskResponse,
            metadata=_bearer(token),
        )
        on_sending()
        async with request as call, aclosing(message()) as parts:
            await call.send_pieces(len(head) + size, parts)
            on_sent()
            reply = await _received(call)
            if reply is None:
                # What is left of the answer is its status, which says more where it is an error.
                await call.finish()
                raise RemoteError(Status.UNKNOWN, None, "the node answered without a reply")
        return PushReply(reply.success, reply.message)

    async def stop(self, task_id: str, *, token: str) -> PushReply:
        """Ask the node to stop a task."""
        stub = bind(nodepool.WorkerNodeServiceStub, self._channel, metadata=_bearer(token))
        request = nodepool.StopTaskExecutionRequest(task_id=task_id)
        reply = await stub.stop_task_execution(request)
        return PushReply(reply.success, reply.message)


@asynccontextmanager
async def open_push_client(
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    allow_plaintext: bool = False,
    address: str | None = None,
) -> AsyncIterator[PushClient]:
    """A connection to a node. Takes and raises as ``rpc.channel.open_channel``."""
    async with open_channel(
        host,
        port,
        tls=tls,
        config=_TRANSPORT,
        allow_plaintext=allow_plaintext,
        address=address,
    ) as channel:
        yield PushClient(channel)


async def _received(
    call: ClientCall[nodepool.ExecuteTaskRequest, nodepool.ExecuteTaskResponse],
) -> nodepool.ExecuteTaskResponse | None:
    """The answer; one that is too long to be read may say anything, and so says nothing."""
    try:
        return await call.recv_message()
    except RemoteError as error:
        if isinstance(error.__cause__, CallRefused):
            raise RemoteError(Status.UNKNOWN, None, str(error)) from error
        raise


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
