"""Bytes that are no conversation in HTTP/2, or a strange one, end their own connection alone."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import Watched, bounded

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"

# Of a POST to gRPC's health check, without indexing, so that it can be sent at any time.
HEADERS = b"".join(
    b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Check"),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)
TYPES = {"data": 0, "headers": 1, "priority": 2, "reset": 3, "settings": 4, "push": 5, "ping": 6}
TYPES |= {"goaway": 7, "window": 8, "continuation": 9, "unknown": 0xFA}


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + (stream_id & 0xFFFFFFFF).to_bytes(4, "big") + payload


def frames() -> st.SearchStrategy[bytes]:
    """A frame of any kind: half of them might be meant."""
    streams = st.sampled_from((0, 1, 1, 1, 2, 3, 5, 2**31 - 1, 2**31))
    payloads = st.one_of(
        st.just(HEADERS),
        st.just(b"\0\0\0\0\0"),
        st.binary(max_size=30),
        st.sampled_from((b"", b"\0" * 4, b"\xff" * 4, b"\0" * 8, b"\0\0\0\1", b"\x7f\xff\xff\xff")),
        st.sampled_from((b"\0\4\xff\xff\xff\xff", b"\0\5\0\0\0\0", b"\0\4\0\0\0\0")),
    )
    return st.one_of(
        st.builds(
            frame,
            st.sampled_from(sorted(TYPES.values())),
            st.sampled_from((0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF)),
            streams,
            payloads,
        ),
        st.just(frame(TYPES["headers"], 5, 1, HEADERS)),
        st.just(frame(TYPES["headers"], 4, 1, HEADERS) + frame(0, 1, 1, b"\0\0\0\0\0")),
        st.binary(max_size=40),
    )


async def throw(port: int, data: bytes) -> None:
    """Send it, and read what comes until there is no more, or nothing for a moment."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.move_on_after(0.02):
            try:
                await stream.send_all(data)
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass


@pytest.mark.parametrize("which", ["master", "worker"])
@pytest.mark.parametrize("preface", [b"", PREFACE, PREFACE + EMPTY_SETTINGS], ids=len)
def test_any_frames_end_only_their_own_connection(
    master: Watched, worker: Watched, which: str, preface: bytes
) -> None:
    watched = {"master": master, "worker": worker}[which]

    @bounded()
    @given(
        st.lists(st.lists(frames(), min_size=1, max_size=8).map(b"".join), min_size=8, max_size=8)
    )
    def each_ends(drawn: list[bytes]) -> None:
        async def send() -> None:
            async with trio.open_nursery() as connections:
                for data in drawn:
                    connections.start_soon(throw, watched.port, preface + data)
            await watched.check_health()

        trio.run(send)
        watched.check_log(len(drawn))

    each_ends()
    watched.check_memory()
