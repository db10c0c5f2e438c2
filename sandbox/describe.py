"""A spec in the words that the spawner reads: plain data for one JSON document."""

from __future__ import annotations

from typing import Any

from sandbox.controllers import OVERHEAD_PIDS
from sandbox.machine import kernel_version
from sandbox.python import SYSTEM_PATH, Python, find_python
from sandbox.spec import Limits, Spec

_INODE_BYTES = 4096
_PROCESSES_PER_NAMESPACE = (5, 14)
_LEAST_INODES = 64


def describe(
    spec: Spec,
    *,
    with_cgroup: bool,
    python: Python | None = None,
    overhead_pids: int = OVERHEAD_PIDS,
) -> dict[str, Any]:
    """Describe a run. Paths of the host become absolute, and the environment whole."""
    limits = spec.limits
    python = python or spec.python or _python_for(spec)
    binds = [(str(bind.source.absolute()), str(bind.target)) for bind in spec.binds]
    if python.prefix is not None:
        binds.append((str(python.prefix), str(python.target)))
    binds.sort(key=lambda bind: bind[1])  # what lies inside another comes after it
    archive = None
    if spec.archive is not None:
        archive = {
            "source": str(spec.archive.source.absolute()),
            "max_bytes": spec.archive.max_bytes,
            "max_members": spec.archive.max_members,
            "max_ratio": spec.archive.max_ratio,
        }
    return {
        "argv": list(spec.argv),
        "env": environment(spec, python),
        "limits": {
            "open_files": limits.open_files,
            "file_bytes": limits.file_bytes,
            "cpu_s": limits.cpu_s,
        },
        "without_cgroup": None if with_cgroup else _without_cgroup(limits, overhead_pids),
        "quotas": [
            ("task", limits.scratch_bytes, limits.scratch_inodes),
            ("tmp", limits.tmp_bytes, limits.tmp_inodes or _inodes(limits.tmp_bytes)),
            ("shm", limits.shm_bytes, limits.shm_inodes or _inodes(limits.shm_bytes)),
        ],
        "files": [
            {"source": str(file.source.absolute()), "name": file.name, "mode": file.mode}
            for file in spec.files
        ],
        "archive": archive,
        "binds": binds,
        "root": None if spec.root is None else str(spec.root),
        "devices": [str(device) for device in spec.devices],
        "network": spec.network,
        "seccomp": spec.seccomp,
        "output_dir": spec.output_dir,
    }


def environment(spec: Spec, python: Python) -> dict[str, str]:
    """All of the task's variables."""
    return {"HOME": "/task", "LANG": "C.UTF-8", **dict(python.env), **spec.env}


def describe_in_cell(
    spec: Spec, *, with_cgroup: bool, python: Python, overhead_pids: int
) -> dict[str, Any]:
    """Describe a run for a launcher, which gets its sources as open files."""
    described = describe(spec, with_cgroup=with_cgroup, python=python, overhead_pids=overhead_pids)
    described["files"] = [(file.name, file.mode) for file in spec.files]
    del described["binds"]
    return described


def _python_for(spec: Spec) -> Python:
    """Another root file system brings its own Python, if any: the host's need not run in it."""
    if spec.root is None:
        return find_python()
    return Python(prefix=None, env=(("PATH", SYSTEM_PATH),))


def _without_cgroup(limits: Limits, overhead_pids: int) -> dict[str, int]:
    return {
        # A backstop behind the watchdog, with room for the stacks of threads.
        "data_bytes": 2 * limits.memory_bytes,
        "processes": limits.pids + overhead_pids,
        "count_per_namespace": kernel_version() >= _PROCESSES_PER_NAMESPACE,
    }


def _inodes(size_bytes: int) -> int:
    return max(_LEAST_INODES, size_bytes // _INODE_BYTES)
