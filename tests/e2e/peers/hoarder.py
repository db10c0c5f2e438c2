"""A node that answers every task with more than anybody wants to hold, and never ends an answer.

It speaks HTTP/2 by the library h2 alone. Usage: hoarder.py; prints its port, and then a line for
each task that it was given.
"""

import struct
from contextlib import suppress

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)

REPLY_BYTES = 4 * 1024 * 1024
PIECE = bytes(16 * 1024)


class Connection:
    """One caller's."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        self.paths: dict[int, bytes] = {}
        self.left: dict[int, int] = {}

    async def serve(self) -> None:
        self.h2.initiate_connection()
        while True:
            await self.stream.send_all(self.h2.data_to_send())
            data = await self.stream.receive_some(65536)
            if not data:
                return
            for event in self.h2.receive_data(data):
                match event:
                    case RequestReceived():
                        self.paths[event.stream_id] = dict(event.headers)[b":path"]
                    case DataReceived():
                        self.h2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case StreamEnded():
                        self.answer(event.stream_id)
                    case StreamReset():
                        self.left.pop(event.stream_id, None)
                    case ConnectionTerminated():
                        return
                    case WindowUpdated() | RemoteSettingsChanged():
                        pass
            self.pour()

    def answer(self, stream_id: int) -> None:
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        if not self.paths[stream_id].endswith(b"/ExecuteTask"):
            # An answer, which is all that a question whether it is there is for.
            self.h2.send_headers(stream_id, [*headers, ("grpc-status", "12")], end_stream=True)
            return
        print("given", flush=True)
        self.h2.send_headers(stream_id, headers)
        self.h2.send_data(stream_id, struct.pack(">BI", 0, REPLY_BYTES))
        # All of it but for its last byte.
        self.left[stream_id] = REPLY_BYTES - 1

    def pour(self) -> None:
        """As much as the caller lets through."""
        for stream_id in list(self.left):
            while self.left[stream_id]:
                room = self.h2.local_flow_control_window(stream_id)
                piece = PIECE[: min(room, self.left[stream_id])]
                if not piece:
                    break
                self.h2.send_data(stream_id, piece)
                self.left[stream_id] -= len(piece)


async def serve(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        await Connection(stream).serve()


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, listeners)


trio.run(main)
