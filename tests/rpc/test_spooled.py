"""Unary methods with one huge field: it goes to a file as it arrives."""

import hashlib
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind.rpc._flow import Buffer
from hivemind.rpc._spooled import split_field
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import MIB, TransportConfig
from hivemind.rpc.errors import CallRefused, ErrorCode, RemoteError
from hivemind.rpc.spool import Spool, SpooledField, current_upload
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import GateBase, GateStub, Pong, StoreRequest
from tests.rpc.conftest import GrpcioClient, open_peer
from tests.rpc.raw import raw_client
from tests.rpc.service import serving, until

BEGUN = struct.pack(">BI", 0, MIB + 4) + b"\x12\x80\x80\x40" + b"x" * 9
"""The first bytes of a request whose upload of a mebibyte never comes."""
STORE = "/hmtest.Gate/Store"
GOOD = {"authorization": "Bearer good"}
FIELD = SpooledField(field_number=2, rest_bytes=1000)


class Storing(GateBase):
    """Says what came; keeps it where `keep` says."""

    keep: Path | None = None
    hangs = False

    async def store(self, message: StoreRequest) -> Pong:
        upload = current_upload()
        digest = hashlib.sha256(await upload.read())
        assert message.content == b""
        if self.hangs:
            await trio.sleep_forever()
        if self.keep is not None:
            await upload.keep(self.keep)
        text = f"{message.name} {sorted(message.labels.items())} {digest.hexdigest()}"
        return Pong(text=text, number=upload.size_bytes)


@pytest.fixture
async def spool(tmp_path: Path) -> Spool:
    made = Spool(folder=tmp_path / "spool", budget=ByteBudget(8 * MIB), max_bytes=4 * MIB)
    await made.sweep()
    return made


def storing(service: GateBase, spool: Spool, **options: Any) -> Any:
    return serving([service], spool=spool, spooled={STORE: FIELD}, **options)


async def test_the_handler_finds_the_field_in_a_file_and_the_rest_in_the_message(
    spool: Spool, tmp_path: Path, grpcio_client: GrpcioClient
) -> None:
    service = Storing()
    service.keep = tmp_path / "kept"
    code = """
content = bytes(range(256)) * 12_000
request = pb.StoreRequest(name="n", content=content, labels={"a": "1"})
say(outcome(gate.Store.future(request, metadata=[("authorization", "Bearer good")], timeout=20)))
say(outcome(gate.Store.future(pb.StoreRequest(name="none"),
    metadata=[("authorization", "Bearer good")], timeout=20)))
"""
    content = bytes(range(256)) * 12_000
    async with storing(service, spool) as at, grpcio_client(at.port, code) as client:
        full = await client.hear()
        assert service.keep.read_bytes() == content
        assert full["number"] == len(content)
        assert full["text"] == f"n [('a', '1')] {hashlib.sha256(content).hexdigest()}"
        empty = await client.hear()
        assert (empty["number"], empty["text"].split()[0]) == (0, "none")
    assert list(spool.folder.iterdir()) == []
    assert spool.budget.used_bytes == 0


async def test_nothing_is_written_for_a_caller_without_a_token(spool: Spool) -> None:
    async with storing(Storing(), spool) as at, open_channel("127.0.0.1", at.port) as channel:
        with pytest.raises(RemoteError) as caught:
            await bind(GateStub, channel).store(StoreRequest(content=b"x" * 100_000))
        assert caught.value.code is ErrorCode.INVALID_SESSION
        assert list(spool.folder.iterdir()) == []


async def test_over_the_limit_it_is_refused_with_the_limit(spool: Spool) -> None:
    async with (
        storing(Storing(), spool) as at,
        open_channel("127.0.0.1", at.port, metadata=GOOD) as channel,
    ):
        stub = bind(GateStub, channel)
        with pytest.raises(RemoteError, match=str(4 * MIB)) as caught:
            await stub.store(StoreRequest(content=b"x" * (4 * MIB + 1)))
        assert caught.value.status.name == "RESOURCE_EXHAUSTED"
        with pytest.raises(RemoteError, match="over the limit"):
            await stub.store(StoreRequest(content=b"x" * (5 * MIB)))
        with pytest.raises(RemoteError, match="may hold 1000 bytes"):
            await stub.store(StoreRequest(name="n" * 2000, content=b"x"))
        assert (await stub.store(StoreRequest(content=b"x" * (4 * MIB)))).number == 4 * MIB


async def test_an_upload_that_breaks_off_leaves_nothing(spool: Spool) -> None:
    async with storing(Storing(), spool) as at:
        async with raw_client(at.port) as client:
            stream_id = await client.call(STORE, headers=GOOD)
            await client.send(stream_id, BEGUN)
            await until(lambda: len(list(spool.folder.iterdir())) == 1)
        await until(lambda: list(spool.folder.iterdir()) == [])
        assert spool.budget.used_bytes == 0


async def test_a_cancelled_call_removes_its_upload(spool: Spool) -> None:
    service = Storing()
    service.hangs = True
    async with (
        storing(service, spool) as at,
        open_channel("127.0.0.1", at.port, metadata=GOOD) as channel,
    ):
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await bind(GateStub, channel).store(StoreRequest(content=b"x" * 100_000))
        await until(lambda: list(spool.folder.iterdir()) == [])


async def test_a_slow_upload_is_given_up(spool: Spool) -> None:
    config = TransportConfig(first_message_s=0.1)
    async with storing(Storing(), spool, config=config) as at, raw_client(at.port) as client:
        stream_id = await client.call(STORE, headers=GOOD)
        await client.send(stream_id, struct.pack(">BI", 0, 100) + b"\x12\x62xx")
        assert (await client.trailers(stream_id))["grpc-status"] == "4"
        await until(lambda: list(spool.folder.iterdir()) == [])


UPLOAD_100_MB = """
content = b"x" * 100_000_000
request = pb.StoreRequest(name="big", content=content)
say(outcome(gate.Store.future(request, metadata=[("authorization", "Bearer good")], timeout=60)))
"""


async def test_100_mb_in_one_message_cost_the_server_little_memory(
    tmp_path: Path, grpcio_client: GrpcioClient
) -> None:
    async with open_peer("server.py", str(tmp_path / "spool")) as peer:
        port = await peer.hear()
        await peer.tell("rss")
        before_kib = await peer.hear()
        async with grpcio_client(port, UPLOAD_100_MB) as client:
            assert (await client.hear())["number"] == 100_000_000
        await peer.tell("peak")
        grown_kib = await peer.hear() - before_kib
        assert grown_kib < 32 * 1024


def _arrived(data: bytes) -> Buffer:
    buffer = Buffer(lambda size: None)
    buffer.add(data, len(data))
    buffer.eof()
    return buffer


async def _split(spool: Spool, data: bytes) -> tuple[bytes, bytes]:
    async with spool.open_file() as file:
        rest = await split_field(_arrived(data), len(data), FIELD, file, 5)
        return rest, await file.read()


async def test_the_field_may_stand_anywhere_among_the_others(spool: Spool) -> None:
    name, content = bytes(StoreRequest(name="n")), bytes(StoreRequest(content=b"c" * 300))
    labels = bytes(StoreRequest(labels={"a": "b"}))
    for parts in ([name, content, labels], [content, labels, name], [labels, name, content]):
        rest, spooled = await _split(spool, b"".join(parts))
        assert spooled == b"c" * 300
        message = StoreRequest.parse(rest)
        assert (message.name, message.labels, message.content) == ("n", {"a": "b"}, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x05abc",
        b"\x12\x01a\x12\x01b",
        b"\x0a\xff\xff\xff\xff\x7fx",
        b"\x0b",
        b"\x80",
        b"\xff" * 20,
    ],
)
async def test_what_is_malformed_is_an_invalid_argument(spool: Spool, data: bytes) -> None:
    with pytest.raises(CallRefused) as caught:
        await _split(spool, data)
    assert caught.value.status.name in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    assert list(spool.folder.iterdir()) == []


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(data: bytes, tmp_path_factory: Any) -> None:
    spool = Spool(folder=tmp_path_factory.mktemp("s"), budget=ByteBudget(1000), max_bytes=500)

    async def split() -> None:
        with suppress(CallRefused):
            await _split(spool, data)

    trio.run(split)
    assert list(spool.folder.iterdir()) == []
    assert spool.budget.used_bytes == 0
