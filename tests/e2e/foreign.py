"""Workers and clients of the public API, in processes of their own, as tests speak to them."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.pool import Daemon, clean_environment

PROGRAM = Path(__file__).with_name("peers") / "foreign_worker.py"
WITHIN_S = 60.0

RULES = """
push_probe_s = 0.2
push_lease_s = 2.4
push_accept_s = 1.5
stop_grace_s = 1
refusal_bar_s = 0.5
time_limit_grace_s = 0.5
logins_per_minute = 1000
grant_cpt = 1_000_000
"""
"""A pool that is quick to give up."""


@attrs.define(eq=False)
class Peer:
    """One process of a stranger's."""

    process: subprocess.Popen[bytes]
    token: str = ""
    events: list[dict[str, Any]] = attrs.field(factory=list)
    _answers: dict[int, dict[str, Any]] = attrs.field(factory=dict)
    _buffer: bytes = b""
    _number: int = 0

    def send(self, do: str, **fields: Any) -> int:
        """Tell it to do something; the number of its answer."""
        self._number += 1
        order = {"id": self._number, "do": do, **fields}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return self._number

    def answer(self, number: int, within_s: float = WITHIN_S) -> dict[str, Any]:
        """What came of it."""
        self._read_until(lambda: number in self._answers, f"answer {number}", within_s)
        answer = self._answers.pop(number)
        assert "failed" not in answer, answer["failed"]
        return answer

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Have it do something."""
        return self.answer(self.send(do, **fields))

    def call(self, method: str, token: str | None = None, **request: Any) -> dict[str, Any]:
        """A unary call: ``NodeManagerService/HealthCheck``, or ``v1/Reports/ReportBatch``."""
        *before, service, name = method.split("/")
        package = "hivemind.v1" if before else "nodepool"
        zeros = request.pop("zeros", 0)
        return self.ask(
            "call",
            service=f"{package}.{service}",
            method=name,
            request=request,
            token=self.token if token is None else token,
            zeros=zeros,
        )

    def event(self, kind: str, within_s: float = WITHIN_S, **like: Any) -> dict[str, Any]:
        """The next event of the kind, taken out of those that came."""

        def found() -> dict[str, Any] | None:
            for event in self.events:
                if event["event"] == kind and like.items() <= event.items():
                    return event
            return None

        self._read_until(lambda: found() is not None, f"event {kind} {like}", within_s)
        event = found()
        assert event is not None
        self.events.remove(event)
        return event

    def _read_until(self, is_there: Any, what: str, within_s: float) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while not is_there():
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, left))
            assert readable, f"{what} did not come within {within_s:g} s; {self.events}"
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, f"the peer ended before {what}"
            *lines, self._buffer = (self._buffer + piece).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "event" in said:
                    self.events.append(said)
                else:
                    self._answers[said.pop("id")] = said

    # --- what most tests do ---

    def log_in(self, name: str) -> "Peer":
        """Be this account, which is made where it is not there."""
        who = {"username": name, "password": f"{name}-password"}
        self.call("UserService/Register", token="", **who)
        entered = self.call("UserService/Login", token="", **who)
        assert entered["success"], entered
        self.token = entered["token"]
        return self

    def join(
        self,
        node_id: str,
        mode: str = "good",
        *,
        threads: int = 8,
        is_small: bool = False,
        **fields: Any,
    ) -> int:
        """Serve as a node of this id and register it; its location is its id. Returns its port.

        ``is_small``: as gRPC is by itself, with messages of 4 MB at most.
        """
        port = self.ask(
            "serve",
            mode=mode,
            node_id=node_id,
            token=self.token,
            threads=threads,
            is_small=is_small,
        )["port"]
        said = self.register(node_id, int(port), **fields)
        assert said["success"], said
        return int(port)

    def register(self, node_id: str, port: int, **fields: Any) -> dict[str, Any]:
        """Register a node at a port of this machine."""
        request = {
            "node_id": node_id,
            "hostname": "127.0.0.1",
            "port": port,
            "cpu_cores": 4,
            "memory_gb": 8,
            "location": node_id,
            "docker_status": "enabled",
            **fields,
        }
        return self.call("NodeManagerService/RegisterWorkerNode", **request)

    def submit(self, script: str, at: str = "", **fields: Any) -> str:
        """A task for nodes in that location."""
        ask = {"location": at, **fields.pop("ask", {})}
        made = self.ask("submit", token=self.token, script=script, ask=ask, **fields)
        return str(made["task_id"])

    def watch(self, task_id: str) -> dict[str, Any]:
        """The task at its end."""
        return self.ask("watch", token=self.token, task_id=task_id)

    def get(self, task_id: str) -> dict[str, Any]:
        """The task as it is, with its attempts."""
        return self.ask("get", token=self.token, task_id=task_id)

    def status_of(self, node_id: str) -> str:
        """How a node is; asked without a token."""
        return str(self.call("NodeManagerService/HealthCheck", token="", node_id=node_id)["status"])

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Every node by its id, in the order of the list."""
        listed = self.call("NodeManagerService/GetNodeList")["nodes"]
        return {node["node_id"]: node for node in listed}


@contextmanager
def open_peer(stubs: Path, master: Daemon | str) -> Iterator[Peer]:
    """A stranger's process for the length of the block."""
    address = master if isinstance(master, str) else master.address
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(stubs), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        process.wait(timeout=30)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
