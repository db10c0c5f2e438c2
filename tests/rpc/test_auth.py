"""Who may call what: denied unless named open or shown a good token."""

from typing import Any

import pytest
import trio

from hivemind.rpc.auth import Authenticator
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.server import Server
from hivemind.rpc.spool import SpooledField
from tests.rpc._pb.hmtest import Ping
from tests.rpc.conftest import GrpcioClient
from tests.rpc.raw import framed, raw_client
from tests.rpc.service import EchoService, GateService, serving, until, verify

ASK = """
for name, metadata in job["asks"]:
    call = getattr(gate, name).future(
        pb.Ping(text=job.get("text", "")), metadata=metadata, timeout=20
    )
    say(outcome(call))
"""

GOOD = [["authorization", "Bearer good"]]
OLD = [["authorization", "Bearer old"]]


async def test_a_method_not_named_open_needs_a_good_token(grpcio_client: GrpcioClient) -> None:
    asks: list[Any] = [
        ["Whoami", []],
        ["Whoami", OLD],
        ["Whoami", [["authorization", "good"]]],
        ["Whoami", [["authorization", "Basic good"]]],
        ["Whoami", GOOD],
        ["Whoami", [["authorization", "bearer good"]]],
    ]
    async with serving([GateService()]) as at, grpcio_client(at.port, ASK, asks=asks) as client:
        answers = [await client.hear() for _ in asks]
    for refused in answers[:4]:
        assert refused["status"] == "UNAUTHENTICATED"
        assert refused["trailing"]["hivemind-error-code"] == "1004"
        assert refused["details"].startswith("INVALID_SESSION: ")
    assert [answer["text"] for answer in answers[4:]] == ["ada", "ada"]


async def test_an_open_method_works_without_a_token_and_with_an_old_one(
    grpcio_client: GrpcioClient,
) -> None:
    asks: list[Any] = [["Open", []], ["Open", OLD], ["Open", GOOD]]
    async with serving([GateService()]) as at, grpcio_client(at.port, ASK, asks=asks) as client:
        assert [(await client.hear())["status"] for _ in asks] == ["OK", "OK", "OK"]


async def test_asking_who_calls_in_an_open_method_without_a_token_is_refused(
    grpcio_client: GrpcioClient,
) -> None:
    authenticator = Authenticator(frozenset({"/hmtest.Gate/Whoami"}), verify)
    asks: list[Any] = [["Whoami", []], ["Whoami", GOOD]]
    async with (
        serving([GateService()], authenticator=authenticator) as at,
        grpcio_client(at.port, ASK, asks=asks) as client,
    ):
        answers = [await client.hear() for _ in asks]
    assert [answer["status"] for answer in answers] == ["UNAUTHENTICATED", "OK"]


async def test_the_token_may_travel_in_the_message_where_that_is_declared(
    grpcio_client: GrpcioClient,
) -> None:
    authenticator = Authenticator(frozenset(), verify, {"/hmtest.Gate/Whoami": "text"})
    asks: list[Any] = [["Whoami", []], ["Whoami", OLD], ["Open", []]]
    async with (
        serving([GateService()], authenticator=authenticator) as at,
        grpcio_client(at.port, ASK, asks=asks, text="good") as client,
    ):
        in_message, metadata_wins, other = [await client.hear() for _ in asks]
        assert in_message["text"] == "ada"
        assert metadata_wins["status"] == "UNAUTHENTICATED"
        assert other["status"] == "UNAUTHENTICATED"
    async with (
        serving([GateService()], authenticator=authenticator) as at,
        grpcio_client(at.port, ASK, asks=asks[:1], text="bad") as client,
    ):
        assert (await client.hear())["status"] == "UNAUTHENTICATED"


async def test_a_fault_in_the_check_refuses_and_is_logged(
    grpcio_client: GrpcioClient, logs: list[dict[str, Any]]
) -> None:
    async def broken(token: str, peer: str) -> Any:
        raise OSError("no database")

    authenticator = Authenticator(frozenset(), broken)
    async with (
        serving([GateService()], authenticator=authenticator) as at,
        grpcio_client(at.port, ASK, asks=[["Whoami", GOOD]]) as client,
    ):
        assert (await client.hear())["status"] == "INTERNAL"
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "rpc_handler_failed"
    ]


def test_a_spooled_method_cannot_take_its_token_from_the_message() -> None:
    path = "/hmtest.Gate/Store"
    authenticator = Authenticator(frozenset(), verify, {path: "name"})
    with pytest.raises(ValueError, match="spool"):
        Server(
            [EchoService()],
            authenticator=authenticator,
            spooled={path: SpooledField(field_number=2)},
        )


async def test_a_call_in_flight_ends_when_its_token_is_revoked() -> None:
    revoked: set[str] = set()
    service = EchoService()
    authenticator = Authenticator(
        frozenset(), verify, still_good=lambda principal: principal.token_id not in revoked
    )
    options: dict[str, Any] = {
        "authenticator": authenticator,
        "config": TransportConfig(recheck_s=0.05),
    }
    async with serving([service], **options) as at, raw_client(at.port) as client:
        stream_id = await client.call(
            "/hmtest.Echo/Unary", headers={"authorization": "Bearer good"}
        )
        await client.send(stream_id, framed(Ping(text="hang")), end=True)
        await until(lambda: service.hanging == 1)
        await trio.sleep(0.2)
        assert service.hanging == 1
        revoked.add("t1")
        answer = await client.trailers(stream_id)
    assert (answer["grpc-status"], answer["hivemind-error-code"]) == ("16", "1004")
    assert "was revoked" in answer["grpc-message"]
    assert service.ends == ["Cancelled"]
