"""An ordinary grpcio client of a worker, in a process of its own."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.pool import Daemon

PEER = Path(__file__).parent / "peers" / "direct.py"
Reply = dict[str, Any]


@attrs.define
class Caller:
    """Calls one worker; ``token`` goes with every call that names no other."""

    process: subprocess.Popen[bytes]
    token: str = ""

    def call(
        self, service: str, method: str, token: str | None = None, /, **message: object
    ) -> Reply:
        """The reply's fields, or how the call was refused."""
        asked = {
            "service": service,
            "method": method,
            "token": self.token if token is None else token,
            "message": message,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the peer has ended"
        reply: Reply = json.loads(line)
        return reply

    def execute(
        self,
        task_id: str,
        data: bytes,
        task_type: str = "python",
        token: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> Reply:
        """TaskWorkerService/ExecuteTask."""
        return self.call(
            "taskworker",
            "ExecuteTask",
            token,
            task_id=task_id,
            task_type=task_type,
            task_data=base64.b64encode(data).decode(),
            parameters=dict(parameters or {}),
        )

    def push(self, task_id: str, data: bytes, token: str | None = None) -> Reply:
        """WorkerNodeService/ExecuteTask."""
        encoded = base64.b64encode(data).decode()
        return self.call("nodepool", "ExecuteTask", token, task_id=task_id, task_data=encoded)

    def status(self, task_id: str, token: str | None = None) -> Reply:
        """TaskWorkerService/GetTaskStatus."""
        return self.call("taskworker", "GetTaskStatus", token, task_id=task_id)

    def until(self, task_id: str, *wanted: str, printed: str = "") -> Reply:
        """The status, once it is one of these and has printed that line."""
        deadline = time.monotonic() + 60
        while True:
            seen = self.status(task_id)
            is_printed = not printed or printed in seen.get("output", ())
            if seen.get("status") in wanted and is_printed:
                return seen
            assert seen.get("status") in {"PENDING", "RUNNING"}, seen
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)

    def run(self, task_id: str, data: bytes, task_type: str = "python", **more: Any) -> Reply:
        """The task's status at its end."""
        accepted = self.execute(task_id, data, task_type, **more)
        assert accepted["success"], accepted
        return self.until(task_id, "COMPLETED", "FAILED", "STOPPED")


@contextmanager
def open_caller(
    stubs: Path, address: str, token: str = "", ca: Path | None = None
) -> Iterator[Caller]:
    """A caller for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, str(PEER), str(stubs), address, *([str(ca)] if ca else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Caller(process, token)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def local_token(worker: Daemon) -> str:
    """The token in the worker's home."""
    return (worker.home / "worker" / "local-token").read_text().strip()
