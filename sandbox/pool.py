"""A pool of slots that sandboxes run in, and the one-shot `run`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import attrs
import trio

from sandbox.bubblewrap import Bubblewrap
from sandbox.cell import Cell, CellKind, CellRules
from sandbox.cell_cgroup import new_cell_cgroup
from sandbox.cell_run import CellFailed, CellRun
from sandbox.cells import Cells
from sandbox.cgroups import PoolCgroup, open_pool_cgroup
from sandbox.cold_run import ColdRun
from sandbox.deadlines import Deadlines
from sandbox.describe import environment
from sandbox.errors import Finding, SetupFailed, Unavailable
from sandbox.ids import choose_ids
from sandbox.launcher.warm import can_start
from sandbox.link import SpawnerLink, open_link
from sandbox.machine import require_bubblewrap
from sandbox.python import find_python
from sandbox.refusal import explain_refusal
from sandbox.result import Chunk, CompletedRun, Stream
from sandbox.run import Run
from sandbox.spec import Limits, Spec
from sandbox.watchdog import Watchdog

_CLEANUP_S = 60.0
_MAX_SLOTS = 2048
_TRIAL = "grep -qx 'Seccomp:\t2' /proc/self/status && grep -qx 'NoNewPrivs:\t1' /proc/self/status"


def _check_slots(instance: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 1 <= value <= _MAX_SLOTS:
        raise ValueError(f"slots must be between 1 and {_MAX_SLOTS}, not {value}")


@attrs.frozen(kw_only=True)
class PoolConfig:
    """How a pool runs its sandboxes.

    Attributes:
        limits: "cgroup", or "best-effort" for rlimits and a watchdog where no cgroup can be had.
            Isolation is the same in both.
        slots: how many runs there are at once; further ones wait their turn.
        cgroup_parent: the folder below our own cgroup that this pool's folders are made in. Pools
            of the same name remove what dead ones of that name left.
        uid_base: as root, slot n runs under uid and gid `uid_base + n`; None for a range of its
            own that no account uses.
        cells: how long a cell serves its tenant, and how many are kept ready. Only runs with a
            tenant use cells.

    Raises:
        ValueError: the number of slots is out of range.
    """

    limits: Literal["cgroup", "best-effort"] = "cgroup"
    slots: int = attrs.field(factory=lambda: os.cpu_count() or 1, validator=_check_slots)
    cgroup_parent: str = "sandbox"
    uid_base: int | None = None
    cells: CellRules = attrs.field(factory=CellRules)

    @property
    def cell_places(self) -> int:
        """How many cells there may be: in use and at rest one for every slot each, and parked."""
        return 2 * self.slots + max(self.slots, self.cells.parked)


@attrs.define(eq=False)
class _Opened:
    """What one run holds."""

    run: Run | None = None
    cell: Cell | None = None


class Pool:
    """An open pool. Made by `open_pool`."""

    def __init__(
        self,
        *,
        config: PoolConfig,
        link: SpawnerLink,
        nursery: trio.Nursery,
        uids: list[int],
        cgroup: PoolCgroup | None,
        watchdog: Watchdog,
        deadlines: Deadlines,
        cells: Cells,
    ) -> None:
        self.config = config
        self._link = link
        self._nursery = nursery
        self._uids = uids
        self._cgroup = cgroup
        self._watchdog = watchdog
        self._deadlines = deadlines
        self._cells = cells
        self._python = find_python()
        self._lost_slots = 0
        self._put_free, self._free = trio.open_memory_channel[int](config.slots)
        for slot in range(config.slots):
            self._put_free.send_nowait(slot)

    @contextlib.asynccontextmanager
    async def open_run(self, spec: Spec) -> AsyncIterator[Run]:
        """Wait for a free slot, stage the inputs and start.

        A run of a tenant starts in a cell, where one can be had; without one, and without a tenant,
        in a sandbox made for it alone. Leaving kills whatever is left of the run and returns when
        nothing is.

        Raises:
            BadSpec, BadArchive: an input cannot be used.
            SetupFailed: the sandbox could not be made, or not be cleaned up.
        """
        slot = await self._take_slot()
        opened = _Opened()
        try:
            if spec.tenant is not None:
                await self._start_in_cell(spec, opened)
            yield opened.run or await self._start_cold(spec, slot, opened)
        finally:
            # A slot that could not be cleaned is lost; what ran in a cell was never in it.
            is_clean = not isinstance(opened.run, ColdRun)
            try:
                if not self._close_nowait(opened):
                    # `close` has a deadline of its own.
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S):
                        await self._close(opened)
                is_clean = True
            finally:
                if is_clean:
                    self._put_free.send_nowait(slot)
                else:
                    self._lose_slot()

    async def _take_slot(self) -> int:
        try:
            try:
                return self._free.receive_nowait()
            except trio.WouldBlock:
                return await self._free.receive()
        except trio.EndOfChannel:
            raise SetupFailed(
                "no slot of this pool could be cleaned up after its last run: open a new pool"
            ) from None

    def _lose_slot(self) -> None:
        self._lost_slots += 1
        if self._lost_slots == self.config.slots:
            self._put_free.close()  # nobody is to wait for one in vain

    @property
    def parked(self) -> int:
        """How many cells are ready for tenants that have none yet."""
        return self._cells.count_parked()

    def park(self) -> None:
        """Begin to keep cells ready for tenants that have none yet, as the rules say."""
        self._cells.park(CellKind(python=self._python))

    def use_cell_rules(self, rules: CellRules) -> None:
        """Go by these rules for cells from now on.

        How many there may be was fixed when the pool was opened: that leaves places for as many
        parked cells as were asked for then, or as there are slots, whichever is more.
        """
        self._cells.use_rules(rules)

    async def _start_in_cell(self, spec: Spec, opened: _Opened) -> None:
        """Start it in a cell; where that cannot be, nothing is opened and nothing of it ran."""
        kind = CellKind.of(spec, self._python)
        if kind is None or spec.tenant is None:
            return
        # An archive is unpacked by what a warm interpreter had better not have imported.
        warm = (
            spec.warm_python
            and spec.archive is None
            and can_start(spec.argv, environment(spec, kind.python), kind.python.interpreter)
        )
        cell = await self._cells.take(kind, spec.tenant, warm=warm, reuse=spec.reuse)
        if cell is None:
            return
        opened.cell = cell
        launcher = cell.warm if warm else cell.launcher
        assert launcher is not None  # noqa: S101 - a cell that was taken has what was asked for
        opened.run = run = CellRun(
            spec,
            link=self._link,
            nursery=self._nursery,
            cell=cell,
            launcher=launcher,
            deadlines=self._deadlines,
            watchdog=self._watchdog,
        )
        try:
            await run.start()
        except CellFailed:
            self._cells.note_failed_start(cell)
            # Where something of it is left, its place is lost; the run still has a slot.
            with (
                contextlib.suppress(SetupFailed),
                trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S),
            ):
                await self._close(opened)

    async def _start_cold(self, spec: Spec, slot: int, opened: _Opened) -> Run:
        opened.run = run = ColdRun(
            spec,
            link=self._link,
            nursery=self._nursery,
            slot=slot,
            uid=self._uids[slot],
            limiter=self._watchdog if self._cgroup is None else self._cgroup.new_run(),
            deadlines=self._deadlines,
        )
        await run.start()
        return run

    def _close_nowait(self, opened: _Opened) -> bool:
        """What `_close` does, where that needs no waiting: a run in a cell that is over."""
        run, cell = opened.run, opened.cell
        if not isinstance(run, CellRun) or cell is None or not run.close_nowait():
            return False
        opened.run = None
        if not self._cells.give_back_nowait(cell):
            return False
        opened.cell = None
        return True

    async def _close(self, opened: _Opened) -> None:
        run, cell = opened.run, opened.cell
        opened.run = opened.cell = None
        try:
            if run is not None:
                await run.close()
        finally:
            if cell is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S):
                    await self._cells.give_back(cell)


@contextlib.asynccontextmanager
async def open_pool(config: PoolConfig | None = None) -> AsyncIterator[Pool]:
    """Open a pool, after a trial run has shown that isolation is whole.

    Leaving kills every run and removes every cgroup of the pool.

    Raises:
        Unavailable: isolation would not be whole, or limits are to be "cgroup" and there is none.
    """
    config = config or PoolConfig()
    bubblewrap = require_bubblewrap()
    failure: Exception | None = None
    async with contextlib.AsyncExitStack() as stack:
        cgroup = None
        if config.limits == "cgroup":
            cgroup = open_pool_cgroup(config.cgroup_parent)
            stack.callback(cgroup.close)
            await cgroup.sweep()
        async with _open_services(config, bubblewrap, cgroup) as pool:
            try:
                await _try_out(pool)
                pool.park()
                yield pool
            except Exception as error:
                # Kept out of the nursery, which would wrap it in a group.
                failure = error
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def _open_services(
    config: PoolConfig, bubblewrap: Bubblewrap, cgroup: PoolCgroup | None
) -> AsyncIterator[Pool]:
    """The pool with its spawner and its tasks.

    The tasks are shielded, for what is cancelled from outside still has to end its runs through
    them; they end when the spawner does, which leaving sees to.
    """
    places = config.slots + config.cell_places
    ids = choose_ids(places, config.uid_base)
    watchdog, deadlines = Watchdog(), Deadlines()
    async with (
        open_link(bubblewrap, as_root=ids.as_root, inside_uid=ids.inside_uid) as link,
        trio.open_nursery() as services,
    ):
        cells = Cells(
            config.cells,
            places=list(range(config.slots, places)),
            uids=ids.uids,
            spawner=link,
            nursery=services,
            new_cgroup=None
            if cgroup is None
            else functools.partial(new_cell_cgroup, cgroup, as_root=ids.as_root),
        )
        lasting = trio.CancelScope(shield=True)
        services.start_soon(_serve, link.run, trio.CancelScope(shield=True))
        services.start_soon(_serve_all, lasting, watchdog.run, deadlines.run, cells.run)
        try:
            yield Pool(
                config=config,
                link=link,
                nursery=services,
                uids=ids.uids,
                cgroup=cgroup,
                watchdog=watchdog,
                deadlines=deadlines,
                cells=cells,
            )
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S):
                await cells.close()
            link.kill()  # its own task, and those of runs that are left, end by that
            lasting.cancel()


async def _serve(service: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    with scope:
        await service()


async def _serve_all(scope: trio.CancelScope, *services: Callable[[], Awaitable[None]]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            for service in services:
                nursery.start_soon(service)


async def _try_out(pool: Pool) -> None:
    """Run a program that looks at its own state: the proof that nothing is missing."""
    spec = Spec(argv=("/bin/sh", "-c", _TRIAL), limits=Limits(wall_s=30))
    try:
        done = await run_in(pool, spec)
    except SetupFailed as error:
        raise Unavailable((explain_refusal("isolation", str(error)),)) from error
    if done.result.exit_code != 0:
        text = done.stderr.decode(errors="replace").strip() or done.result.reason
        raise Unavailable(
            (
                Finding(
                    name="isolation",
                    ok=False,
                    detail=f"a run did not see itself confined: {' '.join(text.split())}",
                    remedy="report this as a bug, with what `python -m sandbox probe` says",
                ),
            )
        )


async def run_in(pool: Pool, spec: Spec) -> CompletedRun:
    """Run once in an open pool and keep all output, which `Limits.output_bytes` bounds."""
    kept: dict[Stream, list[bytes]] = {Stream.STDOUT: [], Stream.STDERR: []}
    async with pool.open_run(spec) as run:
        chunk: Chunk
        async for chunk in run.chunks():
            kept[chunk.stream].append(chunk.data)
        result = await run.wait()
    return CompletedRun(
        result=result,
        stdout=b"".join(kept[Stream.STDOUT]),
        stderr=b"".join(kept[Stream.STDERR]),
    )


async def run(spec: Spec, config: PoolConfig | None = None) -> CompletedRun:
    """Open a pool of one slot, run once, and close it again.

    Raises:
        Unavailable: see `open_pool`.
        BadSpec, BadArchive, SetupFailed: see `Pool.open_run`.
    """
    async with open_pool(config or PoolConfig(slots=1)) as pool:
        return await run_in(pool, spec)
