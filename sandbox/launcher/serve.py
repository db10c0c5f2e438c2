"""The launcher's loop: one run at a time, from the pool's message to the last process's end.

Messages are JSON objects, one per datagram of a SOCK_SEQPACKET socket, with descriptors beside
them; a long one comes in a memory file. The run's own init answers `start`, the launcher tells the
end.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any, NamedTuple

from sandbox.launcher import confine, init
from sandbox.spawner import linux
from sandbox.spawner.datagrams import receive

_MESSAGE_BYTES = 1 << 17
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD


class PythonStart(NamedTuple):
    """What a forked interpreter is to go on as."""

    argv: list[str]
    env: dict[str, str]


class Launcher:
    """Serves one cell until the pool closes its end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        config = json.loads(link.recv(_MESSAGE_BYTES))
        self._fork: bool = config["fork"]
        self._filter = linux.Filter(bytes.fromhex(config["filter"]))
        linux.die_with_parent()
        linux.empty_bounding_set()
        self._send({"answer": "configure", "id": 0})

    def serve(self) -> PythonStart | None:
        """Answer messages until the pool closes its end.

        Returns:
            None at that end; in the process of a Python task, what it is to become.
        """
        while True:
            data, descriptors = receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not data:
                return None
            message = json.loads(data)
            if message["op"] == "warm":
                self._start_warm(message["argv"], descriptors[0])
                self._send({"answer": "warm", "id": 0})
                continue
            start = self._run(message, descriptors)
            if start is not None:
                return start

    def _run(self, message: dict[str, Any], descriptors: list[int]) -> PythonStart | None:
        if message.get("body_follows"):
            with os.fdopen(descriptors.pop(0), "rb") as file:
                message.update(json.load(file))
        into = descriptors.pop(0) if message["into_cgroup"] else None
        if message["archive"] is not None:
            # Imported here, once, rather than anew in every fork.
            from sandbox.spawner import archive

            archive.preload()
        try:
            pid, pidfd = linux.clone(confine.NAMESPACES, into)
        except OSError as error:
            self._send({"id": message["id"], "answer": "start", "error": str(error)})
            self._send({"id": message["id"], "answer": "ended", "exit_code": None})
            _close_all(descriptors, into)
            return None
        if pid == 0:
            given = init.Init(self._link, self._filter, message, descriptors, into is not None)
            return PythonStart(*given.fork()) if self._fork else given.execute()
        os.close(pidfd)
        _close_all(descriptors, into)
        _, status, usage = os.wait4(pid, 0)
        self._send(
            {
                "id": message["id"],
                "answer": "ended",
                "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "memory_peak_bytes": usage.ru_maxrss * 1024,
            }
        )
        return None

    def _start_warm(self, argv: list[str], descriptor: int) -> None:
        """Start the cell's warm interpreter; it ends with this process."""
        os.posix_spawn(
            argv[0],
            [*argv, "warm", "3"],
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, 3)],
        )
        os.close(descriptor)

    def _send(self, answer: dict[str, Any]) -> None:
        self._link.send(json.dumps(answer).encode())


def _close_all(descriptors: list[int], into: int | None) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    if into is not None:
        os.close(into)
