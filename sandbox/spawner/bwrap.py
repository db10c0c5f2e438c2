"""The bubblewrap command line of one run, put together of parts that other sandboxes can reuse."""

from __future__ import annotations

import os
from collections.abc import Collection

from sandbox.spawner.spare import HOST_NAME

_SEPARATE = ("user", "pid", "ipc", "uts", "cgroup", "net")


def build_options(
    root: str, env: dict[str, str], seccomp_fd: int, status_fd: int, shared: Collection[str]
) -> bytes:
    """The options that bubblewrap reads through --args: NUL-terminated words.

    They travel in a memory file since /proc/1/cmdline is visible to the task.

    Args:
        root: the tree that the task sees as /, whose mounts say themselves what can be written.
        env: the task's whole environment.
        seccomp_fd: descriptor of the filter.
        status_fd: descriptor that bubblewrap writes its JSON status to.
        shared: kinds of namespaces that it keeps as bubblewrap finds them.
    """
    return encode(
        [
            *namespaces(shared),
            *identity(),
            *environment(env),
            *file_tree(root, "/task"),
            "--seccomp",
            str(seccomp_fd),
            "--json-status-fd",
            str(status_fd),
        ]
    )


def namespaces(shared: Collection[str]) -> list[str]:
    """New namespaces, each by name: --unshare-all leaves out what a kernel lacks.

    Args:
        shared: kinds that are not to be new: the machine's own, or made before.
    """
    words = [f"--unshare-{name}" for name in _SEPARATE if name not in shared]
    words += [] if "uts" in shared else ["--hostname", HOST_NAME]
    return [*words, "--disable-userns", "--die-with-parent"]


def identity() -> list[str]:
    """One unprivileged user without capabilities, in a session of its own."""
    return ["--new-session", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000"]


def environment(env: dict[str, str]) -> list[str]:
    """These variables alone."""
    return ["--clearenv", *(word for pair in env.items() for word in ("--setenv", *pair))]


def file_tree(root: str, working: str) -> list[str]:
    """A tree that is ready but for /proc.

    It is bound with its devices; what it may not hold, its own mounts forbid: bubblewrap keeps
    their restrictions, and so does the kernel, for they come from a more privileged namespace.
    """
    return ["--dev-bind", root, "/", "--proc", "/proc", "--chdir", working]


def encode(words: list[str]) -> bytes:
    """Words as --args reads them."""
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def command_line(bwrap: str, args_fd: int, argv: list[str]) -> list[str]:
    """What is executed: bubblewrap, then the task's command, which it looks up as a shell does."""
    return [bwrap, "--args", str(args_fd), "--", *argv]
