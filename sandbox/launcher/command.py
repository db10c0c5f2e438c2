"""Finding and executing a command as a shell's `exec "$@"` does, with the same exit codes."""

# Plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import errno
import os
import resource
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # without the enumerations of the module around it

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_DEFAULTS = (
    _signal.SIGPIPE,
    _signal.SIGXFSZ,
)  # those that Python ignores; ignoring outlives execve


_POINTER_BYTES = 8
_LEAST_BYTES, _MOST_BYTES = 128 << 10, 6 << 20  # ARG_MAX, three quarters of the usual stack
_ROOM_BYTES = 4096 + 1024  # the path of the program itself, and what the kernel puts beside it


class CannotExecute(Exception):
    """There is no such command, or it is not executable.

    Attributes:
        exit_code: 127 or 126.
        text: the line for stderr, which is the one that bubblewrap writes for a run of its own.
    """

    def __init__(self, exit_code: int, name: str, why: str) -> None:
        super().__init__(why)
        self.exit_code = exit_code
        self.text = f"bwrap: execvp {name}: {why}\n"


def is_too_long(argv: list[str], env: dict[str, str]) -> bool:
    """Whether execve(2) would answer E2BIG: strings and the pointers to them share a part of the
    stack (`bprm_stack_limits` in the kernel's fs/exec.c).
    """
    words = [*argv, *(f"{name}={value}" for name, value in env.items())]
    used = sum(len(os.fsencode(word)) + 1 + _POINTER_BYTES for word in words)
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    most = _MOST_BYTES if stack == resource.RLIM_INFINITY else min(_MOST_BYTES, stack // 4)
    return used + _ROOM_BYTES > max(_LEAST_BYTES, most)


def spawn(argv: list[str], env: dict[str, str], streams: tuple[int, int, int]) -> int:
    """Start a command with these as its descriptors 0 to 2.

    Raises:
        CannotExecute: there is nothing that could be executed.
    """
    path = _find(argv[0], env.get("PATH", ""))
    try:
        try:
            return _spawn(path, argv, env, streams)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return _spawn("/bin/sh", ["/bin/sh", path, *argv[1:]], env, streams)
    except FileNotFoundError:  # perhaps the interpreter that its first line names
        raise CannotExecute(NOT_FOUND, argv[0], "No such file or directory") from None
    except OSError as error:
        raise CannotExecute(NOT_EXECUTABLE, argv[0], str(error.strerror)) from None


def execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Become the command.

    Raises:
        CannotExecute: there is nothing to execute.
        OSError: the kernel refused it for another reason.
    """
    path = _find(argv[0], env.get("PATH", ""))
    for number in _DEFAULTS:
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execve(path, argv, env)  # noqa: S606
    except PermissionError:
        raise CannotExecute(NOT_EXECUTABLE, argv[0], "Permission denied") from None
    except FileNotFoundError:
        raise CannotExecute(NOT_FOUND, argv[0], "No such file or directory") from None


def _spawn(path: str, argv: list[str], env: dict[str, str], streams: tuple[int, int, int]) -> int:
    return os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, given, number) for number, given in enumerate(streams)],
        setsigdef=_DEFAULTS,
    )


def _find(name: str, path: str) -> str:
    if "/" in name:
        return name
    denied = False
    for folder in path.split(":"):
        candidate = os.path.join(folder or ".", name)
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and os.access(candidate, os.X_OK):
            return candidate
        denied = denied or stat.S_ISREG(mode)
    if denied:
        raise CannotExecute(NOT_EXECUTABLE, name, "Permission denied")
    raise CannotExecute(NOT_FOUND, name, "No such file or directory")
