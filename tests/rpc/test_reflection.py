"""Reflection as grpcio-reflection's own client uses it."""

from pathlib import Path

import pytest
from grpclib.const import Cardinality

from hivemind.rpc._standard import ServerReflectionRequest, ServerReflectionResponse
from hivemind.rpc.health import Health
from hivemind.rpc.reflection import Reflection
from tests.rpc.conftest import GrpcioClient
from tests.rpc.service import EchoService, served, serving

RESOLVE = """
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from google.protobuf.descriptor_pool import DescriptorPool
database = ProtoReflectionDescriptorDatabase(channel)
names = list(database.get_services())
say(names)
pool = DescriptorPool(database)
say({name: [m.name for m in pool.FindServiceByName(name).methods] for name in names})
ping = pool.FindMessageTypeByName("hmtest.Ping")
say([(field.name, field.number, field.type) for field in ping.fields])
health = pool.FindMessageTypeByName("grpc.health.v1.HealthCheckResponse")
say([(v.name, v.number) for v in health.fields_by_name["status"].enum_type.values])
say(pool.FindFileByName("echo.proto").package)
say(list(pool.FindMessageTypeByName("grpc.reflection.v1.ServerReflectionRequest").oneofs_by_name))
try:
    pool.FindMessageTypeByName("hmtest.Nothing")
except KeyError:
    say("KeyError")
say(list(database.FindAllExtensionNumbers("hmtest.Ping")))
"""

SAME = """
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
database = ProtoReflectionDescriptorDatabase(channel)


def shape(file):
    out = {}
    for message in file.message_type:
        for field in message.field:
            out[f"{message.name}.{field.name}"] = [field.number, field.type, field.label]
    for service in file.service:
        for method in service.method:
            out[f"{service.name}.{method.name}"] = [
                method.input_type, method.client_streaming, method.server_streaming
            ]
    return out


for theirs, symbol in (
    (health_pb2, "grpc.health.v1.Health"),
    (reflection_pb2, "grpc.reflection.v1alpha.ServerReflection"),
):
    official = descriptor_pb2.FileDescriptorProto()
    theirs.DESCRIPTOR.CopyToProto(official)
    say([shape(official), shape(database.FindFileContainingSymbol(symbol))])
"""


@pytest.fixture
def descriptor_set(stubs: Path) -> bytes:
    return (stubs / "echo.binpb").read_bytes()


async def test_a_client_lists_the_services_and_resolves_every_one(
    grpcio_client: GrpcioClient, descriptor_set: bytes
) -> None:
    services = [EchoService(), Health()]
    reflection = Reflection(services, descriptor_set)
    async with (
        serving([*services, reflection]) as at,
        grpcio_client(at.port, RESOLVE) as client,
    ):
        names = await client.hear()
        assert names == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "hmtest.Echo",
        ]
        methods = await client.hear()
        assert methods["hmtest.Echo"] == ["Unary", "Down", "Up", "Both"]
        assert methods["grpc.health.v1.Health"] == ["Check", "Watch"]
        assert await client.hear() == [["text", 1, 9], ["data", 2, 12], ["count", 3, 5]]
        assert (await client.hear())[1] == ["SERVING", 1]
        assert await client.hear() == "hmtest"
        assert await client.hear() == ["message_request"]
        assert await client.hear() == "KeyError"
        assert await client.hear() == []


async def test_the_standard_services_are_described_as_grpc_declares_them(
    grpcio_client: GrpcioClient, descriptor_set: bytes
) -> None:
    health = Health()
    reflection = Reflection([health], descriptor_set)
    async with serving([health, reflection]) as at, grpcio_client(at.port, SAME) as client:
        theirs, ours = await client.hear()
        assert ours == {name: what for name, what in theirs.items() if name in ours}
        assert {"Health.Check", "Health.Watch", "HealthCheckResponse.status"} <= set(ours)
        theirs, ours = await client.hear()
        assert ours == theirs


async def test_version_1_answers_as_version_1alpha_does(descriptor_set: bytes) -> None:
    services = [EchoService(), Health()]
    answers = []
    async with served([*services, Reflection(services, descriptor_set)]) as channel:
        for version in ("v1", "v1alpha"):
            async with channel.request(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                Cardinality.STREAM_STREAM,
                ServerReflectionRequest,
                ServerReflectionResponse,
            ) as call:
                await call.send_message(ServerReflectionRequest(list_services=""))
                listed = await call.recv_message()
                await call.send_message(
                    ServerReflectionRequest(file_containing_symbol=".hmtest.Ping")
                )
                resolved = await call.recv_message()
                await call.send_message(ServerReflectionRequest(), end=True)
                empty = await call.recv_message()
            answers.append([bytes(listed), bytes(resolved)])
            assert len(resolved.file_descriptor_response.file_descriptor_proto) == 1
            assert empty.error_response.error_code == 3
    assert answers[0] == answers[1]
