"""The README's chapter on the API is so: its programs are run as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from hivemind.rpc.errors import ErrorCode
from tests.pool import COMMAND_S, Daemon, Pool, clean_environment, open_pool_folder

ROOT = Path(__file__).resolve().parents[2]
HEADING = "From your own programs"


def chapter() -> str:
    return (ROOT / "README.md").read_text().split(f"## {HEADING}\n", 1)[1].split("\n## ", 1)[0]


def programs() -> list[str]:
    """The chapter's Python programs, in order."""
    return re.findall(r"```python\n(.*?)```", chapter(), re.DOTALL)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as pool:
        yield Pool.up(pool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand, with the stubs made as the chapter says."""
    made = tmp_path_factory.mktemp("reader")
    (made / "proto").symlink_to(ROOT / "proto")
    commands = re.findall(r"```sh\n(.*?)```", chapter(), re.DOTALL)[0].splitlines()
    assert commands[0] == "pip install grpcio grpcio-tools"
    (protoc,) = commands[1:]
    assert protoc.startswith("python -m grpc_tools.protoc ")
    for outputs in ("", " --python_out=. --grpclib_python_out=."):
        asked = protoc if not outputs else re.sub(r" --python_out=.*_out=\.", outputs, protoc)
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-ec", asked], cwd=made, env=environment, check=True)
    return made


def run_program(number: int, up: Daemon, folder: Path) -> list[str]:
    """Run the chapter's program against the pool; the lines that it prints."""
    host, port = up.address.split(":")
    text = programs()[number].replace("localhost:50051", up.address)
    text = text.replace('"localhost", 50051', f'"{host}", {port}')
    return run_text(text, f"program_{number}.py", up, folder)


def run_text(text: str, name: str, up: Daemon, folder: Path) -> list[str]:
    """Run a program of the chapter's under that name; the lines that it prints."""
    (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, name],
        cwd=folder,
        env=clean_environment(HIVEMIND_HOME=str(up.home)),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_the_grpcio_client_then_the_grpclib_client(up: Daemon, folder: Path) -> None:
    assert run_program(0, up, folder)[0] == "COMPLETED ['42']"
    assert (folder / "result.zip").read_bytes()[:2] == b"PK"
    assert run_program(2, up, folder)[0] == "COMPLETED ['42']"


def test_the_python_api(up: Daemon, folder: Path) -> None:
    assert run_program(3, up, folder)[:2] == ["succeeded 42", ""]
    assert (folder / "result-3.zip").read_bytes()[:2] == b"PK"


def test_the_grpcio_client_of_a_master_with_a_certificate(pool: Pool, folder: Path) -> None:
    """The first program, with the second's channel instead of its own."""
    made = pool.cli("tls", "init", "tls", "--host", "localhost", home=pool.root, cwd=folder)
    assert made.returncode == 0, made.stderr.decode()
    (folder / "ca.pem").symlink_to("tls/ca.pem")
    pair = ("--tls-cert", f"{folder}/tls/server.pem", "--tls-key", f"{folder}/tls/server-key.pem")
    secure = pool.up(*pair)
    port = secure.address.rpartition(":")[2]
    plain, channel = programs()[0], programs()[1].replace("MASTER:50051", f"localhost:{port}")
    text = re.sub(r"^channel = .*\n", lambda _: channel, plain, count=1, flags=re.MULTILINE)
    assert run_text(text, "secure.py", secure, folder)[0] == "COMPLETED ['42']"


def test_the_services_describe_themselves_without_a_token(up: Daemon) -> None:
    with grpc.insecure_channel(up.address) as channel:
        known = ProtoReflectionDescriptorDatabase(channel)
        services = set(known.get_services())
        assert {
            "nodepool.UserService",
            "nodepool.NodeManagerService",
            "nodepool.MasterNodeService",
            "nodepool.WorkerNodeService",
            "hivemind.v1.Tasks",
            "hivemind.v1.Accounts",
            "hivemind.v1.Nodes",
            "grpc.health.v1.Health",
        } <= services
        file = known.FindFileContainingSymbol("nodepool.MasterNodeService")
        assert isinstance(file, descriptor_pb2.FileDescriptorProto)
        (service,) = [one for one in file.service if one.name == "MasterNodeService"]
        assert len(service.method) == 11


def test_the_table_of_errors_is_the_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", chapter(), re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [
        (code.value, code.name) for code in ErrorCode if code is not ErrorCode.SUCCESS
    ]
