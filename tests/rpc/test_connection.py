"""Connections of callers that send whatever they like."""

import random
from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.rpc._pb.hmtest import Ping
from tests.rpc.raw import framed, raw_client
from tests.rpc.service import EchoService, Serving, serving, until

PREFACE_BYTES = 24


@pytest.mark.parametrize("seed", range(3))
async def test_no_bytes_disturb_another_connection_or_leave_a_handler(
    seed: int, logs: list[dict[str, Any]]
) -> None:
    chance, service = random.Random(seed), EchoService()
    async with serving([service]) as at, raw_client(at.port) as witness:
        for _ in range(4):
            async with trio.open_nursery() as hostile:
                for _ in range(32):
                    hostile.start_soon(_send_and_leave, at, _damaged(_calls(chance), chance))
            assert (await witness.unary("/hmtest.Echo/Unary", Ping()))["grpc-status"] == "0"
        await until(lambda: service.hanging == 0)
    assert [line for line in logs if line["log_level"] == "error"] == []


async def _send_and_leave(at: Serving, data: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", at.port) as stream:
        with trio.move_on_after(0.05):
            try:
                await stream.send_all(data)
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass


def _calls(chance: random.Random) -> bytes:
    """A few well-formed calls: some whole, some reset, some left open."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    for _ in range(chance.randint(1, 4)):
        stream_id = client.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "http", ":authority": "x"}
        headers[":path"] = f"/hmtest.Echo/{chance.choice(['Unary', 'Down', 'Up', 'Both'])}"
        headers |= {"content-type": "application/grpc", "te": "trailers"}
        client.send_headers(stream_id, list(headers.items()))
        for _ in range(chance.randint(0, 3)):
            text = chance.choice(["hang", "echo"])
            ping = Ping(text=text, count=chance.randint(0, 3), data=chance.randbytes(200))
            client.send_data(stream_id, framed(ping))
        match chance.choice(["end", "reset", "leave"]):
            case "end":
                client.end_stream(stream_id)
            case "reset":
                client.reset_stream(stream_id, error_code=8)
    return client.data_to_send()


def _damaged(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.randint(0, 6)):
        at = chance.randrange(PREFACE_BYTES, len(damaged))
        match chance.choice(["change", "change", "cut", "insert"]):
            case "change":
                damaged[at] = chance.randrange(256)
            case "cut":
                del damaged[at : at + chance.randint(1, 20)]
            case "insert":
                damaged[at:at] = chance.randbytes(8)
    return bytes(damaged)
