"""An ordinary grpcio client with stubs generated from proto/: two accounts that do not trust each
other. Prints what it saw as one JSON document.

Usage: stranger.py STUBS_FOLDER ADDRESS
"""

import json
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2
import nodepool_pb2_grpc
from hivemind_v1 import tasks_pb2, tasks_pb2_grpc

SCRIPT = b"import sys; print('to stdout'); print('to stderr', file=sys.stderr)"


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def outcome(call: Any) -> dict[str, Any]:
    """What a call ended with: a status and the code in its trailing metadata."""
    try:
        call()
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        return {
            "status": error.code().name,
            "code": trailing.get("hivemind-error-code"),
            "message": error.details(),
        }
    return {"status": "OK"}


def submit_messages() -> Any:
    header = tasks_pb2.SubmitHeader(kind=tasks_pb2.PAYLOAD_KIND_SCRIPT, filename="peer.py")
    yield tasks_pb2.SubmitRequest(header=header)
    yield tasks_pb2.SubmitRequest(payload=SCRIPT)


def main() -> None:
    seen: dict[str, Any] = {}
    with grpc.insecure_channel(sys.argv[2]) as channel:
        users = nodepool_pb2_grpc.UserServiceStub(channel)
        tasks = tasks_pb2_grpc.TasksStub(channel)
        tokens = {}
        for name in ("alice", "mallory"):
            made = users.Register(
                nodepool_pb2.RegisterRequest(username=name, password=f"{name}-password")
            )
            entered = users.Login(
                nodepool_pb2.LoginRequest(username=name, password=f"{name}-password")
            )
            seen[name] = [made.success, entered.success]
            tokens[name] = entered.token
        again, call = users.Register.with_call(
            nodepool_pb2.RegisterRequest(username="alice", password="another-password")
        )
        seen["taken"] = [
            again.success,
            again.message.split(":")[0],
            dict(call.trailing_metadata()).get("hivemind-error-code"),
        ]
        wrong, call = users.Login.with_call(
            nodepool_pb2.LoginRequest(username="alice", password="not-it-at-all")
        )
        seen["wrong"] = [
            wrong.success,
            wrong.message.split(":")[0],
            dict(call.trailing_metadata()).get("hivemind-error-code"),
        ]
        alice, mallory = bearer(tokens["alice"]), bearer(tokens["mallory"])
        submitted = tasks.Submit(submit_messages(), metadata=alice, timeout=30)
        out = {1: b"", 2: b""}
        state = 0
        watch = tasks_pb2.WatchRequest(task_id=submitted.task_id, output=True)
        for item in tasks.Watch(watch, metadata=alice, timeout=60):
            if item.HasField("output"):
                out[item.output.stream] += item.output.data
            else:
                state = item.task.state
        seen["state"] = tasks_pb2.TaskState.Name(state)
        seen["stdout"], seen["stderr"] = out[1].decode(), out[2].decode()
        one = submitted.task_id
        seen["mallory_sees"] = {
            "get": outcome(lambda: tasks.Get(tasks_pb2.GetRequest(task_id=one), metadata=mallory)),
            "stop": outcome(
                lambda: tasks.Stop(tasks_pb2.StopRequest(task_id=one), metadata=mallory)
            ),
            "explain": outcome(
                lambda: tasks.Explain(tasks_pb2.ExplainRequest(task_id=one), metadata=mallory)
            ),
            "watch": outcome(
                lambda: list(tasks.Watch(tasks_pb2.WatchRequest(task_id=one), metadata=mallory))
            ),
            "download": outcome(
                lambda: list(
                    tasks.Download(tasks_pb2.DownloadRequest(task_id=one), metadata=mallory)
                )
            ),
            "list_all": outcome(
                lambda: tasks.List(tasks_pb2.ListRequest(account="*"), metadata=mallory)
            ),
        }
        listed = tasks.List(tasks_pb2.ListRequest(all=True), metadata=mallory)
        seen["mallory_lists"] = len(listed.tasks)
        seen["nobody"] = outcome(lambda: tasks.Get(tasks_pb2.GetRequest(task_id=one)))
        seen["forged"] = outcome(
            lambda: tasks.Get(
                tasks_pb2.GetRequest(task_id=one), metadata=bearer(tokens["alice"][:-4] + "AAAA")
            )
        )
        size = sum(
            len(piece.data)
            for piece in tasks.Download(
                tasks_pb2.DownloadRequest(task_id=one), metadata=alice, timeout=30
            )
        )
        seen["result_bytes"] = size
    print(json.dumps(seen))


main()
