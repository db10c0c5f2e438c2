"""Peers that know HTTP/2 and mean harm: what each may cost, and that nobody beside it waits.

Every test names one attack. While it goes on, a health check on a connection of its own is answered
in time; afterwards the daemon holds little more memory than before, and no more sockets.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import h2.exceptions
import pytest
import trio
from h2.settings import SettingCodes

from hivemind.rpc._standard import HealthCheckRequest
from tests.fuzz.conftest import HEALTH, MIB, Watched
from tests.fuzz.peer import Sent, exchange, prefixed
from tests.fuzz.test_frames import EMPTY_SETTINGS, HEADERS, PREFACE, TYPES, frame
from tests.rpc.raw import RawClient, raw_client

HEALTHY_S = 3.0
"""Within this a health check is answered beside an attack; alone it takes milliseconds, and these
tests share two processors with others."""
ATTACK_S = 20.0
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError)

HEALTH_PATH = "/grpc.health.v1.Health/Check"
WATCH_PATH = "/grpc.health.v1.Health/Watch"

Attack = Callable[[Watched], Awaitable[None]]


async def endure(watched: Watched, attack: Attack, *, lines: int = 1) -> None:
    """Run the attack; fail where somebody beside it waits, or too much of it is left."""
    before = watched.descriptors()
    async with trio.open_nursery() as sides:

        async def probe() -> None:
            while True:
                await watched.check_health(within_s=HEALTHY_S)
                await trio.sleep(0.02)

        sides.start_soon(probe)
        with trio.fail_after(ATTACK_S):
            await attack(watched)
        await watched.check_health(within_s=HEALTHY_S)
        sides.cancel_scope.cancel()
    with trio.fail_after(10):
        while watched.descriptors() > before + 8:  # noqa: ASYNC110 - another process's
            await trio.sleep(0.05)
    watched.check_memory()
    watched.check_log(lines)


async def hung_up(stream: trio.SocketStream) -> None:
    """Return when the other end has closed the connection."""
    try:
        while await stream.receive_some(65536):
            pass
    except BROKEN:
        pass


async def pour(watched: Watched, data: bytes, *, times: int, most_bytes: int) -> None:
    """Send it again and again on a new connection until it is closed, which comes to pass before
    the other end has taken ``most_bytes``.
    """
    taken = 0
    async with (
        await trio.open_tcp_stream("127.0.0.1", watched.port) as stream,
        trio.open_nursery() as both,
    ):

        async def listen() -> None:
            await hung_up(stream)
            both.cancel_scope.cancel()

        both.start_soon(listen)
        try:
            await stream.send_all(PREFACE + EMPTY_SETTINGS)
            for _ in range(times):
                await stream.send_all(data)
                taken += len(data)
        except BROKEN:
            return
        await trio.sleep_forever()
    assert taken <= most_bytes


POURED = {
    "pings": frame(TYPES["ping"], 0, 0, b"12345678") * 1000,
    "settings": EMPTY_SETTINGS * 1000,
    "empty data": frame(TYPES["headers"], 4, 1, HEADERS) + frame(0, 0, 1, b"") * 2000,
    "priorities": frame(TYPES["priority"], 0, 3, b"\0\0\0\0\x10") * 1000,
    "unknown frames": frame(TYPES["unknown"], 0, 0, b"x" * 8) * 1000,
    "window updates of nothing": frame(TYPES["window"], 0, 0, b"\0\0\0\0") * 1000,
    "window updates beyond all bounds": frame(TYPES["window"], 0, 0, b"\x7f\xff\xff\xff") * 1000,
    "continuations without end": frame(TYPES["headers"], 0, 1, HEADERS)
    + frame(TYPES["continuation"], 0, 1, b"") * 1000,
    "headers without end": frame(TYPES["headers"], 0, 1, HEADERS)
    + frame(TYPES["continuation"], 0, 1, b"\0\x01a\x7f\x81\x7f" + b"x" * 8192) * 100,
    "a header that is far too long": frame(TYPES["headers"], 0, 1, b"\0\x01a\x7f\xff\xff\xff\x07")
    + frame(TYPES["continuation"], 0, 1, b"x" * 16000) * 100,
    "frames that are too long": b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 100_000,
    "resets of what was never there": frame(TYPES["reset"], 0, 1, b"\0\0\0\x08") * 1000,
    "rapid resets": b"".join(
        frame(TYPES["headers"], 4, 2 * n + 1, HEADERS)
        + frame(TYPES["reset"], 0, 2 * n + 1, b"\0\0\0\x08")
        for n in range(5000)
    ),
    "noise": os.urandom(100_000),
}


@pytest.mark.parametrize("kind", POURED)
async def test_whoever_pours_in_is_cut_off(master: Watched, kind: str) -> None:
    await endure(
        master, lambda one: pour(one, POURED[kind], times=400, most_bytes=32 * MIB), lines=2
    )


async def test_a_block_of_headers_that_unpacks_to_much_more_is_refused(master: Watched) -> None:
    # One long header into the table, then referred to by a byte, thousands of times.
    long = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000
    bomb = frame(TYPES["headers"], 5, 1, HEADERS + long + b"\xbe" * 12_000)
    await endure(master, lambda one: pour(one, bomb, times=1, most_bytes=len(bomb)))


async def test_very_many_headers_are_refused(master: Watched) -> None:
    many = frame(TYPES["headers"], 5, 1, HEADERS + b"\0\x01a\x01b" * 3000)
    await endure(master, lambda one: pour(one, many, times=1, most_bytes=len(many)))


@pytest.mark.parametrize(
    ("stream", "statuses"),
    [
        (b"", {3}),
        (b"\0", {3}),
        (prefixed(b"x" * 10, announced=2**32 - 1), {8}),
        (prefixed(b"x" * 10, announced=65_537), {8}),
        (prefixed(b"x" * 10, announced=20), {3}),
        (prefixed(b"\x0a\x01x" * 2, announced=3), {3, 5}),
        (prefixed(b"", flag=1), {12}),
        (prefixed(b"", flag=255), {3, 12}),
        (prefixed(b"\x0a" + b"\xff" * 9 + b"\x01"), {3}),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_message_whose_length_lies_gets_a_proper_status(
    master: Watched, stream: bytes, statuses: set[int]
) -> None:
    async def attack(one: Watched) -> None:
        (reply,) = await exchange(one.port, [Sent(HEALTH_PATH, stream, timeout="5S")])
        assert reply.grpc_status in statuses, reply

    await endure(master, attack)


@pytest.mark.parametrize("kind", ["nothing", "half a preface", "half a frame", "half a message"])
async def test_half_open_connections_hold_nobody_up_and_little_memory(
    master: Watched, kind: str
) -> None:
    call = frame(TYPES["headers"], 4, 1, HEADERS) + frame(0, 0, 1, b"\0\0\0\x10\0" + b"x" * 100)
    begun = {
        "nothing": b"",
        "half a preface": PREFACE[:10],
        "half a frame": PREFACE + EMPTY_SETTINGS + b"\0\xff",
        "half a message": PREFACE + EMPTY_SETTINGS + call,
    }[kind]

    async def attack(one: Watched) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                stream = await stack.enter_async_context(
                    await trio.open_tcp_stream("127.0.0.1", one.port)
                )
                await stream.send_all(begun)
            await trio.sleep(0.3)

    await endure(master, attack, lines=100)


@pytest.mark.slow
async def test_half_open_connections_are_hung_up_on_in_time(master: Watched) -> None:
    async with AsyncExitStack() as stack:
        streams = []
        for begun in (b"", PREFACE[:10], PREFACE, b"\x16\x03\x01\x02"):
            stream = await stack.enter_async_context(
                await trio.open_tcp_stream("127.0.0.1", master.port)
            )
            await stream.send_all(begun)
            streams.append(stream)
        with trio.fail_after(15):  # of which the handshake may take ten
            for stream in streams:
                await hung_up(stream)
    # A caller without a token has half a minute for its message.
    async with raw_client(master.port) as client:
        stream_id = await client.call(HEALTH_PATH)
        await client.send(stream_id, b"\0\0\0\x10\0x")
        client_deadline = trio.current_time() + 40
        while trio.current_time() < client_deadline:
            try:
                fields = await client.trailers(stream_id)
            except trio.TooSlowError:
                continue
            assert fields["grpc-status"] == "4"
            return
        raise AssertionError("the half message is still waited for")


async def test_a_thousand_idle_connections_leave_room_for_everybody_else(master: Watched) -> None:
    async def attack(one: Watched) -> None:
        async with AsyncExitStack() as stack:

            async def connect() -> None:
                stream = await trio.open_tcp_stream("127.0.0.1", one.port)
                stack.push_async_exit(stream)
                await stream.send_all(PREFACE + EMPTY_SETTINGS)

            for _ in range(20):
                async with trio.open_nursery() as opening:
                    for _ in range(50):
                        opening.start_soon(connect)
            assert one.descriptors() < 700
            (reply,) = await exchange(one.port, [HEALTH])
            assert reply.grpc_status == 0

    await endure(master, attack)


async def test_replies_that_are_never_read_cost_little(master: Watched) -> None:
    """A reader whose window is shut, with many calls whose replies are large."""

    async def attack(one: Watched) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(5):
                client = await stack.enter_async_context(raw_client(one.port))
                client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
                await client.flush()
                for _ in range(100):
                    await ask_for_much(client)
            await trio.sleep(0.5)

    await endure(master, attack)


async def ask_for_much(client: RawClient) -> None:
    """All that reflection knows of the project's interfaces, forty times."""
    stream_id = await client.call(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", headers={"grpc-timeout": "9S"}
    )
    question = prefixed(b"\x22\x12hivemind.v1.Tasks")
    await client.send(stream_id, question * 40, end=True)


async def test_a_peer_that_lets_replies_through_byte_by_byte_holds_nobody_up(
    master: Watched,
) -> None:
    async def attack(one: Watched) -> None:
        async with raw_client(one.port) as client:
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            await client.flush()
            await ask_for_much(client)
            updates = frame(TYPES["window"], 0, 1, b"\0\0\0\1") * 5000
            try:
                for _ in range(6):
                    await client.stream.send_all(updates)
                with trio.move_on_after(1):
                    await hung_up(client.stream)
            except BROKEN:
                pass

    await endure(master, attack)


async def test_a_watch_that_nobody_reads_costs_little(master: Watched) -> None:
    async def attack(one: Watched) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(20):
                client = await stack.enter_async_context(raw_client(one.port))
                for _ in range(20):
                    stream_id = await client.call(WATCH_PATH, headers={"grpc-timeout": "30S"})
                    await client.send(stream_id, prefixed(bytes(HealthCheckRequest())), end=True)
            await trio.sleep(0.3)

    await endure(master, attack)


async def test_calls_without_a_token_are_few_on_one_connection(master: Watched) -> None:
    async def attack(one: Watched) -> None:
        async with raw_client(one.port) as client:
            streams = [await client.call(WATCH_PATH) for _ in range(300)]
            for stream_id in streams:
                await client.send(stream_id, prefixed(b""), end=True)
            refused = await client.trailers(streams[-1])
            assert refused["grpc-status"] == "8", refused

    await endure(master, attack)


def has_trailers(answer: bytes) -> bool:
    """Whether the frames so far end stream 1 with headers, as the status of a call does."""
    while len(answer) >= 9:
        size, kind, flags = int.from_bytes(answer[:3], "big"), answer[3], answer[4]
        stream_id = int.from_bytes(answer[5:9], "big")
        if (kind, stream_id) == (TYPES["headers"], 1) and flags & 1 and len(answer) >= 9 + size:
            return True
        answer = answer[9 + size :]
    return False


async def test_writers_of_a_byte_at_a_time_hold_nobody_up(master: Watched) -> None:
    call = PREFACE + EMPTY_SETTINGS + frame(TYPES["headers"], 4, 1, HEADERS)
    call += frame(0, 1, 1, prefixed(b""))

    async def write(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for byte in call:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.005)
            # Slow, and right: it is answered.
            with trio.fail_after(10):
                answer = b""
                while not has_trailers(answer):
                    piece = await stream.receive_some(4096)
                    assert piece, "it hung up"
                    answer += piece

    async def attack(one: Watched) -> None:
        async with trio.open_nursery() as writers:
            for _ in range(30):
                writers.start_soon(write, one.port)

    await endure(master, attack)


async def test_connections_that_come_and_go_leave_nothing(master: Watched) -> None:
    async def attack(one: Watched) -> None:
        for _ in range(10):
            async with trio.open_nursery() as connections:
                for number in range(50):
                    connections.start_soon(come_and_go, one.port, number % 3)

    await endure(master, attack)


async def come_and_go(port: int, how: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if how == 0:
        await stream.send_all(PREFACE + EMPTY_SETTINGS + frame(TYPES["headers"], 4, 1, HEADERS))
    elif how == 1:
        await stream.send_eof()
    # Reset, rather than closed.
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await trio.aclose_forcefully(stream)
