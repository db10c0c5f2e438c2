"""The launcher's loop: one run at a time, from the pool's message to the last process's end.

A message is a marshalled dict, one for each datagram of a SOCK_SEQPACKET socket, with descriptors
beside it. That of a run says only that there is one: what it is follows in a datagram or a file of
its own, which its init reads, for a forked task sees all that ever was in its launcher's memory.
The init answers `start`, the launcher tells the end.
"""

from __future__ import annotations

import _socket
import marshal
import os
import resource
import sys

from sandbox.launcher import answers, command, confine, init
from sandbox.spawner import datagrams, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sandbox.launcher.warm import Warm

_MESSAGE_BYTES = 1 << 17
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD


class Launcher:
    """Serves one cell until the pool closes its end."""

    def __init__(self, link: _socket.socket, ready: Warm | None) -> None:
        self._link = link
        self._ready = ready
        message = marshal.loads(link.recv(_MESSAGE_BYTES))  # noqa: S302 - the pool is trusted
        self._filter = linux.Filter(message["filter"])
        linux.die_with_parent()
        linux.empty_bounding_set()
        link.send(answers.done(0, "configure"))

    def serve(self) -> init.PythonTask | None:
        """Answer messages until the pool closes its end.

        Returns:
            None at that end; in the process of a Python task, what it is to become.
        """
        while True:
            data, descriptors = datagrams.receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not data:
                return None
            message = marshal.loads(data)  # noqa: S302
            if message["op"] == "warm":
                self._start_warm(message["argv"], descriptors[0])
                continue
            task = self._run(message, descriptors)
            if task is not None:
                return task

    def _run(self, message: dict[str, Any], descriptors: list[int]) -> init.PythonTask | None:
        number = message["id"]
        into = descriptors.pop(0) if message["into_cgroup"] else None
        if message["has_archive"]:
            # Imported here, once, rather than anew in every fork.
            from sandbox.spawner import archive

            archive.preload()
        try:
            pid, pidfd = linux.clone(confine.NAMESPACES, into)
        except OSError as error:
            self._link.send(answers.refused(number, "start", "setup", str(error)))
            self._link.send(answers.ended(number, None, 0.0, 0))
            _close_all(descriptors, into)
            return None
        if pid == 0:
            given = init.Init(self._link, self._filter, number, descriptors, into is not None)
            return given.run(self._ready, body_in_file=message["body_in_file"])
        os.close(pidfd)
        _close_all(descriptors, into)
        # os.wait4 imports this for its answer's type; a fork of a warm interpreter must not see it.
        sys.modules["resource"] = resource
        _, status, usage = os.wait4(pid, 0)
        if self._ready is not None:
            del sys.modules["resource"]
        exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        cpu_s = usage.ru_utime + usage.ru_stime
        self._link.send(answers.ended(number, exit_code, cpu_s, usage.ru_maxrss * 1024))
        return None

    def _start_warm(self, argv: list[str], descriptor: int) -> None:
        """Start the cell's warm interpreter; it ends with this process.

        Not by posix_spawn: glibc's leaves two signals of its own ignored, for all tasks to see.
        """
        if os.fork() == 0:
            try:
                os.set_inheritable(descriptor, True)
                command.execute([*argv, "warm", str(descriptor)], dict(os.environ))
            finally:
                os._exit(1)
        os.close(descriptor)
        self._link.send(answers.done(0, "warm"))


def execute_here(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Go on as the command, in this very process, which is a task's already."""
    try:
        command.execute(argv, env)
    except command.CannotExecute as error:
        os.write(2, error.text.encode("utf-8", "surrogateescape"))
        os._exit(error.exit_code)
    finally:
        os._exit(1)


def _close_all(descriptors: list[int], into: int | None) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
    if into is not None:
        os.close(into)
