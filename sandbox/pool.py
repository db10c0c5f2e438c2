"""A pool of slots that sandboxes run in, and the one-shot `run`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import attrs
import trio

from sandbox.bubblewrap import Bubblewrap
from sandbox.cgroups import PoolCgroup, open_pool_cgroup
from sandbox.errors import Finding, SetupFailed, Unavailable
from sandbox.ids import choose_ids
from sandbox.link import SpawnerLink, open_link
from sandbox.machine import require_bubblewrap
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
    """

    limits: Literal["cgroup", "best-effort"] = "cgroup"
    slots: int = attrs.field(factory=lambda: os.cpu_count() or 1, validator=_check_slots)
    cgroup_parent: str = "sandbox"
    uid_base: int | None = None


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
    ) -> None:
        self.config = config
        self._link = link
        self._nursery = nursery
        self._uids = uids
        self._cgroup = cgroup
        self._watchdog = watchdog
        self._put_free, self._free = trio.open_memory_channel[int](config.slots)
        for slot in range(config.slots):
            self._put_free.send_nowait(slot)

    @contextlib.asynccontextmanager
    async def open_run(self, spec: Spec) -> AsyncIterator[Run]:
        """Wait for a free slot, stage the inputs, start, and hand out the run.

        Leaving kills whatever is left of the run and returns when nothing is.

        Raises:
            BadSpec, BadArchive: an input cannot be used.
            SetupFailed: the sandbox could not be made, or not be cleaned up.
        """
        slot = await self._free.receive()
        run = Run(
            spec,
            link=self._link,
            nursery=self._nursery,
            slot=slot,
            uid=self._uids[slot],
            limiter=self._watchdog if self._cgroup is None else self._cgroup.new_run(),
        )
        try:
            await run.start()
            yield run
        finally:
            # `close` has a deadline of its own. A slot that it could not clean is not used again.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEANUP_S):
                await run.close()
                self._put_free.send_nowait(slot)


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
    ids = choose_ids(config)
    watchdog = Watchdog()
    async with (
        open_link(bubblewrap, as_root=ids.as_root, inside_uid=ids.inside_uid) as link,
        trio.open_nursery() as services,
    ):
        watching = trio.CancelScope(shield=True)
        services.start_soon(_serve, link.run, trio.CancelScope(shield=True))
        services.start_soon(_serve, watchdog.run, watching)
        try:
            yield Pool(
                config=config,
                link=link,
                nursery=services,
                uids=ids.uids,
                cgroup=cgroup,
                watchdog=watchdog,
            )
        finally:
            link.kill()  # its own task, and those of runs that are left, end by that
            watching.cancel()


async def _serve(service: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    with scope:
        await service()


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
