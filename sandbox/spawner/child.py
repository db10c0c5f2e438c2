"""The process that becomes a sandbox: born in its own pid namespace, it ends as bubblewrap.

It is pid 1 of that namespace, so killing this one process kills everything that ever ran in the
sandbox, at any moment of its start, and the kernel lets it be reaped only when all of that is
gone. Whatever goes wrong before bubblewrap runs is one JSON line on the report descriptor.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
from collections.abc import Iterator
from typing import Any, NoReturn

from sandbox.spawner import bwrap, limits, linux, spare, stage

_ARGS_FD, STATUS_FD, FIRST_GIVEN_FD = 3, 4, 5
_INOTIFY_PER_RUN = 16
_ABOVE = 16  # descriptors are first moved out of the way of the numbers above


class Place:
    """Where a process is to stand and what it gets: the same for every sandbox of a kind.

    Attributes:
        bwrap_path: bubblewrap in the spawner's tree.
        as_root: whether ids are to be changed (else there are only capabilities to drop).
        uid: the unprivileged uid and gid to take on.
        report: descriptor for our errors and then for bubblewrap's JSON status.
        streams: stdin, stdout and stderr.
        joins: descriptors of the v1 hierarchies to join by writing.
        namespaces: descriptors of namespaces to enter, one for each of `spare.KINDS`, or none.
    """

    def __init__(
        self,
        *,
        bwrap_path: str,
        as_root: bool,
        uid: int,
        report: int,
        streams: tuple[int, int, int],
        joins: list[int],
        namespaces: list[int],
    ) -> None:
        self.bwrap_path = bwrap_path
        self.as_root = as_root
        self.uid = uid
        self.report = report
        self.streams = streams
        self.joins = joins
        self.namespaces = namespaces


def options(start: dict[str, Any], place: Place, root: str) -> bytes:
    """What bubblewrap is told of a run, whose filter is the first descriptor given besides."""
    return bwrap.build_options(
        root,
        start["env"],
        seccomp_fd=FIRST_GIVEN_FD,
        status_fd=STATUS_FD,
        shared=_shared(place, start["network"]),
    )


def become_sandbox(
    start: dict[str, Any], place: Place, *, options: int, filter_program: int, root: str
) -> NoReturn:
    """Join the cgroups, give up every privilege, stage the inputs and execute bubblewrap.

    What the spawner can make ready is made there: all that a new process writes to or runs for the
    first time costs it a page fault.

    Args:
        start: the run as `sandbox.describe` puts it.
        place: where it runs.
        options: descriptor of the options.
        filter_program: descriptor of the seccomp filter.
        root: what the task sees as /, with its /task.
    """
    with ending_here(place):
        enter(place)
        inputs = stage.open_inputs(start)
        give_up_privileges(place)
        if start["without_cgroup"] is not None:
            _limit_without_cgroup(start["without_cgroup"], as_root=place.as_root)
        stage.stage(inputs, f"{root}/task", start)
        limits.apply_limits(start["limits"])
        execute(place, options, start["argv"], [filter_program])


@contextlib.contextmanager
def ending_here(place: Place) -> Iterator[None]:
    """Whatever happens inside, the process ends: never back into the spawner's loop."""
    try:
        yield
    except stage.StageError as error:
        _fail(place.report, error.kind, error.text)
    except MemoryError:
        _fail(place.report, "archive", "unpacking the archive needs more memory than the task has")
    except OSError as error:
        kind = "spec" if error.errno == errno.E2BIG else "setup"
        text = f"{error.strerror or error}: {error.filename or place.bwrap_path}"
        _fail(place.report, kind, text)
    except Exception as error:
        _fail(place.report, "setup", f"{type(error).__name__}: {error}")
    finally:
        os._exit(1)


def enter(place: Place) -> None:
    """Join the cgroups before anything else is done, and the namespaces that were made ahead."""
    for descriptor in place.joins:
        os.write(descriptor, b"0")
    for descriptor in place.namespaces:
        linux.setns(descriptor)
    limits.set_oom_score(limits.TASK_OOM_SCORE)


def _shared(place: Place, network: str) -> tuple[str, ...]:
    """Kinds of namespaces that bubblewrap is not to make."""
    if network == "full":
        return ("net",)
    return spare.KINDS if place.namespaces else ()


def give_up_privileges(place: Place) -> None:
    """Become the unprivileged user, for good."""
    if place.as_root:
        os.setgroups([])
        os.setresgid(place.uid, place.uid, place.uid)
        os.setresuid(place.uid, place.uid, place.uid)
    else:
        linux.drop_capabilities()
    linux.no_new_privileges()


def execute(place: Place, options: int, argv: list[str], given: list[int]) -> NoReturn:
    """Execute bubblewrap.

    Args:
        place: where it runs.
        options: descriptor of its options, which name others by the numbers that they get here.
        argv: the command.
        given: more descriptors, which get the numbers from `FIRST_GIVEN_FD` on.

    Raises:
        OSError: it could not be executed.
    """
    _arrange_descriptors([*place.streams, options, place.report, *given])
    place.report = STATUS_FD
    os.execve(  # noqa: S606
        place.bwrap_path, bwrap.command_line(place.bwrap_path, _ARGS_FD, argv), {}
    )


def _fail(report: int, kind: str, text: str) -> NoReturn:
    os.write(
        report, json.dumps({"error": kind, "text": " ".join(text.split())[:500]}).encode() + b"\n"
    )
    os._exit(1)


def _limit_without_cgroup(wanted: dict[str, int], *, as_root: bool) -> None:
    """What rlimits can do where there is no cgroup.

    The number of processes is counted per user, and since Linux 5.14 per user namespace: as root
    the slot's uid is this run's alone, else the run gets a user namespace of its own to be counted
    in. On an older kernel all of the user's processes would count, so there the limit is left out.
    """
    limits.set_limit(resource.RLIMIT_DATA, wanted["data_bytes"])
    if not as_root:
        if not wanted["count_per_namespace"]:
            return
        enter_own_user_namespace()
    limits.set_limit(resource.RLIMIT_NPROC, wanted["processes"])


def enter_own_user_namespace() -> None:
    """As an ordinary user: be counted apart from the user's other processes, without a right."""
    ids = (("uid_map", os.getuid()), ("gid_map", os.getgid()))
    linux.unshare(linux.CLONE_NEWUSER)
    for name, number in ids:
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(f"{number} {number} 1")
    linux.limit_inotify(_INOTIFY_PER_RUN)
    linux.drop_capabilities()


def memory_file(name: str, data: bytes) -> int:
    """A file in memory that holds `data`, at its beginning."""
    descriptor = os.memfd_create(name)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _arrange_descriptors(wanted: list[int]) -> None:
    """Leave exactly these descriptors open, numbered from 0 on."""
    apart = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for descriptor in wanted]
    for number, descriptor in enumerate(apart):
        os.dup2(descriptor, number, inheritable=True)
    try:
        linux.close_from(len(wanted))
    except OSError:
        # Before Linux 5.9. A list, for counting to the limit may take long.
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= len(wanted):
                with contextlib.suppress(OSError):  # the descriptor of the listing itself
                    os.close(int(name))
