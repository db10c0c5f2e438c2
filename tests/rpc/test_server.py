"""The server, as grpcio clients in their own processes see it."""

from tests.rpc.conftest import GrpcioClient
from tests.rpc.service import EchoService, serving

ALL_KINDS = """
say(stub.Unary(pb.Ping(text="héllo", data=b"x" * 100_000), timeout=20).number)
say([pong.number for pong in stub.Down(pb.Ping(count=5, data=b"y" * 50_000), timeout=20)])
say(stub.Up((pb.Ping(data=b"z" * 200_000) for _ in range(20)), timeout=20).number)
say([pong.text for pong in stub.Both((pb.Ping(text=str(i)) for i in range(4)), timeout=20)])
"""


async def test_grpcio_calls_every_kind_of_method(grpcio_client: GrpcioClient) -> None:
    async with serving([EchoService()]) as at, grpcio_client(at.port, ALL_KINDS) as client:
        assert await client.hear() == 100_000
        assert await client.hear() == [0, 1, 2, 3, 4]
        assert await client.hear() == 4_000_000
        assert await client.hear() == ["0", "1", "2", "3"]
