"""What this machine can enforce, found out by doing it: for people, and for `probe` commands."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.errors import Finding, SandboxError, Unavailable
from sandbox.gpu import probe_gpus
from sandbox.hierarchy import Layout, read_layout
from sandbox.machine import check_machine
from sandbox.pool import Pool, PoolConfig, open_pool, run_in
from sandbox.python import find_python
from sandbox.refusal import check_user_namespaces
from sandbox.result import Start
from sandbox.spec import Limits, Spec

_NEEDED = frozenset(("isolation", "cgroup"))
_BUG = "report this as a bug"
_PYTHON_S = 30.0


async def probe() -> tuple[Finding, ...]:
    """Try everything: one finding each, with the remedy where something is missing.

    Isolation, the Python of tasks and limits by cgroup are tried with real runs, each only where
    what it builds on was found.
    """
    findings = list(check_machine())
    if not all(finding.ok for finding in findings):
        return tuple(findings)
    isolation, *more = await _try_isolation()
    findings += [check_user_namespaces(refused=not isolation.ok), isolation, *more]
    if isolation.ok:
        layout = read_layout()
        if layout is not None:
            findings.append(describe_layout(layout))
        findings.append(await _try_cgroup())
    return (*findings, *probe_gpus())


def is_whole(findings: Sequence[Finding]) -> bool:
    """Whether isolation and limits by cgroup can both be had."""
    return {finding.name for finding in findings if finding.ok} >= _NEEDED


async def _try_isolation() -> list[Finding]:
    """Isolation, and where it holds the Python that a task finds."""
    try:
        async with open_pool(PoolConfig(limits="best-effort", slots=1)) as pool:
            seen = Finding(name="isolation", ok=True, detail="a run saw itself confined")
            return [seen, await _try_python(pool), await _try_cell(pool)]
    except Unavailable as error:
        return [_named("isolation", error)]
    except SandboxError as error:
        return [Finding(name="isolation", ok=False, detail=str(error), remedy=_BUG)]


async def _try_python(pool: Pool) -> Finding:
    source = "import platform, sys; print(platform.python_version(), sys.executable)"
    spec = Spec(argv=("python3", "-I", "-c", source), limits=Limits(wall_s=_PYTHON_S))
    done = await run_in(pool, spec)
    told = " ".join((done.stdout or done.stderr).decode(errors="replace").split())
    if done.result.exit_code != 0:
        remedy = "install Python as /usr/bin/python3"
        return Finding(name="python", ok=False, detail=told, remedy=remedy)
    prefix = find_python().prefix
    origin = "" if prefix is None else f", which is {prefix} of this machine"
    return Finding(name="python", ok=True, detail=f"tasks get {told}{origin}")


async def _try_cell(pool: Pool) -> Finding:
    """Never missing, for nothing but speed depends on it."""
    spec = Spec(argv=("python3", "-c", ""), limits=Limits(wall_s=_PYTHON_S), tenant="probe")
    async with pool.open_run(spec) as run:
        started = run.started
        await run.wait()
    detail = "runs of one tenant can start warm"
    if started is not Start.WARM:
        detail = f"a run of a tenant started {started}, which is slower"
    return Finding(name="cells", ok=True, detail=detail)


async def _try_cgroup() -> Finding:
    try:
        async with open_pool(PoolConfig(limits="cgroup", slots=1)):
            return Finding(name="cgroup", ok=True, detail="memory, pids and cpu limits can be set")
    except Unavailable as error:
        return _named("cgroup", error)
    except SandboxError as error:
        return Finding(name="cgroup", ok=False, detail=str(error), remedy=_BUG)


def _named(name: str, error: Unavailable) -> Finding:
    first = error.missing[0]
    detail = first.detail if first.name == name else f"no {first.name}: {first.detail}"
    return Finding(name=name, ok=False, detail=detail, remedy=first.remedy)


def describe_layout(layout: Layout) -> Finding:
    """The finding that says which cgroups this machine has."""
    if not layout.v1:
        detail = "cgroup v2"
    elif layout.v2 is None:
        detail = "cgroup v1"
    else:
        detail = "hybrid: cgroup v1 for limits, cgroup2 for killing"
    return Finding(name="cgroup layout", ok=True, detail=detail)
