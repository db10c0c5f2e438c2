"""The launcher's loop: the next run's init is made ahead, and its end is told to the pool.

A message is a marshalled dict, one for each datagram of a SOCK_SEQPACKET socket, with descriptors
beside it. What a run is comes in one that its init reads, and never the launcher, for a forked task
sees all that ever was in its launcher's memory. The init answers `start`, the launcher tells the
end. Runs are numbered from 1: an init knows which is its own, so that none is ever begun twice.

What the launcher itself is asked for comes by a second socket, its control.
"""

from __future__ import annotations

import _socket
import contextlib
import marshal
import os
import resource
import select
import sys

from sandbox.launcher import answers, command, confine, init
from sandbox.spawner import datagrams, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from sandbox.launcher.warm import Warm
else:
    import _signal  # without the enumerations of the module around it

_MESSAGE_BYTES = 1 << 17
_FAILURE_BYTES = 4096


class Launcher:
    """Serves one cell until the pool closes its end."""

    def __init__(
        self, link: _socket.socket, control: _socket.socket | None, ready: Warm | None
    ) -> None:
        self._link = link
        self._control = control
        self._ready = ready
        message = marshal.loads(link.recv(_MESSAGE_BYTES))  # noqa: S302 - the pool is trusted
        self._filter = linux.Filter(message["filter"])
        self._in_leaves = message["in_leaves"]
        linux.die_with_parent()
        linux.empty_bounding_set()
        self._failures, self._why_not = os.pipe()
        os.set_blocking(self._failures, False)
        self._number = 1
        self._failure = ""
        self._is_outdated = False
        # Where each run has a cgroup of its own, its init cannot be made before that is.
        self._was_ready = self._in_leaves
        if self._was_ready:
            link.send(answers.done(0, "configure"))

    def serve(self) -> init.PythonTask | None:
        """Serve one run after the other until the pool closes its end.

        Returns:
            None at that end; in the process of a Python task, what it is to become.
        """
        while True:
            into = None
            if self._in_leaves and (into := self._receive_leaf()) is None:
                return None
            failed_before, self._failure = self._failure, ""
            if failed_before:
                self._attend(self._link.fileno())  # once more, but not before there is a run
            try:
                pid, pidfd = linux.clone(confine.NAMESPACES, into)
            except OSError as error:
                self._failure = str(error)
            else:
                if pid == 0:
                    return self._become_init(own_cgroup=into is not None)
                self._follow(pid, pidfd)
            if into is not None:
                os.close(into)
            if self._failure and (failed_before or self._in_leaves or not self._was_ready):
                self._refuse()
                return None

    def _become_init(self, *, own_cgroup: bool) -> init.PythonTask:
        made = init.Init(
            self._link,
            self._filter,
            self._number,
            own_cgroup=own_cgroup,
            why_not=self._why_not,
            tells_ready=not self._was_ready,
        )
        return made.run(self._ready)

    def _follow(self, pid: int, pidfd: int) -> None:
        """Wait for the end of an init and tell it, unless there never was a run in it."""
        if self._control is not None:
            self._attend(pidfd, waiting=pid)
        os.close(pidfd)
        # os.wait4 imports this for its answer's type; a fork of a warm interpreter must not see it.
        sys.modules["resource"] = resource
        _, status, usage = os.wait4(pid, 0)
        if self._ready is not None:
            del sys.modules["resource"]
        if self._is_outdated:
            self._is_outdated = False
            self._answer("unpack")  # not before: it would have taken the run that now comes
            return
        exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        if exit_code == init.NOT_MADE:  # or that of a task
            with contextlib.suppress(BlockingIOError):
                self._failure = os.read(self._failures, _FAILURE_BYTES).decode(errors="replace")
        if self._failure:
            return
        self._was_ready = True
        cpu_s, peak_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        self._link.send(answers.ended(self._number, exit_code, cpu_s, peak_bytes))
        self._number += 1

    def _refuse(self) -> None:
        """No init could be made: the run that waits for one is for others, and so are the rest."""
        number, op = (self._number, "start") if self._was_ready else (0, "configure")
        self._link.send(answers.refused(number, op, "setup", self._failure))

    def _receive_leaf(self) -> int | None:
        """The cgroup of the next run; None when the pool has closed its end."""
        if self._control is not None:
            self._attend(self._link.fileno())
        data, descriptors = datagrams.receive(self._link, _MESSAGE_BYTES, 1)
        return descriptors[0] if data else None

    # Control.

    def _attend(self, descriptor: int, waiting: int | None = None) -> None:
        """Wait until there is something to be read, and do what the pool asks for meanwhile.

        Args:
            descriptor: where.
            waiting: an init that was made ahead. It is killed where it has become outdated, which
                the pool asks for between two runs alone.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if self._control is not None:
            poll.register(self._control, select.POLLIN)
        while True:
            ready = [number for number, _ in poll.poll()]
            if self._control is None or self._control.fileno() not in ready:
                return
            data, given = datagrams.receive(self._control, _MESSAGE_BYTES, 1)
            if not data:
                os._exit(0)  # the pool closed its end
            message = marshal.loads(data)  # noqa: S302
            if message["op"] == "warm":
                self._start_warm(message["argv"], given[0])
            else:
                # Here, once, for a run cannot import what its own mounts cover.
                from sandbox.spawner import archive

                archive.preload()
                if waiting is not None:
                    os.kill(waiting, _signal.SIGKILL)
                    self._is_outdated = True
                    return
            self._answer(message["op"])

    def _answer(self, op: str) -> None:
        if self._control is not None:
            self._control.send(answers.done(0, op))

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


def execute_here(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Go on as the command, in this very process, which is a task's already."""
    try:
        command.execute(argv, env)
    except command.CannotExecute as error:
        os.write(2, error.text.encode("utf-8", "surrogateescape"))
        os._exit(error.exit_code)
    finally:
        os._exit(1)
