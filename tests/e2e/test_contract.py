"""The public API as its documentation has it: every message and method, and what a caller who makes
a mistake is told.
"""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.e2e.foreign import RULES, Peer, open_peer
from tests.pool import Daemon, Pool, open_pool_folder, wait_until

NODEPOOL = """
LoginRequest: string username=1, string password=2
LoginResponse: bool success=1, string message=2, string token=3
RegisterRequest: string username=1, string password=2
RegisterResponse: bool success=1, string message=2
GetBalanceRequest: string username=1, string token=2
GetBalanceResponse: bool success=1, string message=2, int64 balance=3
TransferRequest: string token=1, string receiver_username=2, int64 amount=3
TransferResponse: bool success=1, string message=2
RegisterWorkerNodeRequest: string node_id=1, string hostname=2, int32 cpu_cores=3, \
int32 memory_gb=4, int32 cpu_score=5, int32 gpu_score=6, int32 gpu_memory_gb=7, \
string location=8, int32 port=9, string gpu_name=10, int32 trust_level=11, \
double last_heartbeat=12, string docker_status=13
StatusResponse: bool success=1, string message=2
HealthCheckRequest: string node_id=1
HealthCheckResponse: string status=1, string message=2
ReportStatusRequest: string node_id=1, string status=2
GetNodeListRequest:
GetNodeListResponse: repeated WorkerNodeInfo nodes=1
WorkerNodeInfo: string node_id=1, string hostname=2, int32 cpu_cores=3, \
int32 memory_gb=4, int32 cpu_score=5, int32 gpu_score=6, int32 gpu_memory_gb=7, \
string location=8, int32 port=9, string gpu_name=10, int32 trust_level=11, \
double last_heartbeat=12, string docker_status=13
UploadTaskRequest: string task_id=1, bytes task_data=2, string user_id=3
UploadTaskResponse: bool success=1, string message=2
PollTaskStatusRequest: string task_id=1
PollTaskStatusResponse: bool success=1, string message=2, string status=3, repeated string output=4
GetTaskResultRequest: string task_id=1, string token=2
GetTaskResultResponse: bool success=1, string message=2, bytes result_data=3
StopTaskRequest: string task_id=1, string token=2
StopTaskResponse: bool success=1, string message=2
GetAllTasksRequest: string token=1
GetAllTasksResponse: repeated TaskStatus tasks=1
TaskStatus: string task_id=1, string status=2, string assigned_node=3, double created_at=4, \
double started_at=5, double completed_at=6, string user_id=7
StoreOutputRequest: string task_id=1, string output=2
StoreResultRequest: string task_id=1, bytes result_data=2
ReturnTaskResultRequest: string task_id=1, bytes result_data=2
ReturnTaskResultResponse: bool success=1, string message=2
TaskCompletedRequest: string task_id=1, string node_id=2, bool success=3
StoreLogsRequest: string node_id=1, string task_id=2, string logs=3, int64 timestamp=4
GetTaskLogsRequest: string task_id=1, string token=2
GetTaskLogsResponse: bool success=1, string message=2, string logs=3
ExecuteTaskRequest: string task_id=1, bytes task_data=2
ExecuteTaskResponse: bool success=1, string message=2
ReportOutputRequest: string node_id=1, string task_id=2, string output=3
RunningStatusRequest: string node_id=1, string task_id=2, int32 cpu_usage=3, \
int32 memory_usage=4, int32 gpu_usage=5, int32 gpu_memory_usage=6
RunningStatusResponse: bool success=1, string message=2, int64 cpt_reward=3
StopTaskExecutionRequest: string task_id=1
StopTaskExecutionResponse: bool success=1, string message=2
"""
TASKWORKER = """
ExecuteTaskRequest: string task_id=1, string task_type=2, bytes task_data=3, \
repeated ParametersEntry parameters=4
ExecuteTaskResponse: bool success=1, string message=2
GetTaskStatusRequest: string task_id=1
GetTaskStatusResponse: bool success=1, string message=2, string status=3, \
repeated string output=4, int32 exit_code=5
CancelTaskRequest: string task_id=1
CancelTaskResponse: bool success=1, string message=2
GetSystemInfoRequest:
GetSystemInfoResponse: NodeCapabilities capabilities=1, ResourceUsage usage=2, \
string hostname=3, string version=4
UserInfo: string user_id=1, string username=2, string email=3, int64 created_at=4, UserRole role=5
NodeCapabilities: int32 cpu_cores=1, int64 memory_mb=2, bool has_gpu=3, \
repeated string supported_tasks=4
ResourceUsage: float cpu_percent=1, float memory_percent=2, float disk_percent=3, \
float network_mbps=4
"""
METHODS = """
UserService: Login(LoginRequest) LoginResponse, Register(RegisterRequest) RegisterResponse, \
Transfer(TransferRequest) TransferResponse, GetBalance(GetBalanceRequest) GetBalanceResponse
NodeManagerService: RegisterWorkerNode(RegisterWorkerNodeRequest) StatusResponse, \
HealthCheck(HealthCheckRequest) HealthCheckResponse, \
ReportStatus(ReportStatusRequest) StatusResponse, \
GetNodeList(GetNodeListRequest) GetNodeListResponse
MasterNodeService: UploadTask(UploadTaskRequest) UploadTaskResponse, \
PollTaskStatus(PollTaskStatusRequest) PollTaskStatusResponse, \
StoreOutput(StoreOutputRequest) StatusResponse, StoreResult(StoreResultRequest) StatusResponse, \
GetTaskResult(GetTaskResultRequest) GetTaskResultResponse, \
TaskCompleted(TaskCompletedRequest) StatusResponse, StoreLogs(StoreLogsRequest) StatusResponse, \
GetTaskLogs(GetTaskLogsRequest) GetTaskLogsResponse, \
GetAllTasks(GetAllTasksRequest) GetAllTasksResponse, StopTask(StopTaskRequest) StopTaskResponse, \
ReturnTaskResult(ReturnTaskResultRequest) ReturnTaskResultResponse
WorkerNodeService: ExecuteTask(ExecuteTaskRequest) ExecuteTaskResponse, \
ReportOutput(ReportOutputRequest) StatusResponse, \
ReportRunningStatus(RunningStatusRequest) RunningStatusResponse, \
StopTaskExecution(StopTaskExecutionRequest) StopTaskExecutionResponse
"""
TASKWORKER_METHODS = """
TaskWorkerService: ExecuteTask(ExecuteTaskRequest) ExecuteTaskResponse, \
GetTaskStatus(GetTaskStatusRequest) GetTaskStatusResponse, \
CancelTask(CancelTaskRequest) CancelTaskResponse, \
GetSystemInfo(GetSystemInfoRequest) GetSystemInfoResponse
"""
USER_ROLES = {"USER": 0, "PROVIDER": 1, "ADMIN": 2}
NO_SUCH_NODE = ("OK", False, "2001", "NODE_NOT_FOUND")
NO_SUCH_TASK = ("OK", False, "3001", "TASK_NOT_FOUND")


def table(text: str) -> dict[str, list[str]]:
    """What is listed after each name."""
    rows = (row.partition(":") for row in text.strip().splitlines())
    return {name: rest.strip().split(", ") if rest.strip() else [] for name, _, rest in rows}


def kind(field: FieldDescriptor) -> str:
    """As a .proto file writes it."""
    names = {
        getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
        for name in dir(FieldDescriptor)
        if name.startswith("TYPE_")
    }
    other = field.message_type or field.enum_type
    text = other.name if other else names[field.type]
    return f"repeated {text}" if field.is_repeated else text


def described(address: str, symbol: str) -> FileDescriptor:
    """The file that has this service, as the daemon itself tells it."""
    with grpc.insecure_channel(address) as channel:
        files = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        return files.FindFileContainingSymbol(symbol)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as pool:
        policies = pool.root / "up" / "policies"
        policies.mkdir(parents=True)
        (policies / "pool.toml").write_text(RULES)
        yield pool


@pytest.fixture(scope="module")
def up(folder: Pool) -> Daemon:
    return folder.up()


@pytest.fixture(scope="module")
def plain(folder: Pool) -> Daemon:
    """A master with the rules that every pool begins with, and without a worker."""
    return folder.master(home="plain")


@pytest.fixture(scope="module")
def worker_address(up: Daemon) -> str:
    return (up.home / "worker" / "address").read_text().strip()


@pytest.fixture(scope="module")
def ann(up: Daemon, stubs: Path) -> Iterator[Peer]:
    with open_peer(stubs, up) as peer:
        yield peer.log_in("ann")


def check_file(file: FileDescriptor, messages: str, methods: str) -> None:
    for name, fields in table(messages).items():
        known = file.message_types_by_name[name].fields
        told = {f"{kind(field)} {field.name}={field.number}" for field in known}
        assert set(fields) <= told, name
    for name, wanted in table(methods).items():
        offered = [
            f"{method.name}({method.input_type.name}) {method.output_type.name}"
            for method in file.services_by_name[name].methods
            if not method.client_streaming and not method.server_streaming
        ]
        assert sorted(offered) == sorted(wanted), name


def test_every_message_and_method_of_the_pool_is_as_documented(up: Daemon) -> None:
    check_file(described(up.address, "nodepool.MasterNodeService"), NODEPOOL, METHODS)


def test_every_message_and_method_of_a_worker_is_as_documented(worker_address: str) -> None:
    file = described(worker_address, "taskworker.TaskWorkerService")
    check_file(file, TASKWORKER, TASKWORKER_METHODS)
    roles = file.enum_types_by_name["UserRole"].values_by_name
    assert {name: value.number for name, value in roles.items()} == USER_ROLES
    check_file(described(worker_address, "nodepool.WorkerNodeService"), NODEPOOL, METHODS)


def test_the_health_of_each_service_can_be_asked_for(up: Daemon, worker_address: str) -> None:
    for address in (up.address, worker_address):
        with grpc.insecure_channel(address) as channel:
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", *services):
                if "reflection" not in service:
                    reply = health.Check(health_pb2.HealthCheckRequest(service=service))
                    assert reply.status == health_pb2.HealthCheckResponse.SERVING, service
            with pytest.raises(grpc.RpcError) as refused:
                health.Check(health_pb2.HealthCheckRequest(service="nodepool.Nothing"))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def shape(reply: dict[str, object]) -> tuple[object, ...]:
    head = str(reply["message"]).partition(":")[0]
    return reply["status"], reply["success"], reply["code"], head


def test_a_node_that_is_not_there_is_an_answer(ann: Peer) -> None:
    said = ann.call("NodeManagerService/ReportStatus", node_id="nobodys", status="online")
    assert shape(said) == NO_SUCH_NODE


def test_a_report_on_ones_own_task_by_the_wrong_node_of_ones_own_is_an_answer(ann: Peer) -> None:
    """As the documentation's own example has it."""
    ann.call("NodeManagerService/RegisterWorkerNode", **AWAY)
    ann.call("MasterNodeService/UploadTask", task_id="mine", task_data="cHJpbnQoMSk=")
    running = {"node_id": AWAY["node_id"], "task_id": "mine"}
    said = ann.call("WorkerNodeService/ReportRunningStatus", **running, cpu_usage=75)
    assert shape(said) == NO_SUCH_TASK
    assert int(said["cpt_reward"]) == 0
    logs = ann.call("MasterNodeService/StoreLogs", **running, logs="no")
    assert shape(logs) == NO_SUCH_TASK


def test_reports_on_what_is_anothers_are_denied(ann: Peer, up: Daemon, stubs: Path) -> None:
    ann.call("NodeManagerService/RegisterWorkerNode", **AWAY)
    ann.call("MasterNodeService/UploadTask", task_id="anns", task_data="cHJpbnQoMSk=")
    with open_peer(stubs, up) as bob:
        bob.log_in("bob").call(
            "NodeManagerService/RegisterWorkerNode", **{**AWAY, "node_id": "bobs"}
        )
        for node_id, task_id in (("bobs", "anns"), (AWAY["node_id"], "anns"), ("bobs", "")):
            said = bob.call(
                "WorkerNodeService/ReportRunningStatus", node_id=node_id, task_id=task_id
            )
            assert (said["status"], said["code"]) == ("PERMISSION_DENIED", "3001")


def test_what_a_master_does_not_do_itself_it_says_where_to_find(ann: Peer) -> None:
    for method, instead in (("ExecuteTask", "UploadTask"), ("StopTaskExecution", "StopTask")):
        said = ann.call(f"WorkerNodeService/{method}", task_id="x")
        assert said["status"] == "UNIMPLEMENTED"
        assert instead in said["message"]


def test_the_owner_of_a_node_that_cannot_be_reached_is_told(ann: Peer) -> None:
    unreached = {**AWAY, "node_id": "unreached"}
    made = ann.call("NodeManagerService/RegisterWorkerNode", **unreached)
    assert "once the master reaches it at 192.168.1.100:50052" in made["message"]
    told = ann.call("NodeManagerService/HealthCheck", token="", node_id="unreached")
    assert "the master has not reached it" in told["message"]
    assert "192.168" not in told["message"]


def test_a_listing_does_not_say_that_a_node_which_is_away_has_no_sandbox(
    ann: Peer, folder: Pool, up: Daemon
) -> None:
    ann.call("NodeManagerService/RegisterWorkerNode", **AWAY)
    ann.call(
        "NodeManagerService/RegisterWorkerNode",
        **{**AWAY, "node_id": "unsafe", "docker_status": "disabled"},
    )
    listed = folder.cli("nodes", home=up.home).stdout.decode().splitlines()
    ends = {line.split()[0]: line for line in listed}
    assert ends[AWAY["node_id"]].endswith("its own")
    assert ends["unsafe"].endswith("its own, no sandbox")


def test_a_worker_that_dials_the_master_is_listed_with_its_port(
    ann: Peer, worker_address: str
) -> None:
    ports = {node["port"] for node in ann.nodes().values()}
    assert int(worker_address.rpartition(":")[2]) in ports


def test_a_pool_of_nodes_of_the_public_api_alone_runs_what_is_uploaded(
    plain: Daemon, stubs: Path
) -> None:
    with open_peer(stubs, plain) as worker, open_peer(stubs, plain) as client:
        worker.log_in("carol").join("lone")
        health = ("NodeManagerService/HealthCheck", "")
        wait_until(
            "the node is reached",
            lambda: "not reached" not in worker.call(*health, node_id="lone")["message"],
        )
        task = {"task_id": "there", "task_data": "cHJpbnQoJ3JhbiB0aGVyZScp"}
        taken = client.log_in("dave").call("MasterNodeService/UploadTask", **task)
        assert taken["success"], taken
        worker.event("completed", node_id="lone")
        seen = client.call("MasterNodeService/PollTaskStatus", task_id="there")
    assert (seen["status"], seen["output"]) == ("COMPLETED", ["ran there"])


def test_what_needs_a_node_that_is_away_says_so(ann: Peer) -> None:
    ann.call("NodeManagerService/RegisterWorkerNode", **AWAY)
    said = ann.call("v1/Nodes/DrainNode", node=AWAY["node_id"])
    assert (said["status"], said["code"]) == ("UNAVAILABLE", "2002")
    assert str(said["message"]).startswith("NODE_OFFLINE: node worker-001 is away")


def test_a_text_that_is_not_utf_8_is_told_as_such(up: Daemon) -> None:
    with grpc.insecure_channel(up.address) as channel:
        login = channel.unary_unary("/nodepool.UserService/Login")
        with pytest.raises(grpc.RpcError) as refused:
            login(b"\x0a\x03\xff\xfe\xfd")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a text in it is not UTF-8" in str(refused.value.details())


def test_a_name_that_cannot_be_costs_no_try(plain: Daemon, stubs: Path) -> None:
    """Ten registrations a minute are allowed here, and ten mistakes are not the reason for none."""
    with open_peer(stubs, plain) as peer:
        for number in range(12):
            said = peer.call(
                "UserService/Register", token="", username=f"bad name {number}", password="short"
            )
            assert said["status"] == "INVALID_ARGUMENT"
        peer.log_in("carl")


def test_who_has_too_few_cpt_is_told_that_the_task_is_for_own_nodes_alone(
    plain: Daemon, stubs: Path
) -> None:
    two_hours = "IyAvLy8gc2NyaXB0CiMgW3Rvb2wuaGl2ZW1pbmRdCiMgdGltZSA9ICcyaCcKIyAvLy8KcGFzcwo="
    with open_peer(stubs, plain) as erin, open_peer(stubs, plain) as frank:
        for peer, name in ((erin, "erin"), (frank, "frank")):
            node = {**AWAY, "node_id": f"{name}s"}
            assert peer.log_in(name).call("NodeManagerService/RegisterWorkerNode", **node)[
                "success"
            ]
        upload = "MasterNodeService/UploadTask"
        paid = erin.call(upload, task_id="paid", task_data="cHJpbnQoMSk=")
        assert paid["message"] == "task paid taken"
        free = erin.call(upload, task_id="free", task_data=two_hours)
        assert free["message"] == (
            "task free taken; the CPT of erin do not cover it elsewhere, so it is for nodes of"
            " erin alone"
        )
        seen = erin.call("MasterNodeService/PollTaskStatus", task_id="free")
        assert seen["message"] == "it waits for a node of erin, where it costs nothing"
        for task_id in ("paid", "free"):
            erin.call("MasterNodeService/StopTask", task_id=task_id)


def test_a_health_check_says_why_a_node_that_is_heard_of_is_given_nothing(
    ann: Peer, folder: Pool, up: Daemon
) -> None:
    def told() -> tuple[str, str]:
        said = ann.call("NodeManagerService/HealthCheck", token="", node_id="rests")
        assert str(said["message"]).startswith("heard ")
        return str(said["status"]), str(said["message"]).partition("ago")[2]

    ann.join("rests")
    wait_until("the node is reached", lambda: told() == ("online", ""))
    for status, health, words in (
        ("draining", "online", "; it is draining, and given nothing more"),
        ("offline", "offline", "; it said that it is offline"),
        ("online", "online", ""),
    ):
        ann.call("NodeManagerService/ReportStatus", node_id="rests", status=status)
        wait_until(f"it is {status}", lambda want=(health, words): told() == want)
    assert folder.cli("node", "drain", "rests", home=up.home).returncode == 0
    assert told() == ("online", "; it is draining, and given nothing more")


def test_a_transfers_key_is_called_as_its_field_is(ann: Peer) -> None:
    said = ann.call(
        "UserService/Transfer", receiver_username="admin", amount=1, idempotency_key="k" * 129
    )
    assert said["status"] == "INVALID_ARGUMENT"
    assert str(said["message"]).startswith("an idempotency key can have at most 128 characters")


AWAY = {
    "node_id": "worker-001",
    "hostname": "192.168.1.100",
    "cpu_cores": 8,
    "memory_gb": 16,
    "port": 50052,
    "docker_status": "enabled",
}
"""The documentation's example of a node, which is nowhere."""
