"""An ordinary grpcio client of a worker's own services, with stubs generated from proto/.

Reads one call as JSON from each line of standard input and answers with one line of JSON: the
reply's fields, or the status that the call ended with, and the error code in the trailing metadata.

    {"service": "taskworker", "method": "ExecuteTask", "token": "...", "message": {...}}

A message's ``task_data`` is base64; ``task_data_bytes`` stands for as many bytes of a Python
comment.

Usage: direct.py STUBS_FOLDER ADDRESS [CA_FILE]
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2
import nodepool_pb2_grpc
import taskworker_pb2
import taskworker_pb2_grpc
from google.protobuf import json_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

OPTIONS = [("grpc.max_send_message_length", -1)]


def request(messages: Any, method: str, given: dict[str, Any]) -> Any:
    size = given.pop("task_data_bytes", None)
    data = given.pop("task_data", None)
    message = json_format.ParseDict(given, getattr(messages, f"{method}Request")())
    if size is not None:
        message.task_data = b"#" * size
    if data is not None:
        message.task_data = base64.b64decode(data)
    return message


def listed(channel: grpc.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
    return sorted(service.name for service in reply.list_services_response.service)


def answer(channel: grpc.Channel, call: dict[str, Any]) -> dict[str, Any]:
    if call["method"] == "reflection":
        return {"services": listed(channel)}
    messages, stub = {
        "nodepool": (nodepool_pb2, nodepool_pb2_grpc.WorkerNodeServiceStub),
        "taskworker": (taskworker_pb2, taskworker_pb2_grpc.TaskWorkerServiceStub),
    }[call["service"]]
    # The two reports' requests are not all called as their methods.
    name = {"ReportRunningStatus": "RunningStatus"}.get(call["method"], call["method"])
    metadata = [("authorization", f"Bearer {call['token']}")] if call.get("token") else []
    message = request(messages, name, dict(call.get("message", {})))
    try:
        reply, done = getattr(stub(channel), call["method"]).with_call(
            message, metadata=metadata, timeout=call.get("timeout", 60)
        )
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        return {
            "refused": error.code().name,
            "text": error.details(),
            "code": trailing.get("hivemind-error-code"),
        }
    fields = json_format.MessageToDict(
        reply, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
    return fields | {"code": dict(done.trailing_metadata()).get("hivemind-error-code")}


def main() -> None:
    if len(sys.argv) > 3:
        trust = grpc.ssl_channel_credentials(Path(sys.argv[3]).read_bytes())
        channel = grpc.secure_channel(sys.argv[2], trust, options=OPTIONS)
    else:
        channel = grpc.insecure_channel(sys.argv[2], options=OPTIONS)
    with channel:
        for line in sys.stdin:
            print(json.dumps(answer(channel, json.loads(line))), flush=True)


main()
