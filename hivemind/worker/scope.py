"""Entering a cgroup of one's own: a delegated scope of the user's systemd.

An ordinary user's processes live in cgroups that they may not change, and the limits of a sandbox
need one that they may. ``systemd-run --user --scope`` starts a program in such a cgroup. It is
tried once, before anything else of the worker runs, by replacing this process.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

ENTERED = "HIVEMIND_SCOPE_TRIED"
"""Set in the environment of the program that is started, so that this is tried once only."""

_TRIAL_S = 10.0


def scope_command(command: Sequence[str]) -> tuple[str, ...]:
    """The command line that runs ``command`` in a delegated scope of the user's systemd."""
    return (
        "systemd-run",
        "--user",
        "--scope",
        "--quiet",
        "--collect",
        "--property=Delegate=yes",
        "--",
        *command,
    )


def enter_scope(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    has_cgroup: Callable[[], bool],
    works: Callable[[Sequence[str]], bool] | None = None,
    replace: Callable[[Sequence[str], Mapping[str, str]], NoReturn] | None = None,
) -> None:
    """Start ``command`` anew in a scope of its own, where that is needed and can be had.

    To be called before Trio runs, by a program that wants ``limits = cgroup``. It returns where
    there is a cgroup already, where the scope was tried before, and where systemd will not give
    one: the sandbox then says what is missing. Otherwise it does not return.

    Args:
        command: this program's own command line, its first word a path or a name on PATH.
        environ: this program's environment, which the new one gets too.
        has_cgroup: whether limits can be set without a scope.
        works: whether a command ends well; runs it, by default.
        replace: becomes another program; ``execvpe``, by default.
    """
    if ENTERED in environ or has_cgroup() or not (works or _works)(scope_command(("true",))):
        return
    (replace or _replace)(scope_command(command), {**environ, ENTERED: "1"})


def _works(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _replace(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    os.execvpe(command[0], list(command), dict(environ))  # noqa: S606
