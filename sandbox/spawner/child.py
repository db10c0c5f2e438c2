"""The process that becomes a sandbox: born in its own pid namespace, it ends as bubblewrap.

It is pid 1 of that namespace, so killing this one process kills everything that ever ran in the
sandbox, at any moment of its start, and the kernel lets it be reaped only when all of that is
gone. Whatever goes wrong before bubblewrap runs is one JSON line on the report descriptor.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
from typing import Any, NoReturn

from sandbox.spawner import bwrap, linux, stage

_ARGS_FD, _SECCOMP_FD, _STATUS_FD = 3, 4, 5
_MOST_CPU_S = 1 << 32  # an rlimit is a number of the kernel's; any float may be asked for
_INOTIFY_PER_RUN = 16
_ABOVE = 16  # descriptors are first moved out of the way of the numbers above


def become_sandbox(
    start: dict[str, Any],
    *,
    bwrap_path: str,
    filter_program: bytes,
    as_root: bool,
    slot: int,
    uid: int,
    report: int,
    streams: tuple[int, int, int],
    joins: list[int],
) -> NoReturn:
    """Join the cgroups, stage the inputs, give up every privilege and execute bubblewrap.

    Args:
        start: the run as `sandbox.link` describes it.
        bwrap_path: bubblewrap in the spawner's tree.
        filter_program: the seccomp filter.
        as_root: whether ids are to be changed (else there are only capabilities to drop).
        slot: whose mounts to use.
        uid: the unprivileged uid and gid to take on.
        report: descriptor for our errors and then for bubblewrap's JSON status.
        streams: the task's stdin, stdout and stderr.
        joins: cgroup.procs descriptors of the hierarchies to join by writing.
    """
    try:
        for descriptor in joins:
            os.write(descriptor, b"0")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        _prefer_for_oom_killing()
        inputs = stage.open_inputs(start)
        if as_root:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        else:
            linux.drop_capabilities()
        linux.no_new_privileges()
        if start["without_cgroup"] is not None:
            _limit_without_cgroup(start["without_cgroup"], as_root=as_root)
        stage.stage(inputs, f"/pool/slots/{slot}/task", start)
        words = bwrap.build_options(
            slot,
            start["env"],
            [target for _, target in start["binds"]],
            start["devices"],
            _SECCOMP_FD,
            _STATUS_FD,
        )
        _arrange_descriptors(
            streams,
            _memory_file("args", words),
            _memory_file("filter", filter_program),
            report,
        )
        report = _STATUS_FD
        _apply_limits(start["limits"])
        os.execve(  # noqa: S606
            bwrap_path, bwrap.command_line(bwrap_path, _ARGS_FD, start["argv"]), {}
        )
    except stage.StageError as error:
        _fail(report, error.kind, error.text)
    except MemoryError:
        _fail(report, "archive", "unpacking the archive needs more memory than the task has")
    except OSError as error:
        kind = "spec" if error.errno == 7 else "setup"
        _fail(report, kind, f"{error.strerror or error}: {error.filename or bwrap_path}")
    except Exception as error:
        _fail(report, "setup", f"{type(error).__name__}: {error}")
    finally:
        os._exit(1)  # never back into the spawner's loop


def _fail(report: int, kind: str, text: str) -> NoReturn:
    os.write(
        report, json.dumps({"error": kind, "text": " ".join(text.split())[:500]}).encode() + b"\n"
    )
    os._exit(1)


def _prefer_for_oom_killing() -> None:
    # When the whole machine runs out of memory, a task goes before whoever started it.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _limit_without_cgroup(limits: dict[str, int], *, as_root: bool) -> None:
    """What rlimits can do where there is no cgroup.

    The number of processes is counted per user, and since Linux 5.14 per user namespace: as root
    the slot's uid is this run's alone, else the run gets a user namespace of its own to be counted
    in. On an older kernel all of the user's processes would count, so there the limit is left out.
    """
    _limit(resource.RLIMIT_DATA, limits["data_bytes"])
    if not as_root:
        if not limits["count_per_namespace"]:
            return
        enter_own_user_namespace()
    _limit(resource.RLIMIT_NPROC, limits["processes"])


def enter_own_user_namespace() -> None:
    """As an ordinary user: be counted apart from the user's other processes, without a right."""
    ids = (("uid_map", os.getuid()), ("gid_map", os.getgid()))
    linux.unshare(linux.CLONE_NEWUSER)
    for name, number in ids:
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(f"{number} {number} 1")
    linux.limit_inotify(_INOTIFY_PER_RUN)
    linux.drop_capabilities()


def _apply_limits(limits: dict[str, Any]) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, limits["open_files"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    if limits["cpu_s"] is not None:
        # A backstop behind the supervisor's own reading: whole seconds, one process at a time.
        _limit(resource.RLIMIT_CPU, int(min(limits["cpu_s"], _MOST_CPU_S)) + 2)


def _memory_file(name: str, data: bytes) -> int:
    descriptor = os.memfd_create(name)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _arrange_descriptors(
    streams: tuple[int, int, int], args: int, filter_fd: int, report: int
) -> None:
    """Leave exactly six descriptors open, at their final numbers."""
    _arrange_descriptors_at((*streams, args, filter_fd, report))


def _arrange_descriptors_at(descriptors: tuple[int, ...]) -> None:
    wanted = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for descriptor in descriptors]
    for number, descriptor in enumerate(wanted):
        os.dup2(descriptor, number, inheritable=True)
    # All others are close-on-exec by now; a list, for counting to the limit may take long.
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= len(wanted):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))
