"""What this machine can enforce, found out by doing it: for people, and for `doctor` commands."""

from __future__ import annotations

from typing import Literal

from sandbox.errors import Finding, SandboxError, Unavailable
from sandbox.gpu import probe_gpus
from sandbox.hierarchy import Layout, read_layout
from sandbox.machine import check_machine
from sandbox.pool import PoolConfig, open_pool


async def probe() -> tuple[Finding, ...]:
    """Try everything: one finding each, with the remedy where something is missing.

    Isolation and cgroup are tried with real runs, the latter only where the former holds.
    """
    findings = list(check_machine())
    if all(finding.ok for finding in findings):
        findings.append(await _try_pool("isolation", "best-effort", "a run saw itself confined"))
    if all(finding.ok for finding in findings):
        layout = read_layout()
        detail = "" if layout is None else _describe(layout)
        findings.append(await _try_pool("cgroup", "cgroup", detail))
    return (*findings, *probe_gpus())


async def _try_pool(name: str, limits: Literal["cgroup", "best-effort"], detail: str) -> Finding:
    try:
        async with open_pool(PoolConfig(limits=limits, slots=1)):
            return Finding(name=name, ok=True, detail=detail)
    except Unavailable as error:
        return error.missing[0]
    except SandboxError as error:
        return Finding(name=name, ok=False, detail=str(error), remedy="report this as a bug")


def _describe(layout: Layout) -> str:
    if not layout.v1:
        return "memory, pids and cpu limits by cgroup v2"
    if layout.v2 is None:
        return "memory, pids and cpu limits by cgroup v1"
    return "memory, pids and cpu limits by cgroup v1, killing by cgroup2"
