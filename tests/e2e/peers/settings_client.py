"""An ordinary grpcio client that uploads programs which say themselves what they need.

Usage: settings_client.py STUBS_FOLDER ADDRESS TOKEN; prints one JSON document.
"""

import io
import json
import sys
import tarfile
import time
import zipfile
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2 as pb
import nodepool_pb2_grpc as rpc

PROGRAM = b"import os; print(os.environ['WORD'])\n"
SETTINGS = b'memory = "96M"\ntime = "77s"\nenv = { WORD = "said" }\n'
SCRIPT = (
    b"""\
# /// script
# [tool.hivemind]
# memory = "96M"
# time = "77s"
# env = { WORD = "said" }
# ///
"""
    + PROGRAM
)
LONG_SCRIPT = b"# a long preface\n" * 20_000 + b"\n" + SCRIPT


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", PROGRAM)
        archive.writestr("hivemind.toml", SETTINGS)
    return packed.getvalue()


def tarred(settings: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, data in (("main.py", PROGRAM), ("hivemind.toml", settings)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def main() -> None:
    with grpc.insecure_channel(sys.argv[2]) as channel:
        tasks = rpc.MasterNodeServiceStub(channel)
        me = [("authorization", f"Bearer {sys.argv[3]}")]
        seen: dict[str, Any] = {}
        uploads = {"script": SCRIPT, "long": LONG_SCRIPT, "zip": zipped(), "tar": tarred(SETTINGS)}
        for name, data in uploads.items():
            made = tasks.UploadTask(pb.UploadTaskRequest(task_id=name, task_data=data), metadata=me)
            assert made.success, made.message
            until = time.monotonic() + 60
            while True:
                now = tasks.PollTaskStatus(pb.PollTaskStatusRequest(task_id=name), metadata=me)
                if now.status not in ("PENDING", "RUNNING") or time.monotonic() > until:
                    break
                time.sleep(0.05)
            seen[name] = [now.status, list(now.output)]
        try:
            bad = tarred(b"memory = 'much'")
            tasks.UploadTask(pb.UploadTaskRequest(task_id="bad", task_data=bad), metadata=me)
        except grpc.RpcError as error:
            seen["bad"] = [error.code().name, error.details()]
    print(json.dumps(seen))


main()
