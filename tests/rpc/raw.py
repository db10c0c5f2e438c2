"""A client that speaks HTTP/2 frame by frame, to do what no gRPC library would."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.events
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.rpc._pb.hmtest import Ping


def framed(message: Ping, *, announced: int | None = None, flag: int = 0) -> bytes:
    body = bytes(message)
    return struct.pack(">BI", flag, len(body) if announced is None else announced) + body


class RawClient:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True, header_encoding="utf-8", validate_outbound_headers=False
            )
        )
        self.events: list[Any] = []

    async def begin(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        await self.hear(h2.events.RemoteSettingsChanged)

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def call(
        self, path: str, *, end: bool = False, headers: dict[str, str] | None = None
    ) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        fields |= headers or {}
        self.h2.send_headers(stream_id, list(fields.items()), end_stream=end)
        await self.flush()
        return stream_id

    async def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.h2.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def unary(
        self, path: str, message: Ping, headers: dict[str, str] | None = None
    ) -> dict[str, str]:
        """The trailers of a whole call."""
        stream_id = await self.call(path, headers=headers)
        await self.send(stream_id, framed(message), end=True)
        return await self.trailers(stream_id)

    async def trailers(self, stream_id: int) -> dict[str, str]:
        """The headers that ended the call."""
        with trio.fail_after(10):
            while True:
                headers: dict[str, str] = {}
                for event in self.events:
                    if getattr(event, "stream_id", None) != stream_id:
                        continue
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        headers |= dict(event.headers)
                    if isinstance(event, h2.events.StreamEnded):
                        return headers
                await self._receive()

    async def hear(self, kind: type[Any]) -> Any:
        """The first event of `kind` not heard yet."""
        with trio.fail_after(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        self.events.remove(event)
                        return event
                await self._receive()

    async def hung_up(self) -> None:
        """Return when the server has closed the connection."""
        with trio.fail_after(10):
            try:
                while await self.stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass

    async def _receive(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, "the server hung up"
        self.events += self.h2.receive_data(data)
        await self.flush()


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[RawClient]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        client = RawClient(stream)
        await client.begin()
        yield client
