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
METADATA = """\
metadata = [("authorization", f"Bearer {token}")]

"""
NODE_SERVICE = """\
# Node management service
node_stub = nodepool_pb2_grpc.NodeManagerServiceStub(channel)

# Register worker node
register_node_request = nodepool_pb2.RegisterWorkerNodeRequest(
    node_id="worker-001",
    hostname="192.168.1.100",
    cpu_cores=8,
    memory_gb=16,
    cpu_score=1000,
    gpu_score=2000,
    gpu_memory_gb=8,
    location="Asia/Taipei",
    port=50052,
    gpu_name="RTX 4090",
    trust_level=100,
    last_heartbeat=1640995200.0,
    docker_status="enabled"
)
node_response = node_stub.RegisterWorkerNode(register_node_request, metadata=metadata)
print(f"Node registration: {node_response.success}")

# Health check
health_request = nodepool_pb2.HealthCheckRequest(node_id="worker-001")
health_response = node_stub.HealthCheck(health_request)
print(f"Node health status: {health_response.status}")

"""
WORKER_SERVICE = """\
# Worker node service
worker_stub = nodepool_pb2_grpc.WorkerNodeServiceStub(channel)

# Report running status
status_request = nodepool_pb2.RunningStatusRequest(
    node_id="worker-001",
    task_id="task-001",
    cpu_usage=75,
    memory_usage=60,
    gpu_usage=85,
    gpu_memory_usage=70
)
status_response = worker_stub.ReportRunningStatus(status_request, metadata=metadata)
print(f"CPT reward: {status_response.cpt_reward}")
"""
MASTER_SERVICE = """\
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
        up, folder, USER_SERVICE, METADATA, MASTER_SERVICE, UNTIL_ITS_END, TASK_STATUS
    )
    assert registered == "Registration result: True, Message: account testuser made"
    assert entered.startswith("Login successful, Token: ey")
    assert uploaded == "Task upload: True"
    assert status == "Task status: COMPLETED"
    assert output == "Task output: ['Hello, HiveMind!']"


def test_the_example_may_be_run_again(up: Daemon, folder: Path) -> None:
    whole = (USER_SERVICE, METADATA, MASTER_SERVICE, UNTIL_ITS_END, TASK_STATUS)
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


def test_all_examples_run_one_after_the_other(up: Daemon, folder: Path) -> None:
    """The node of the examples is nowhere, so its task runs on another, and it earns nothing."""
    parts = (USER_SERVICE, BALANCE, METADATA, NODE_SERVICE, MASTER_SERVICE, UNTIL_ITS_END)
    whole = "".join((*parts, TASK_STATUS, WORKER_SERVICE)).replace("testuser", "reader")
    for registered in ("True", "False"):
        lines = run_program(up, folder, whole)
        assert lines[0].startswith(f"Registration result: {registered}, Message: ")
        assert lines[2].startswith("User balance: ")
        assert lines[3:] == [
            "Node registration: True",
            "Node health status: online",
            "Task upload: True",
            "Task status: COMPLETED",
            "Task output: ['Hello, HiveMind!']",
            "CPT reward: 0",
        ]
