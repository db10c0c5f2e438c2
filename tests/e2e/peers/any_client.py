"""An ordinary grpcio client that makes whatever unary call it is told to, with stubs from proto/.

Reads one JSON document from each line of standard input and answers it with one line: a list with,
for each call, the reply's fields, or the status and words that it ended with; ``s`` is how many
seconds it took. The calls of one line are made at once.

    [{"method": "/nodepool.UserService/Login", "token": "...", "message": {...}}, ...]

Bytes are base64, as protobuf's JSON has them.

Usage: any_client.py STUBS_FOLDER ADDRESS
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2
from google.protobuf import descriptor_pool, json_format, message_factory
from hivemind_v1 import accounts_pb2, credits_pb2, nodes_pb2, tasks_pb2

MODULES = (nodepool_pb2, accounts_pb2, credits_pb2, nodes_pb2, tasks_pb2)
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def call(channel: grpc.Channel, asked: dict[str, Any]) -> dict[str, Any]:
    service, _, name = asked["method"].strip("/").partition("/")
    method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    request = json_format.ParseDict(
        asked.get("message", {}), message_factory.GetMessageClass(method.input_type)()
    )
    stub = channel.unary_unary(
        asked["method"],
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    metadata = [("authorization", f"Bearer {asked['token']}")] if asked.get("token") else []
    began = time.monotonic()
    try:
        reply = stub(request, metadata=metadata, timeout=120)
    except grpc.RpcError as error:
        seen = {"status": error.code().name, "details": error.details()}
    else:
        seen = json_format.MessageToDict(reply, preserving_proto_field_name=True)
    return {**seen, "s": time.monotonic() - began}


def main() -> None:
    with (
        grpc.insecure_channel(sys.argv[2], options=OPTIONS) as channel,
        ThreadPoolExecutor(64) as threads,
    ):
        for line in sys.stdin:
            replies = list(threads.map(lambda asked: call(channel, asked), json.loads(line)))
            print(json.dumps(replies), flush=True)


main()
