"""Start of the spawner process: `python -I -S __main__.py SOCKET`, run by `sandbox.link` alone.

Two processes come of it. The outer one only makes the namespaces and waits; the inner one is pid 1
of the new pid namespace and serves. The kernel kills the inner when the outer or the pool ends,
and everything below when the inner ends.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH100, PTH120, PTH123

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import types
from typing import Any, NoReturn

_INOTIFY_OF_ALL_RUNS = 96  # of the 128 that a user has; the rest is for who started the pool
_HERE = os.path.dirname(os.path.abspath(__file__))


def _make_package_importable() -> None:
    """Let `sandbox.spawner` be imported without running `sandbox/__init__.py`, which needs Trio."""
    package = types.ModuleType("sandbox")
    package.__path__ = [os.path.dirname(_HERE)]
    sys.modules["sandbox"] = package


def _enter_namespaces(config: dict[str, Any]) -> None:
    from sandbox.spawner import linux

    uid, gid = os.geteuid(), os.getegid()
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID
    if config["as_root"]:
        linux.unshare(flags)
        return
    linux.unshare(flags | linux.CLONE_NEWUSER)
    # A uid other than 0 inside: then execve of bubblewrap sheds every capability by itself.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{config['inside_uid']} {uid} 1"),
        ("gid_map", f"{config['inside_uid']} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    linux.limit_inotify(_INOTIFY_OF_ALL_RUNS)


def _fail(link: socket.socket, step: str, error: OSError) -> NoReturn:
    text = {"answer": "failed", "id": 0, "step": step, "errno": error.errno, "error": str(error)}
    link.send(json.dumps(text).encode())
    os._exit(1)


def main(descriptor: int) -> None:
    """Make the namespaces, say `ready` and serve; a refusal is told to the pool and ends it."""
    from sandbox.spawner import house, linux
    from sandbox.spawner.serve import Spawner

    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)
    # Descriptors in flight are counted per user, and measured by the sender's soft limit: who
    # answers for all must be above what tasks may hold. Each task gets its own limit later.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = json.loads(link.recv(1 << 16))
    try:
        _enter_namespaces(config)
        linux.die_with_parent()
        pid = os.fork()
    except OSError as error:
        _fail(link, "namespaces", error)
    if pid:
        link.close()
        os.waitpid(pid, 0)
        os._exit(0)
    try:
        linux.die_with_parent()
        bwrap_path = house.build(config["bwrap"], config["bwrap_libraries"])
    except OSError as error:
        _fail(link, "mounts", error)
    # The pool waits for this very process, whose end is the end of all that it started.
    itself = os.pidfd_open(os.getpid())
    socket.send_fds(link, [json.dumps({"answer": "ready", "id": 0}).encode()], [itself])
    os.close(itself)
    Spawner(link, config, bwrap_path).serve()
    os._exit(0)


_make_package_importable()
main(int(sys.argv[1]))
