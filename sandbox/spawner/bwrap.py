"""The bubblewrap command line of one run."""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH112, PTH114, PTH115

from __future__ import annotations

import os

from sandbox.spawner import house

_TOP_LEVEL = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# The shell reports a command that is not there as 127 and one that cannot be executed as 126.
_SHELL = ("/bin/sh", "-c", 'exec "$@"', "sh")


def build_options(
    slot: int,
    env: dict[str, str],
    binds: list[str],
    devices: list[str],
    seccomp_fd: int,
    status_fd: int,
) -> bytes:
    """The options that bubblewrap reads through --args: NUL-terminated words.

    They travel in a memory file since /proc/1/cmdline is visible to the task.

    Args:
        slot: whose mounts the task gets.
        env: the task's whole environment.
        binds: where the slot's bind 0, 1, ... appear in the sandbox, all read-only.
        devices: device nodes below /dev, of the host and of the sandbox alike.
        seccomp_fd: descriptor of the filter.
        status_fd: descriptor that bubblewrap writes its JSON status to.
    """
    top = house.slot_path(slot)
    words = ["--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent"]
    words += ["--new-session", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000"]
    words += ["--hostname", "sandbox", "--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    words += ["--ro-bind", "/host/usr", "/usr", *_top_level(), "--ro-bind", "/pool/etc", "/etc"]
    for number, target in enumerate(binds):
        words += ["--ro-bind", f"{top}/bind/{number}", target]
    words += ["--proc", "/proc", "--dev", "/dev", "--bind", f"{top}/shm", "/dev/shm"]  # noqa: S108
    for device in devices:
        words += ["--dev-bind", f"/host{device}", device]
    words += ["--remount-ro", "/dev", "--bind", f"{top}/tmp", "/tmp"]  # noqa: S108
    words += ["--bind", f"{top}/task", "/task", "--chdir", "/task", "--remount-ro", "/"]
    words += ["--seccomp", str(seccomp_fd), "--json-status-fd", str(status_fd)]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _top_level() -> list[str]:
    words: list[str] = []
    for name in _TOP_LEVEL:
        path = f"/host/{name}"
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), f"/{name}"]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, f"/{name}"]
    return words


def command_line(bwrap: str, args_fd: int, argv: list[str]) -> list[str]:
    """What is executed: bubblewrap, then the task's command through the shell's exec."""
    return [bwrap, "--args", str(args_fd), "--", *_SHELL, *argv]
