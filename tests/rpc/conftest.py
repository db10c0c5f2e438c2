import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs

HERE = Path(__file__).parent
PEER_S = 60


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """google's own generated code for the test services, for the grpcio peers."""
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE / 'proto'}"]
    outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}", "echo.proto"]
    outputs += ["--include_imports", f"--descriptor_set_out={folder / 'echo.binpb'}"]
    subprocess.run([*command, *outputs], check=True)
    return folder


class Peer:
    """A program that talks in JSON lines."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._received = bytearray()

    async def tell(self, value: Any) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(value).encode() + b"\n")

    async def hear(self) -> Any:
        assert self.process.stdout is not None
        while b"\n" not in self._received:
            data = await self.process.stdout.receive_some()
            assert data, f"the peer ended with {await self.process.wait()}"
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return json.loads(line)


@asynccontextmanager
async def open_peer(script: str, *arguments: str) -> AsyncIterator[Peer]:
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE", "PYTHONPATH": str(HERE.parents[1])}
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / "peers" / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        with trio.fail_after(PEER_S):
            yield Peer(process)
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.aclose()
            await process.stdout.aclose()


GrpcioClient = Callable[..., AbstractAsyncContextManager[Peer]]


@pytest.fixture
def grpcio_client(stubs: Path) -> GrpcioClient:
    """Opens a grpcio client that runs the given code against a port of loopback."""

    @asynccontextmanager
    async def client(port: int, code: str, **job: Any) -> AsyncIterator[Peer]:
        host = job.pop("host", "127.0.0.1")
        async with open_peer("grpcio_client.py", str(stubs), f"{host}:{port}") as peer:
            await peer.tell({"code": code, **job})
            yield peer

    return client


@pytest.fixture
def logs() -> Any:
    """What was logged; a test that expects no fault need not look."""
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines
