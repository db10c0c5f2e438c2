"""Pid 1 of one run: made ahead, it waits for the run, starts the task and waits for its end.

Its namespaces and mounts are there before the run is; in a warm interpreter so is the fork that
goes on as the task. One process reads what the run is: that fork, or else pid 1 itself. It gives
up every right before it touches anything of the task's; a pid 1 that has a fork does so at once.
When the task's first process ends, so does pid 1, and the kernel kills whatever is left in the pid
namespace.
"""

from __future__ import annotations

import _socket
import marshal
import os
import resource

from sandbox.launcher import answers, command, confine
from sandbox.spawner import datagrams, limits, linux, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, NoReturn

    from sandbox.launcher.warm import Start, Warm
else:
    import _signal  # without the enumerations of the module around it

NOT_MADE = 1
"""What an init ends with that could not be made; it has said why."""

_INIT = 1
_MOST_DESCRIPTORS = 512  # above what one message can bring
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD
_MESSAGE_BYTES = 1 << 17


class PythonTask:
    """What a forked interpreter is to go on as.

    Attributes:
        start: as the warm interpreter planned it; None for what is to be executed.
        argv: the command line.
        env: all of the variables.
    """

    def __init__(self, start: Start | None, argv: list[str], env: dict[str, str]) -> None:
        self.start = start
        self.argv = argv
        self.env = env


def _rehearse(ready: Warm) -> None:
    """Do, to no effect, some of what a run will need done.

    A page that a fork writes to for the first time is copied: that then is while nobody waits.
    """
    example = {"argv": ["python3", "-c", ""], "env": {"HOME": "/task", "PATH": "/usr/bin:/bin"}}
    message = marshal.loads(marshal.dumps(example, 2))  # noqa: S302 - our own
    argv, env = message["argv"], message["env"]
    command.is_too_long(argv, env)
    limits.set_limit(resource.RLIMIT_CORE, 0, _INIT)  # which every run has
    ready.rehearse(argv, env)


class Init:
    """What the launcher's child was born with.

    Attributes:
        link: where the run's message comes from, and where its start is told.
        seccomp: the filter of the task and of this process.
        number: which run it is for.
        own_cgroup: whether it was born in a cgroup of its own.
        why_not: where to say why it could not be made.
        tells_ready: whether the pool waits to hear that it was made.
    """

    def __init__(
        self,
        link: _socket.socket,
        seccomp: linux.Filter,
        number: int,
        *,
        own_cgroup: bool,
        why_not: int,
        tells_ready: bool,
    ) -> None:
        self._link = link
        self._filter = seccomp
        self._number = number
        self._own_cgroup = own_cgroup
        self._why_not = why_not
        self._tells_ready = tells_ready
        self._outlasting: tuple[int, int] = (-1, -1)
        self._descriptors: list[int] = []
        self._message: dict[str, Any] = {}

    def run(self, ready: Warm | None) -> PythonTask:
        """Wait for a run and carry it out; returns in the process that goes on as it alone."""
        is_task = False
        try:
            self._begin()
            if ready is None:
                self._surround()
                self._take()
                self._prepare()
                self._execute()
            self._fork()
            # All the rest happens in the fork: what two processes write to is copied twice.
            self._surround()
            _rehearse(ready)
            self._take()
            argv, env = self._message["argv"], self._message["env"]
            start = ready.plan(argv, env)
            self._prepare()
            linux.set_dumpable(True)
            linux.forget_errors()
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            for number in range(3):
                os.dup2(self._descriptors[number], number, inheritable=True)
            self._link.detach()
            os.closerange(3, _MOST_DESCRIPTORS)
            is_task = True
        finally:
            if not is_task:
                os._exit(1)  # never back into the launcher's loop
        return PythonTask(start, argv, env)

    # Ahead.

    def _begin(self) -> None:
        """What pid 1 does for itself and its fork."""
        try:
            linux.die_with_parent()
            os.setsid()
            if self._own_cgroup:
                linux.unshare(linux.CLONE_NEWCGROUP)
            # Python's own handler would end this process: a task could end its init, and so forge
            # its exit code. As pid 1 it is not reached by a signal that it leaves to the kernel.
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
            # Its launcher's folder may be one that the run's mounts cover, and must not be reached
            # by way of this process.
            os.chdir("/")
        except OSError as error:
            self._not_made(error)

    def _fork(self) -> None:
        """Fork what becomes the task; returns there, once this process has given up its rights."""
        try:
            reader, writer = os.pipe()
            pid = os.fork()
        except OSError as error:
            self._not_made(error)
        if pid:
            confine.give_up_rights(self._filter)
            self._wait(pid)
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)

    def _surround(self) -> None:
        """Make all of a run's surroundings that does not depend on what it is."""
        try:
            task = confine.mount_all()
            os.chdir("/task")
            os.umask(0o022)
            self._outlasting = (os.pidfd_open(_INIT), task)
        except OSError as error:
            self._not_made(error)

    def _not_made(self, error: OSError) -> NoReturn:
        os.write(self._why_not, str(error).encode("utf-8", "surrogateescape"))
        os._exit(NOT_MADE)

    # The run.

    def _take(self) -> None:
        """Wait for the run's message."""
        if self._tells_ready:
            self._link.send(answers.done(0, "configure"))
        data, descriptors = datagrams.receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
        if not data:
            os._exit(1)  # the pool closed its end
        message: dict[str, Any] = marshal.loads(data)  # noqa: S302 - the pool is trusted
        if message["id"] != self._number:
            # It was for one before this, which died too early; its run is tried elsewhere.
            os._exit(1)
        if message["body_in_file"]:
            with os.fdopen(descriptors.pop(0), "rb") as file:
                message = marshal.loads(file.read())  # noqa: S302
        self._message, self._descriptors = message, descriptors

    def _execute(self) -> NoReturn:
        streams = (self._descriptors[0], self._descriptors[1], self._descriptors[2])
        try:
            self._wait(command.spawn(self._message["argv"], self._message["env"], streams))
        except command.CannotExecute as error:
            os.write(streams[2], error.text.encode("utf-8", "surrogateescape"))
            os._exit(error.exit_code)

    def _prepare(self) -> None:
        """Give up every right, stage, and say that the task begins: all but its start."""
        message, descriptors = self._message, self._descriptors
        # A task can have its init act for it, so what holds for one holds for both.
        others = () if os.getpid() == _INIT else (_INIT,)
        try:
            confine.set_quotas(message["quotas"])
            limits.set_oom_score(limits.TASK_OOM_SCORE)  # before the cell's launcher
            confine.give_up_rights(self._filter)
            if message["without_cgroup"] is not None:
                confine.limit_without_cgroup(message["without_cgroup"], *others)
            files = [
                (descriptor, name, mode)
                # The archive, if there is one, is the last descriptor. (Python 3.9 has no strict.)
                for descriptor, (name, mode) in zip(descriptors[3:], message["files"])  # noqa: B905
            ]
            archive = descriptors[-1] if message["archive"] is not None else None
            stage.stage(stage.Inputs(files, archive), "/task", message)
            limits.apply_limits(message["limits"], *others)
            if command.is_too_long(message["argv"], message["env"]):
                self._fail("spec", "Argument list too long: the command and its variables")
            self._tell()
        except stage.StageError as error:
            self._fail(error.kind, error.text)
        except MemoryError:
            self._fail("archive", "unpacking the archive needs more memory than the task has")
        except Exception as error:
            self._fail("setup", f"{type(error).__name__}: {error}")

    def _tell(self) -> None:
        """Say that the task starts, and hand over what outlives pid 1 or ends it.

        Before it does: where this fails nothing of the task ran, and it can be tried elsewhere.
        """
        try:
            datagrams.send(self._link, answers.done(self._number, "start"), self._outlasting)
        except OSError as error:
            # Descriptors in flight are counted per user (ETOOMANYREFS, unix(7)): a run beside this
            # one, or one before it until the kernel has cleared up, may hold all there may be.
            self._fail("setup", f"cannot hand out descriptors: {error.strerror}")

    def _fail(self, kind: str, text: str) -> NoReturn:
        self._link.send(answers.refused(self._number, "start", kind, text))
        os._exit(1)

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
