"""Calls by HTTP/2 frames, with messages as bytes, and what came back."""

import struct
from collections.abc import Sequence

import attrs
import h2.events
import trio

from tests.rpc.raw import RawClient, raw_client

ANSWER_S = 20.0
FRAME_BYTES = 16 * 1024


@attrs.frozen
class Sent:
    """One call."""

    path: str
    stream: bytes
    """What its DATA frames hold, whole: prefixed messages, as a rule."""
    token: str | None = None
    timeout: str = "300m"


@attrs.frozen
class Reply:
    """How a call ended."""

    http_status: str
    grpc_status: int | None
    message: str
    code: str | None
    """Of the public table of errors, where the trailers have one."""
    data: bytes


def prefixed(message: bytes, *, flag: int = 0, announced: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(message) if announced is None else announced) + message


async def exchange(port: int, calls: Sequence[Sent]) -> list[Reply]:
    """All calls at once on one connection; a call that is not answered is an error."""
    async with raw_client(port) as client:
        streams = [await _send(client, call) for call in calls]
        with trio.fail_after(ANSWER_S):
            return [await _reply(client, stream_id) for stream_id in streams]


async def _send(client: RawClient, call: Sent) -> int:
    headers = {"grpc-timeout": call.timeout}
    if call.token is not None:
        headers["authorization"] = f"Bearer {call.token}"
    stream_id = await client.call(call.path, headers=headers)
    for at in range(0, len(call.stream), FRAME_BYTES):
        await client.send(stream_id, call.stream[at : at + FRAME_BYTES])
    await client.send(stream_id, b"", end=True)
    return stream_id


async def _reply(client: RawClient, stream_id: int) -> Reply:
    fields = await client.trailers(stream_id)
    data = b"".join(
        event.data
        for event in client.events
        if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
    )
    status = fields.get("grpc-status")
    return Reply(
        http_status=fields.get(":status", ""),
        grpc_status=None if status is None else int(status),
        message=fields.get("grpc-message", ""),
        code=fields.get("hivemind-error-code"),
        data=data,
    )
