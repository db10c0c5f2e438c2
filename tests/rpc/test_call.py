"""What becomes of one call on the server, as grpcio sees it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from hivemind.rpc.context import current_call, current_peer, note_error_code
from hivemind.rpc.errors import ErrorCode, fail
from hivemind.rpc.stubs import bind
from tests.rpc._pb.hmtest import EchoBase, EchoStub, Ping, Pong
from tests.rpc.conftest import GrpcioClient
from tests.rpc.raw import raw_client
from tests.rpc.service import EchoService, served, serving, until

UNARY = """
for text in job["texts"]:
    say(outcome(stub.Unary.future(pb.Ping(text=text), timeout=20)))
"""


class Faulty(EchoBase):
    """Fails as its request says."""

    async def unary(self, message: Ping) -> Pong:
        await trio.lowlevel.checkpoint()
        match message.text:
            case "refuse":
                raise fail(ErrorCode.TASK_NOT_FOUND, Status.NOT_FOUND, "no task 7")
            case "plain":
                raise GRPCError(Status.ABORTED, "tört")
            case "fault":
                raise ZeroDivisionError("the secret is 42")
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._refuse)
                    await trio.sleep_forever()
            case "two":
                refusal = fail(None, Status.ABORTED, "one")
                raise ExceptionGroup("both", [refusal, ValueError("other")])
            case "note":
                note_error_code(ErrorCode.INSUFFICIENT_RESOURCES)
            case "peer":
                return Pong(text=f"{current_call().method} {current_peer()}")
        return Pong(text=message.text)

    async def _refuse(self) -> None:
        raise fail(ErrorCode.NODE_OFFLINE, Status.UNAVAILABLE, "gone")

    async def down(self, message: Ping) -> AsyncIterator[Pong]:
        yield Pong(text="one")
        raise fail(ErrorCode.TASK_FAILED, Status.ABORTED, "after one")


async def test_a_refusal_carries_status_message_and_code_in_the_trailers(
    grpcio_client: GrpcioClient,
) -> None:
    texts = ["refuse", "plain", "note", "group", "fine"]
    async with (
        serving([Faulty()]) as at,
        grpcio_client(at.port, UNARY, texts=texts) as client,
    ):
        refused, plain, noted, grouped, fine = [await client.hear() for _ in texts]
    assert refused["status"] == "NOT_FOUND"
    assert refused["details"] == "TASK_NOT_FOUND: no task 7"
    assert refused["trailing"]["hivemind-error-code"] == "3001"
    assert (plain["status"], plain["details"]) == ("ABORTED", "tört")
    assert "hivemind-error-code" not in plain["trailing"]
    assert noted["status"] == "OK"
    assert noted["trailing"]["hivemind-error-code"] == "2003"
    assert (grouped["status"], grouped["trailing"]["hivemind-error-code"]) == (
        "UNAVAILABLE",
        "2002",
    )
    assert (fine["status"], fine["text"]) == ("OK", "fine")
    assert "hivemind-error-code" not in fine["trailing"]


async def test_a_fault_is_one_logged_line_and_an_id_for_the_peer(
    grpcio_client: GrpcioClient, logs: list[dict[str, Any]]
) -> None:
    texts = ["fault", "two"]
    async with (
        serving([Faulty()]) as at,
        grpcio_client(at.port, UNARY, texts=texts) as client,
    ):
        answers = [await client.hear() for _ in texts]
    lines = [line for line in logs if line["log_level"] == "error"]
    assert len(lines) == 2
    for answer, line in zip(answers, lines, strict=True):
        assert answer["status"] == "INTERNAL"
        assert answer["trailing"]["hivemind-error-code"] == "9999"
        assert answer["details"].endswith(f"an unforeseen fault, id {line['error_id']}")
        assert line["method"] == "/hmtest.Echo/Unary"
        assert line["peer"].startswith("127.0.0.1:")
    assert "secret" not in str(answers)
    assert "ZeroDivision" not in str(answers)


async def test_an_error_after_replies_comes_in_the_trailers(grpcio_client: GrpcioClient) -> None:
    code = """
call = stub.Down(pb.Ping(), timeout=20)
say(next(call).text)
say(outcome(call))
"""
    async with serving([Faulty()]) as at, grpcio_client(at.port, code) as client:
        assert await client.hear() == "one"
        end = await client.hear()
    assert (end["status"], end["trailing"]["hivemind-error-code"]) == ("ABORTED", "3002")


async def test_the_handler_knows_its_method_and_peer(grpcio_client: GrpcioClient) -> None:
    async with (
        serving([Faulty()]) as at,
        grpcio_client(at.port, UNARY, texts=["peer"]) as client,
    ):
        method, _, peer = (await client.hear())["text"].partition(" ")
    assert method == "/hmtest.Echo/Unary"
    assert peer.startswith("127.0.0.1:")


async def test_bytes_that_are_no_request_are_an_invalid_argument(
    grpcio_client: GrpcioClient, logs: list[dict[str, Any]]
) -> None:
    code = """
for path, data in (("Unary", b"\\x0a\\xff"), ("Up", b"\\xff\\xff\\xff"), ("Nothing", b"")):
    call = channel.unary_unary(f"/hmtest.Echo/{path}", lambda m: m, lambda b: b)
    say(outcome(call.future(data, timeout=20)))
"""
    async with serving([EchoService()]) as at, grpcio_client(at.port, code) as client:
        answers = [await client.hear() for _ in range(3)]
    assert [a["status"] for a in answers] == [
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
    ]
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_compressed_message_is_unimplemented_and_told_what_is_taken(
    grpcio_client: GrpcioClient,
) -> None:
    code = """
call = stub.Unary.future(pb.Ping(text="x" * 5000), timeout=20, compression=grpc.Compression.Gzip)
say(outcome(call))
"""
    async with serving([EchoService()]) as at, grpcio_client(at.port, code) as client:
        answer = await client.hear()
    assert answer["status"] == "UNIMPLEMENTED"
    assert "compressed" in answer["details"]


async def test_a_message_over_the_limit_is_refused_with_the_limit_in_the_text(
    grpcio_client: GrpcioClient,
) -> None:
    code = """
big = pb.Ping(data=b"x" * 5_000_000)
say(outcome(stub.Unary.future(big, timeout=20)))
say(outcome(stub.Up.future(iter([pb.Ping(data=b"y"), big]), timeout=20)))
say(outcome(stub.Unary.future(pb.Ping(text="still here"), timeout=20)))
"""
    async with serving([EchoService()]) as at, grpcio_client(at.port, code) as client:
        unary, up, after = [await client.hear() for _ in range(3)]
    for answer in (unary, up):
        assert answer["status"] == "RESOURCE_EXHAUSTED"
        assert "limit of 4194304 bytes" in answer["details"]
    assert after["text"] == "still here"


async def test_a_deadline_stops_the_handler(grpcio_client: GrpcioClient) -> None:
    service = EchoService()
    code = """
began = time.monotonic()
answer = outcome(stub.Unary.future(pb.Ping(text="hang"), timeout=0.3))
say([answer["status"], time.monotonic() - began])
say(outcome(stub.Down(pb.Ping(text="hang", count=1), timeout=0.3))["status"])
"""
    async with serving([service]) as at, grpcio_client(at.port, code) as client:
        status, took_s = await client.hear()
        assert status == "DEADLINE_EXCEEDED"
        assert took_s >= 0.3
        assert await client.hear() == "DEADLINE_EXCEEDED"
        await service.ended.wait()
        await until(lambda: len(service.ends) == 2)
    assert service.ends == ["Cancelled", "Cancelled"]


async def test_a_cancelled_call_or_a_killed_client_ends_the_handler_at_once(
    grpcio_client: GrpcioClient,
) -> None:
    service = EchoService()
    code = """
calls = [stub.Unary.future(pb.Ping(text="hang")), stub.Down(pb.Ping(text="hang"))]
heed()
calls[0].cancel()
calls[1].cancel()
say("cancelled")
third = stub.Unary.future(pb.Ping(text="hang"))
heed()
"""
    async with serving([service]) as at, grpcio_client(at.port, code) as client:
        await until(lambda: service.hanging == 2)
        await client.tell("go")
        assert await client.hear() == "cancelled"
        await until(lambda: len(service.ends) == 2 and service.hanging == 1)
        client.process.kill()
        await until(lambda: service.hanging == 0)
    assert service.ends == ["Cancelled"] * 3


async def test_a_call_that_ends_without_a_request_is_an_invalid_argument(
    logs: list[dict[str, Any]],
) -> None:
    async with serving([EchoService()]) as at, raw_client(at.port) as client:
        for method in ("Unary", "Down"):
            answer = await client.trailers(await client.call(f"/hmtest.Echo/{method}", end=True))
            assert (answer["grpc-status"], "no message" in answer["grpc-message"]) == ("3", True)
        for method in ("Up", "Both"):
            answer = await client.trailers(await client.call(f"/hmtest.Echo/{method}", end=True))
            assert answer["grpc-status"] == "0"
    assert not [line for line in logs if line["log_level"] == "error"]


class Yielding(EchoBase):
    """Yields without end and notes who closes it, and how."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, bool]] = []

    async def down(self, message: Ping) -> AsyncIterator[Pong]:
        task = trio.lowlevel.current_task()
        try:
            while True:
                yield Pong(data=message.data)
        except BaseException as end:
            self.ends.append((type(end).__name__, trio.lowlevel.current_task() is task))
            raise


async def test_a_generator_that_waits_for_a_slow_reader_is_closed_by_its_own_task() -> None:
    service = Yielding()
    async with served([service]) as channel:
        async with aclosing(bind(EchoStub, channel).down(Ping(data=b"x" * 500_000))) as replies:
            await anext(replies)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert service.ends == []
        await until(lambda: len(service.ends) == 1)
    assert service.ends == [("GeneratorExit", True)]
