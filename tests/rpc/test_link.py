"""One connection, against peers that break it, flood it, stall it or vanish."""

import os
import signal
import struct
from contextlib import suppress

import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import Frame, PingFrame, SettingsFrame

from hivemind.rpc._link import MOST_UPDATES
from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import KIB, MIB, TransportConfig
from hivemind.rpc.errors import Unreachable
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoStub, Ping
from tests.rpc.conftest import GrpcioClient, open_peer
from tests.rpc.raw import RawClient, framed, raw_client
from tests.rpc.service import EchoService, serving

UNARY = "/hmtest.Echo/Unary"


async def test_the_first_settings_hold_every_value_and_large_frames_pass_at_once() -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        settings = client.h2.remote_settings
        assert settings.max_frame_size == 64 * KIB
        assert settings.max_concurrent_streams == 1000
        assert settings.initial_window_size == MIB
        assert settings.max_header_list_size == 16 * KIB
        assert client.h2.outbound_flow_control_window == 16 * MIB
        # Before the acknowledgement of the settings could have come back.
        frame = framed(Ping(data=b"x" * (64 * KIB - 20)))
        stream_id = await client.call(UNARY)
        await client.send(stream_id, frame, end=True)
        assert (await client.trailers(stream_id))["grpc-status"] == "0"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + b"\0\0\x04\x04\0\0\0\0\0\0\0\0\0"
        # A header block that is not HPACK.
        + b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff",
        # Headers without end, in CONTINUATION frames.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + b"\0\0\0\x04\0\0\0\0\0"
        + b"\0\0\0\x01\0\0\0\0\x01"
        + (b"\0\x20\0\x09\0\0\0\0\x01" + b"\0" * 8192) * 5,
    ],
    ids=["http1", "tls", "overlong frame", "not hpack", "endless headers"],
)
async def test_bytes_that_are_not_http2_end_only_their_connection(data: bytes) -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as witness:
        stream = await trio.open_tcp_stream("127.0.0.1", at.port)
        await stream.send_all(data)
        with trio.fail_after(5):
            while await stream.receive_some(65536):
                pass
        assert (await witness.unary(UNARY, Ping()))["grpc-status"] == "0"
        await stream.aclose()


async def test_frames_of_unknown_kinds_are_ignored() -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        await client.stream.send_all(b"\0\0\x03\xfa\0\0\0\0\0abc")
        assert (await client.unary(UNARY, Ping()))["grpc-status"] == "0"


async def test_a_connection_without_a_preface_is_closed_in_time() -> None:
    config = TransportConfig(handshake_s=0.1)
    async with serving([EchoService()], config=config) as at:
        stream = await trio.open_tcp_stream("127.0.0.1", at.port)
        with trio.fail_after(5):
            while await stream.receive_some(65536):
                pass
        await stream.aclose()


@pytest.mark.parametrize("kind", ["ping", "settings", "empty data", "priority"])
async def test_a_flood_of_frames_that_carry_nothing_is_cut_off(kind: str) -> None:
    frames = {
        "ping": PingFrame(0, opaque_data=b"12345678").serialize(),
        "settings": b"\0\0\0\x04\0\0\0\0\0",
        "empty data": b"\0\0\0\0\0\0\0\0\x01",
        "priority": b"\0\0\x05\x02\0\0\0\0\x03\0\0\0\0\x10",
    }
    async with (
        serving([EchoService()], config=TransportConfig(flood_burst=100)) as at,
        raw_client(at.port) as witness,
        raw_client(at.port) as client,
    ):
        await client.call(UNARY)
        await client.stream.send_all(frames[kind] * 300)
        assert (await client.hear(h2.events.ConnectionTerminated)).error_code == (
            ErrorCodes.ENHANCE_YOUR_CALM
        )
        await client.hung_up()
        assert (await witness.unary(UNARY, Ping()))["grpc-status"] == "0"


async def test_window_updates_for_nothing_that_was_sent_are_cut_off() -> None:
    update = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"
    async with (
        serving([EchoService()], config=TransportConfig(flood_burst=100)) as at,
        raw_client(at.port) as witness,
        raw_client(at.port) as client,
    ):
        # So many may be owed to a peer that was slow to say them.
        await client.stream.send_all(update * (MOST_UPDATES - 10))
        assert (await client.unary(UNARY, Ping()))["grpc-status"] == "0"
        with trio.fail_after(10), suppress(trio.BrokenResourceError):
            while True:
                await client.stream.send_all(update * 1000)
        assert (await witness.unary(UNARY, Ping()))["grpc-status"] == "0"


async def test_rapid_resets_are_cut_off_and_their_handlers_end() -> None:
    service = EchoService()
    async with serving([service], config=TransportConfig(flood_burst=50)) as at:
        async with raw_client(at.port) as client:
            with pytest.raises((trio.BrokenResourceError, AssertionError)):
                await _call_and_reset(client, 300)
        async with raw_client(at.port) as witness:
            assert (await witness.unary(UNARY, Ping()))["grpc-status"] == "0"
            assert service.hanging == 0


async def test_a_peer_that_provokes_answers_and_reads_none_is_cut_off() -> None:
    config = TransportConfig(flood_burst=10_000_000, send_buffer_bytes=64 * KIB)
    async with serving([EchoService()], config=config) as at:
        stream = await trio.open_tcp_stream("127.0.0.1", at.port)
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
        with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
            await _ping(stream, 10_000_000)
        await stream.aclose()


async def _call_and_reset(client: RawClient, count: int) -> None:
    for _ in range(count):
        stream_id = await client.call(UNARY)
        client.h2.send_data(stream_id, framed(Ping(text="hang")), end_stream=True)
        client.h2.reset_stream(stream_id)
        await client.flush()
    await client.hear(h2.events.StreamEnded)


async def _ping(stream: trio.SocketStream, count: int) -> None:
    pings = PingFrame(0, opaque_data=b"12345678").serialize() * 10_000
    for _ in range(count // 10_000):
        await stream.send_all(pings)


async def test_a_stopped_client_is_given_up_and_its_handler_ends(
    grpcio_client: GrpcioClient,
) -> None:
    service = EchoService()
    config = TransportConfig(keepalive_s=0.1, keepalive_timeout_s=0.2)
    code = "call = stub.Unary.future(pb.Ping(text='hang'))\nheed()\n"
    async with (
        serving([service], config=config) as at,
        grpcio_client(at.port, code) as client,
    ):
        with trio.fail_after(10):
            await service.started.wait()
            os.kill(client.process.pid, signal.SIGSTOP)
            await service.ended.wait()
        os.kill(client.process.pid, signal.SIGCONT)
    assert service.ends == ["Cancelled"]


async def test_pings_keep_a_quiet_connection_alive(grpcio_client: GrpcioClient) -> None:
    service = EchoService()
    config = TransportConfig(keepalive_s=0.02, keepalive_timeout_s=5)
    code = "print(stub.Unary.future(pb.Ping(text='hang'), timeout=0.5).code().value[0], flush=True)"
    async with serving([service], config=config) as at, grpcio_client(at.port, code) as client:
        assert await client.hear() == 4


async def test_a_channel_to_a_server_that_stops_answering_ends(tmp_path: object) -> None:
    config = TransportConfig(keepalive_s=0.1, keepalive_timeout_s=0.2)
    async with open_peer("server.py") as peer:
        port = await peer.hear()
        async with open_channel("127.0.0.1", port, config=config) as channel:
            stub = bind(EchoStub, channel)
            await stub.unary(Ping())
            os.kill(peer.process.pid, signal.SIGSTOP)
            with trio.fail_after(10), pytest.raises(Unreachable, match="keepalive"):
                await stub.unary(Ping())
            with pytest.raises(Unreachable):
                await stub.unary(Ping())
            os.kill(peer.process.pid, signal.SIGCONT)


async def test_headers_beyond_the_limit_end_the_connection() -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await client.unary(UNARY, Ping(), {"x": "y" * 100_000})


def test_the_frames_used_here_are_what_they_claim() -> None:
    frame, length = Frame.parse_frame_header(memoryview(b"\0\0\x05\x02\0\0\0\0\x03"))
    assert (type(frame).__name__, length, struct.calcsize(">BI")) == ("PriorityFrame", 5, 5)


async def test_what_a_peer_allows_our_header_table_to_hold_is_not_kept() -> None:
    settings = SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 2**31})
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        client.h2.decoder.max_allowed_table_size = 2**31
        await client.stream.send_all(settings.serialize())
        for number in range(200):
            path = f"/hmtest.Echo/{number}" + "x" * 500
            assert (await client.unary(path, Ping()))["grpc-status"] == "12"
        assert client.h2.decoder.header_table_size <= 4096
        assert client.h2.decoder.header_table._current_size <= 4096
