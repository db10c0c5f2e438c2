"""The ways in which a pool may run a task; the whole suite runs in each of `MODES`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import attrs

import sandbox
from sandbox import cgroups

CGROUP_PARENT = f"sandbox-abuse-{os.getpid()}"
_TENANT = "abuse"


@attrs.frozen(kw_only=True)
class Mode:
    """One way.

    Attributes:
        adapt: makes of any spec one that is run in this way.
        keeps_cells: whether processes, cgroups and namespaces of the sandbox itself may stay
            between two tasks. Those of a task never may.
        starts: how its tasks begin. What a cell cannot give begins cold in any mode.
    """

    name: str
    adapt: Callable[[sandbox.Spec], sandbox.Spec]
    keeps_cells: bool
    starts: frozenset[sandbox.Start]

    def began_well(self, spec: sandbox.Spec, start: sandbox.Start) -> bool:
        """Whether a task began as this mode promises."""
        if spec.binds or spec.devices or spec.root is not None:
            return start is sandbox.Start.COLD
        return start in self.starts


def _cold(spec: sandbox.Spec) -> sandbox.Spec:
    return attrs.evolve(spec, tenant=None)


def _cell(spec: sandbox.Spec) -> sandbox.Spec:
    return attrs.evolve(spec, tenant=_TENANT, warm_python=False)


def _zygote(spec: sandbox.Spec) -> sandbox.Spec:
    """A Python script as it is, a shell script by way of a Python that becomes the shell."""
    argv = spec.argv
    if argv[:2] == ("/bin/sh", "-c"):
        source = f"import os; os.execv('/bin/sh', ['sh', '-c', {argv[2]!r}])"
        argv = ("python3", "-c", source)
    return attrs.evolve(spec, argv=argv, tenant=_TENANT, warm_python=True)


_ALL = {
    mode.name: mode
    for mode in (
        Mode(name="cold", adapt=_cold, keeps_cells=False, starts=frozenset((sandbox.Start.COLD,))),
        Mode(name="cell", adapt=_cell, keeps_cells=True, starts=frozenset((sandbox.Start.CELL,))),
        Mode(
            name="zygote",
            adapt=_zygote,
            keeps_cells=True,
            # What no fork can stand for is executed: an archive, some variables.
            starts=frozenset((sandbox.Start.WARM, sandbox.Start.CELL)),
        ),
    )
}

MODES = ("cold", "cell", "zygote")


def mode_named(name: str) -> Mode:
    return _ALL[name]


def choose_limits() -> Literal["cgroup", "best-effort"]:
    """As root there must be a cgroup; an ordinary user does with what there is."""
    if os.geteuid() == 0:
        return "cgroup"
    try:
        cgroups.open_pool_cgroup(CGROUP_PARENT).close()
    except sandbox.Unavailable:
        return "best-effort"
    return "cgroup"


def pool_config(limits: Literal["cgroup", "best-effort"]) -> sandbox.PoolConfig:
    """The pool that every case runs in, whatever the mode."""
    return sandbox.PoolConfig(limits=limits, slots=2, cgroup_parent=CGROUP_PARENT)
