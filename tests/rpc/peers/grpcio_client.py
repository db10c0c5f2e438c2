# ruff: noqa: ANN001, ANN201
"""A grpcio client in its own process: runs the code it is given on stdin's first line (JSON).

The code sees `channel`, `stub`, `gate`, `pb`, `grpc`, `outcome`, and talks by `say(value)` (one
JSON line) and `heed()` (waits for a line). Usage: grpcio_client.py STUBS TARGET
"""

import contextlib
import importlib
import json
import sys
import threading  # noqa: TID251 - a foreign program, whose library is made of threads
import time

import grpc


def say(value):
    print(json.dumps(value), flush=True)


def heed():
    return json.loads(sys.stdin.readline())


def outcome(call):
    """What a finished call says: status, details, reply, trailing metadata."""
    reply = None
    with contextlib.suppress(grpc.RpcError):
        reply = call.result() if hasattr(call, "result") else list(call)
    return {
        "status": call.code().name,
        "details": call.details(),
        "text": getattr(reply, "text", None),
        "number": getattr(reply, "number", None),
        "trailing": {k: v for k, v in call.trailing_metadata() or () if isinstance(v, str)},
    }


def main():
    stubs, target = sys.argv[1:3]
    sys.path.insert(0, stubs)
    pb = importlib.import_module("echo_pb2")
    services = importlib.import_module("echo_pb2_grpc")
    job = heed()
    if "ca" in job:
        credentials = grpc.ssl_channel_credentials(
            *(job[k].encode() if k in job else None for k in ("ca", "key", "cert"))
        )
        channel = grpc.secure_channel(target, credentials, job.get("options", []))
    else:
        channel = grpc.insecure_channel(target, job.get("options", []))
    names = {
        "channel": channel,
        "stub": services.EchoStub(channel),
        "gate": services.GateStub(channel),
        "pb": pb,
        "grpc": grpc,
        "say": say,
        "heed": heed,
        "outcome": outcome,
        "threading": threading,
        "time": time,
        "job": job,
    }
    exec(compile(job["code"], "<test>", "exec"), names)
    channel.close()


main()
