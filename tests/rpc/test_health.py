"""Health as grpcio-health-checking's own client asks for it."""

from hivemind.rpc.health import Health
from tests.rpc.conftest import GrpcioClient
from tests.rpc.service import serving

ASK = """
from grpc_health.v1 import health_pb2, health_pb2_grpc
health = health_pb2_grpc.HealthStub(channel)
for name in ("", "jobs", "nobody"):
    call = health.Check.future(health_pb2.HealthCheckRequest(service=name), timeout=20)
    try:
        say(health_pb2.HealthCheckResponse.ServingStatus.Name(call.result().status))
    except grpc.RpcError as error:
        say(error.code().name)
"""

WATCH = """
from grpc_health.v1 import health_pb2, health_pb2_grpc
health = health_pb2_grpc.HealthStub(channel)
name = health_pb2.HealthCheckResponse.ServingStatus.Name
call = health.Watch(health_pb2.HealthCheckRequest(service=job["service"]), timeout=20)
for reply in call:
    say(name(reply.status))
say(call.code().name)
"""


async def test_check_answers_for_the_server_a_service_and_a_stranger(
    grpcio_client: GrpcioClient,
) -> None:
    health = Health(("jobs",))
    async with serving([health]) as at, grpcio_client(at.port, ASK) as client:
        assert [await client.hear() for _ in range(3)] == ["SERVING", "SERVING", "NOT_FOUND"]


async def test_watch_says_every_change_and_ends_when_the_server_shuts_down(
    grpcio_client: GrpcioClient,
) -> None:
    health = Health(("jobs",))
    async with serving([health]) as at, grpcio_client(at.port, WATCH, service="jobs") as client:
        assert await client.hear() == "SERVING"
        health.set_serving(False, "jobs")
        assert await client.hear() == "NOT_SERVING"
        health.set_serving(True, "jobs")
        assert await client.hear() == "SERVING"
        health.shut_down()
        assert await client.hear() == "NOT_SERVING"
        assert await client.hear() == "OK"


async def test_watch_waits_for_a_service_that_comes_later(grpcio_client: GrpcioClient) -> None:
    health = Health()
    async with serving([health]) as at, grpcio_client(at.port, WATCH, service="later") as client:
        assert await client.hear() == "SERVICE_UNKNOWN"
        health.set_serving(True, "later")
        assert await client.hear() == "SERVING"


async def test_nothing_serves_again_after_the_shut_down() -> None:
    health = Health()
    health.shut_down()
    health.set_serving(True)
    assert [status.name for status in health._statuses.values()] == ["NOT_SERVING"]
