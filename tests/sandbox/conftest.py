"""Pools for the tests, and looks at them from outside."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

import sandbox
from sandbox import cgroups
from sandbox.gpu import Places
from tests.sandbox.fake_gpus import linked_nodes, make_places

CGROUP_PARENT = f"sandbox-tests-{os.getpid()}"


def config_for(limits: Literal["cgroup", "best-effort"], slots: int = 2) -> sandbox.PoolConfig:
    return sandbox.PoolConfig(limits=limits, slots=slots, cgroup_parent=CGROUP_PARENT)


def needs_cgroup() -> None:
    """Skip where an ordinary user has no cgroup to write; as root there must be one."""
    if os.geteuid() != 0:
        try:
            cgroups.open_pool_cgroup(CGROUP_PARENT).close()
        except sandbox.Unavailable as error:
            pytest.skip(f"no cgroup that this user may write: {error}")


class InCells:
    """A pool every run of which belongs to one tenant, so that one follows the other in a cell."""

    def __init__(self, pool: sandbox.Pool) -> None:
        self._pool = pool
        self.config = pool.config

    @contextlib.asynccontextmanager
    async def open_run(self, spec: sandbox.Spec) -> AsyncIterator[sandbox.Run]:
        spec = attrs.evolve(spec, tenant=spec.tenant or "tests")
        async with self._pool.open_run(spec) as run:
            cell_was_to_be_had = not spec.binds and not spec.devices and spec.root is None
            assert (run.started is not sandbox.Start.COLD) == cell_was_to_be_had
            yield run


@contextlib.asynccontextmanager
async def _open(mode: str) -> AsyncIterator[sandbox.Pool]:
    limits, _, cells = mode.partition(" in ")
    if limits == "cgroup":
        needs_cgroup()
    async with sandbox.open_pool(config_for(limits)) as pool:  # type: ignore[arg-type]
        yield InCells(pool) if cells else pool  # type: ignore[misc]


@pytest.fixture(params=["cgroup", "cgroup in cells"])
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[sandbox.Pool]:
    """A pool whose limits are a cgroup's."""
    async with _open(request.param) as pool:
        yield pool


@pytest.fixture
async def best_effort_pool() -> AsyncIterator[sandbox.Pool]:
    async with sandbox.open_pool(config_for("best-effort")) as pool:
        yield pool


@pytest.fixture(params=["cgroup", "best-effort", "cgroup in cells", "best-effort in cells"])
async def any_pool(request: pytest.FixtureRequest) -> AsyncIterator[sandbox.Pool]:
    """Each kind of limits and of starts in turn: isolation and results must be the same."""
    async with _open(request.param) as pool:
        yield pool


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """Two NVIDIA GPUs that are not there."""
    with linked_nodes() as dev:
        yield make_places(tmp_path, dev)


def shell(script: str, **more: Any) -> sandbox.Spec:
    return sandbox.Spec(argv=("/bin/sh", "-c", script), **more)


def python(source: str, **more: Any) -> sandbox.Spec:
    return sandbox.Spec(argv=("python3", "-I", "-c", source), **more)


def limits(**changes: Any) -> sandbox.Limits:
    small = {"memory_bytes": 64 << 20, "scratch_bytes": 16 << 20, "wall_s": 60.0}
    return sandbox.Limits(**{"tmp_bytes": 4 << 20, "shm_bytes": 4 << 20, **small, **changes})


def unique(name: str) -> str:
    """A word that marks the processes of one test among those of other test sessions."""
    return f"marker-{name}-{secrets.token_hex(4)}"


def processes_with(marker: str) -> list[int]:
    """Processes of the whole machine whose command line has the marker."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if marker.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def cgroup_folders(parent: str = CGROUP_PARENT, *, with_parent: bool = False) -> list[Path]:
    """Folders of this test session's pools in every hierarchy, below our own cgroup."""
    # os.walk bears with folders that vanish meanwhile: others run tests beside us.
    tops = (Path(top) for top, _, _ in os.walk("/sys/fs/cgroup"))
    found = (path for path in tops if parent in path.parts)
    return [path for path in found if with_parent or path.name != parent]
