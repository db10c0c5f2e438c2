"""An ordinary grpcio client that looks for faults which pools have had. Prints one JSON document.

Usage: faults_client.py STUBS_FOLDER ADDRESS TOKEN CASE [ARGUMENT]
"""

import hashlib
import json
import sys
import time
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2 as pb
import nodepool_pb2_grpc as rpc

LIMIT_S = 60.0
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
OVER = ("COMPLETED", "FAILED", "STOPPED")


class Peer:
    """The task service with a token."""

    def __init__(self, channel: Any, token: str) -> None:
        self._stub = rpc.MasterNodeServiceStub(channel)
        self._metadata = [("authorization", f"Bearer {token}")]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda message: method(message, metadata=self._metadata, timeout=LIMIT_S)

    def upload(self, task_id: str, script: bytes) -> None:
        made = self.UploadTask(pb.UploadTaskRequest(task_id=task_id, task_data=script))
        assert made.success, made.message

    def poll(self, task_id: str) -> Any:
        return self.PollTaskStatus(pb.PollTaskStatusRequest(task_id=task_id))

    def wait(self, task_id: str) -> str:
        """Its final status."""
        until = time.monotonic() + LIMIT_S
        while (status := self.poll(task_id).status) not in OVER:
            assert time.monotonic() < until, f"{task_id} is still {status}"
            time.sleep(0.02)
        return str(status)

    def result(self, task_id: str) -> Any:
        return self.GetTaskResult(pb.GetTaskResultRequest(task_id=task_id))


def fast(peer: Peer) -> Any:
    """Every status that tasks of no length were ever seen in, in order and without repeats."""
    seen: dict[str, list[str]] = {f"fast-{number}": [] for number in range(20)}
    for task_id in seen:
        peer.upload(task_id, b"pass")
    for _ in range(2):
        until = time.monotonic() + LIMIT_S
        while True:
            for task_id, statuses in seen.items():
                status = peer.poll(task_id).status
                if not statuses or statuses[-1] != status:
                    statuses.append(status)
            if all(statuses[-1] in OVER for statuses in seen.values()):
                break
            assert time.monotonic() < until, seen
        time.sleep(0.5)
    return list(seen.values())


def ends(peer: Peer) -> Any:
    """How a failing, a stopped and a good task end, by poll and by listing."""
    peer.upload("good", b"pass")
    peer.upload("bad", b"raise SystemExit(3)")
    peer.upload("long", b"import time; time.sleep(300)")
    while peer.poll("long").status == "PENDING":
        time.sleep(0.02)
    peer.StopTask(pb.StopTaskRequest(task_id="long"))
    polled = {task_id: peer.wait(task_id) for task_id in ("good", "bad", "long")}
    listed = {task.task_id: task.status for task in peer.GetAllTasks(pb.GetAllTasksRequest()).tasks}
    return {"polled": polled, "listed": {task_id: listed[task_id] for task_id in polled}}


def twice(peer: Peer) -> Any:
    """A result's digest, each of two times that it is read; uploaded unless it is there."""
    if sys.argv[5] == "first":
        peer.upload(
            "kept",
            b"import os; print('out'); open(os.environ['HIVEMIND_OUTPUT'] + '/f', 'w').write('x')",
        )
    peer.wait("kept")
    digests = []
    for _ in range(2):
        got = peer.result("kept")
        assert got.success, got.message
        digests.append(hashlib.sha256(got.result_data).hexdigest())
    return digests


def large(peer: Peer) -> Any:
    """Sizes of what went up and what came back, all of it over four megabytes."""
    size = 6_000_000
    script = b"import sys; sys.stdout.write('y' * %d)\n#" % size + b"x" * size
    peer.upload("large", script)
    status = peer.wait("large")
    got = peer.result("large")
    return {"status": status, "sent": len(script), "received": len(got.result_data)}


def silent(peer: Peer) -> Any:
    """Stop a task that says nothing and has children in sessions of their own."""
    marker = sys.argv[5]
    peer.upload(
        "silent",
        b"import subprocess, sys, time\n"
        b"for _ in range(3):\n"
        b"    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', %r],\n"
        b"                     start_new_session=True)\n"
        b"time.sleep(300)\n" % marker,
    )
    while peer.poll("silent").status == "PENDING":
        time.sleep(0.02)
    time.sleep(1)
    began = time.monotonic()
    peer.StopTask(pb.StopTaskRequest(task_id="silent"))
    status = peer.wait("silent")
    return {"status": status, "took_s": time.monotonic() - began}


def lines(peer: Peer) -> Any:
    peer.upload("lines", b"for i in range(30000): print(i)")
    peer.wait("lines")
    seen = peer.poll("lines")
    return {"count": len(seen.output), "last": seen.output[-1], "message": seen.message}


def main() -> None:
    with grpc.insecure_channel(sys.argv[2], UNLIMITED) as channel:
        print(json.dumps(globals()[sys.argv[4]](Peer(channel, sys.argv[3]))))


main()
