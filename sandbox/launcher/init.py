"""Pid 1 of one run: it makes the run's surroundings, starts the task in them and waits for it.

It gives up every right before it touches anything of the task's. When the task's first process
ends, so does this one, and the kernel kills whatever is left in the pid namespace.
"""

from __future__ import annotations

import _socket
import marshal
import os

from sandbox.launcher import answers, command, confine
from sandbox.spawner import datagrams, limits, linux, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, NoReturn

    from sandbox.launcher.warm import Start, Warm
else:
    import _signal  # without the enumerations of the module around it

_MOST_DESCRIPTORS = 512  # above what one message can bring
_BODY_BYTES = 1 << 18  # above what one datagram can hold


class PythonTask:
    """What a forked interpreter is to go on as.

    Attributes:
        start: as the warm interpreter planned it.
        argv: the command line.
        env: all of the variables.
    """

    def __init__(self, start: Start, argv: list[str], env: dict[str, str]) -> None:
        self.start = start
        self.argv = argv
        self.env = env


class Init:
    """What the launcher's child was born with."""

    def __init__(
        self,
        link: _socket.socket,
        seccomp: linux.Filter,
        number: int,
        descriptors: list[int],
        own_cgroup: bool,
    ) -> None:
        self._link = link
        self._filter = seccomp
        self._number = number
        self._descriptors = descriptors
        self._own_cgroup = own_cgroup
        self._message: dict[str, Any] = {}

    def run(self, ready: Warm | None, *, body_in_file: bool) -> PythonTask:
        """Run a command to its end; returns in the process of a Python task alone."""
        pid = -1
        try:
            self._message = self._read_body(in_file=body_in_file)
            argv, env = self._message["argv"], self._message["env"]
            start = ready.plan(argv, env) if ready is not None else None
            self._prepare()
            if start is None:
                self._execute()
            try:
                pid = os.fork()
            except OSError as error:
                self._give_up(command.NOT_EXECUTABLE, f"cannot fork: {error.strerror}\n")
            if pid:
                self._wait(pid)
        finally:
            if pid:
                os._exit(1)  # never back into the launcher's loop
        linux.set_dumpable(True)
        linux.forget_errors()
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        for number in range(3):
            os.dup2(self._descriptors[number], number, inheritable=True)
        self._link.detach()
        os.closerange(3, _MOST_DESCRIPTORS)
        return PythonTask(start, argv, env)

    def _read_body(self, *, in_file: bool) -> dict[str, Any]:
        if in_file:
            with os.fdopen(self._descriptors.pop(0), "rb") as file:
                data = file.read()
        else:
            data = self._link.recv(_BODY_BYTES)
        body: dict[str, Any] = marshal.loads(data)  # noqa: S302 - the pool is trusted
        return body

    def _execute(self) -> NoReturn:
        streams = (self._descriptors[0], self._descriptors[1], self._descriptors[2])
        try:
            self._wait(command.spawn(self._message["argv"], self._message["env"], streams))
        except command.CannotExecute as error:
            self._give_up(error.exit_code, error.text)

    def _prepare(self) -> None:
        """Mount, give up every right, stage, and say that the task begins: all but its start."""
        message, descriptors = self._message, self._descriptors
        try:
            linux.die_with_parent()
            os.setsid()
            if self._own_cgroup:
                linux.unshare(linux.CLONE_NEWCGROUP)
            task = confine.mount_all(message["quotas"])
            limits.set_oom_score(limits.TASK_OOM_SCORE)  # before the cell's launcher
            confine.give_up_rights(self._filter)
            os.chdir("/task")
            os.umask(0o022)
            if message["without_cgroup"] is not None:
                confine.limit_without_cgroup(message["without_cgroup"])
            files = [
                (descriptor, name, mode)
                # The archive, if there is one, is the last descriptor. (Python 3.9 has no strict.)
                for descriptor, (name, mode) in zip(descriptors[3:], message["files"])  # noqa: B905
            ]
            archive = descriptors[-1] if message["archive"] is not None else None
            stage.stage(stage.Inputs(files, archive), "/task", message)
            limits.apply_limits(message["limits"])
            # Python's own handler would end this process: a task could end its init, and so forge
            # its exit code. As pid 1 it is not reached by a signal that it leaves to the kernel.
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
            if command.is_too_long(message["argv"], message["env"]):
                self._fail("spec", "Argument list too long: the command and its variables")
            self._tell(task)
        except stage.StageError as error:
            self._fail(error.kind, error.text)
        except MemoryError:
            self._fail("archive", "unpacking the archive needs more memory than the task has")
        except Exception as error:
            self._fail("setup", f"{type(error).__name__}: {error}")

    def _tell(self, task: int) -> None:
        """Say that the task starts, and hand over what outlives this process or ends it.

        Before it does: where this fails nothing of the task ran, and it can be tried elsewhere.
        """
        itself = os.pidfd_open(os.getpid())
        try:
            datagrams.send(self._link, answers.done(self._number, "start"), (itself, task))
        except OSError as error:
            # Descriptors in flight are counted per user (ETOOMANYREFS, unix(7)): a run beside this
            # one, or one before it until the kernel has cleared up, may hold all there may be.
            self._fail("setup", f"cannot hand out descriptors: {error.strerror}")

    def _fail(self, kind: str, text: str) -> NoReturn:
        self._link.send(answers.refused(self._number, "start", kind, text))
        os._exit(1)

    def _give_up(self, exit_code: int, text: str) -> NoReturn:
        os.write(self._descriptors[2], text.encode("utf-8", "surrogateescape"))
        os._exit(exit_code)

    def _wait(self, task_pid: int) -> NoReturn:
        """Reap whatever ends here until the task's first process does, and end as a shell would."""
        self._link.close()
        os.closerange(0, _MOST_DESCRIPTORS)  # whoever reads the task's output shall see its end
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == task_pid:
                os._exit(
                    128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                )
