"""The examples of the public API's documentation, run as programs against a real pool.

Each is what the documentation shows, with the token in the metadata and one's own account as the
user id, for which it leaves room.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pool import COMMAND_S, Daemon, clean_environment, open_pool_folder

ROOT = Path(__file__).resolve().parents[2]

CONNECT = """\
import grpc
from node_pool import nodepool_pb2_grpc, nodepool_pb2

# Create connection
channel = grpc.insecure_channel('localhost:50051')
"""
USER_SERVICE = """\
user_stub = nodepool_pb2_grpc.UserServiceStub(channel)

# User registration
register_request = nodepool_pb2.RegisterRequest(
    username="testuser",
    password="password123"
)
register_response = user_stub.Register(register_request)
print(f"Registration result: {register_response.success}, Message: {register_response.message}")

# User login
login_request = nodepool_pb2.LoginRequest(
    username="testuser",
    password="password123"
)
login_response = user_stub.Login(login_request)
if login_response.success:
    token = login_response.token
    print(f"Login successful, Token: {token}")
"""
BALANCE = """\

    # Query balance
    balance_request = nodepool_pb2.GetBalanceRequest(
        username="testuser",
        token=token
    )
    balance_response = user_stub.GetBalance(balance_request)
    print(f"User balance: {balance_response.balance}")
"""
MASTER_SERVICE = """\
metadata = [("authorization", f"Bearer {token}")]

# Master node service
master_stub = nodepool_pb2_grpc.MasterNodeServiceStub(channel)

# Upload task
task_data = b"print('Hello, HiveMind!')"
upload_request = nodepool_pb2.UploadTaskRequest(
    task_id="task-001",
    task_data=task_data,
    user_id="testuser"
)
upload_response = master_stub.UploadTask(upload_request, metadata=metadata)
print(f"Task upload: {upload_response.success}")

# Query task status
status_request = nodepool_pb2.PollTaskStatusRequest(task_id="task-001")
status_response = master_stub.PollTaskStatus(status_request, metadata=metadata)
"""
UNTIL_ITS_END = """\
import time
deadline = time.monotonic() + 60
while status_response.status in ("PENDING", "RUNNING") and time.monotonic() < deadline:
    time.sleep(0.05)
    status_response = master_stub.PollTaskStatus(status_request, metadata=metadata)
"""
TASK_STATUS = """\
print(f"Task status: {status_response.status}")
print(f"Task output: {status_response.output}")
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as pool:
        yield pool.up()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs stand, beside a package with the stubs of the name that they import."""
    made = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Inode_pool={ROOT / 'proto'}"]
    outputs = [f"--python_out={made}", f"--grpc_python_out={made}", "node_pool/nodepool.proto"]
    subprocess.run([*command, *outputs], check=True)
    return made


def run_program(up: Daemon, folder: Path, *parts: str) -> list[str]:
    """The lines that the parts, put together, print."""
    program = folder / "program.py"
    program.write_text("".join((CONNECT, *parts)).replace("localhost:50051", up.address))
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_user_registers_logs_in_and_runs_a_task(up: Daemon, folder: Path) -> None:
    registered, entered, uploaded, status, output = run_program(
        up, folder, USER_SERVICE, MASTER_SERVICE, UNTIL_ITS_END, TASK_STATUS
    )
    assert registered == "Registration result: True, Message: account testuser made"
    assert entered.startswith("Login successful, Token: ey")
    assert uploaded == "Task upload: True"
    assert status == "Task status: COMPLETED"
    assert output == "Task output: ['Hello, HiveMind!']"


def test_the_example_may_be_run_again(up: Daemon, folder: Path) -> None:
    whole = (USER_SERVICE, MASTER_SERVICE, UNTIL_ITS_END, TASK_STATUS)
    run_program(up, folder, *whole)
    registered, _, uploaded, status, output = run_program(up, folder, *whole)
    assert registered.startswith("Registration result: False, Message: USER_EXISTS: ")
    assert uploaded == "Task upload: True"
    assert status == "Task status: COMPLETED"
    assert output == "Task output: ['Hello, HiveMind!']"


def test_a_user_sees_the_balance(up: Daemon, folder: Path) -> None:
    example = f"{USER_SERVICE}{BALANCE}".replace("testuser", "newcomer")
    *_, balance = run_program(up, folder, example)
    assert balance == "User balance: 100"
