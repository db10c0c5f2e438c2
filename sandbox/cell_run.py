"""One run in a cell: its launcher does what bubblewrap does for a cold one."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import trio

from sandbox.cell import PEER_GONE, Cell, to_launcher
from sandbox.deadlines import Deadline, Deadlines
from sandbox.describe import describe_in_cell
from sandbox.errors import BadSpec, SandboxError, SetupFailed
from sandbox.link import SpawnerLink
from sandbox.paths import check_paths, open_source
from sandbox.pipes import write_file
from sandbox.result import Reason, Result, Start, Usage
from sandbox.run import Run
from sandbox.spec import Spec
from sandbox.watchdog import Watchdog, Watched

_CLEANUP_S = 30.0
_LAUNCHER_S = 5.0
_START_S = 60.0
_INLINE_BYTES = 32 << 10  # a datagram may hold 208 KiB, SO_SNDBUF's default
_LEAST_CPU_CHECK_S = 0.05
_FIELD_CHARACTERS = 16
_MUCH_BYTES, _MANY_FILES = 8 << 20, 1000
_ANSWERED = 2  # the pidfd of the run's init, and its /task


class CellFailed(SetupFailed):
    """The cell failed before the run had begun: nothing of the task ran, and another may serve."""


class CellRun(Run):
    """A run in a cell of its tenant's."""

    def __init__(
        self,
        spec: Spec,
        *,
        link: SpawnerLink,
        nursery: trio.Nursery,
        cell: Cell,
        launcher: SpawnerLink,
        deadlines: Deadlines,
        watchdog: Watchdog,
    ) -> None:
        super().__init__(spec, link=link, nursery=nursery, slot=cell.slot)
        self._cell = cell
        self._launcher = launcher
        self._deadlines = deadlines
        self._watchdog = watchdog
        self._is_warm = launcher is cell.warm
        self._number = 0
        self._task_folder = -1
        self._wall: Deadline | None = None
        self._patience: Deadline | None = None
        self._told: dict[str, Any] = {}
        self._asked = False
        self._watching = contextlib.ExitStack()
        self._watched: Watched | None = None

    @property
    def started(self) -> Start:
        """How it was started."""
        return Start.WARM if self._is_warm else Start.CELL

    def _left_behind(self) -> list[int]:
        return [self._task_folder]

    def _said_nothing(self) -> str:
        return "its launcher ended the run without a word"

    async def start(self) -> None:
        """See `Run.start`.

        Raises:
            CellFailed: the cell is of no use; try another, or none.
        """
        check_paths(self._spec)
        given: list[int] = []
        leaf: list[int] = []
        try:
            if self._spec.archive is not None:
                await self._prepare_to_unpack()
            await self._start(given, leaf)
        finally:
            for descriptor in (*given, *leaf):
                os.close(descriptor)

    async def _prepare_to_unpack(self) -> None:
        try:
            await self._cell.prepare_to_unpack()
        except SetupFailed as error:
            raise CellFailed(str(error)) from error

    async def _start(self, given: list[int], leaf: list[int]) -> None:
        """Start it with descriptors that are to be closed afterwards.

        Args:
            given: becomes those that the run gets.
            leaf: becomes that of the cgroup that it is to be born in, if it has one of its own.
        """
        if self._cell.is_odd:
            raise CellFailed("its cell ended before the run began")
        fields = self._describe(given)
        given.append(self._open_stdin())
        given += self._output.open()
        for path in _sources(self._spec):
            given.append(open_source(path))
        leaf += self._begin_account()
        self._cell.on_gone = self._on_cell_gone
        self._cell.on_out_of_memory = self._on_out_of_memory
        # Counted as the launcher counts: it is taken by the init that was made for this number.
        self._number = self._launcher.new_id()
        self._launcher.call_at_end(self._number, self._on_ended)
        self._started_at_s = trio.current_time()
        self._wall = self._deadlines.call_at(
            self._started_at_s + self._spec.limits.wall_s, self._on_wall_time
        )
        self._asked = True
        # Staging an archive takes its time, which the time limit bounds; all else is quick.
        patience_s = _START_S if self._spec.archive is None else math.inf
        patience = self._deadlines.call_at(self._started_at_s + patience_s, self._cell.kill)
        refusal: SetupFailed | BadSpec
        try:
            if leaf:
                await self._launcher.tell({"op": "leaf"}, leaf)
            answer = await self._launcher.request(self._number, "start", fields, given)
        except (SetupFailed, BadSpec) as error:
            refusal = error
        else:
            await self._begin_to_watch(answer.descriptors)
            return
        finally:
            patience.cancel()
        if isinstance(refusal, SetupFailed):
            await self._cell_failed(refusal)
            return
        self._refusal = refusal
        with trio.move_on_after(_LAUNCHER_S):
            await self._over.wait()
        raise refusal

    async def _begin_to_watch(self, descriptors: tuple[int, ...]) -> None:
        if len(descriptors) != _ANSWERED:
            for descriptor in descriptors:
                os.close(descriptor)
            await self._cell_failed(SetupFailed("its launcher answered nonsense"))
            return
        self._pidfd, self._task_folder = descriptors
        self._begin_feeding()
        if self._over.is_set():
            return  # a short one: its end came with the answer
        if self._killed_for is not None:
            self._kill()
        if self._cell.cgroup is None:
            self._watched = self._watching.enter_context(
                self._watchdog.watch(self._pidfd, self._spec.limits, self._end)
            )
        elif self._spec.limits.cpu_s is not None:
            self._nursery.start_soon(self._watch_cpu_time, self._spec.limits.cpu_s)

    async def _cell_failed(self, error: SetupFailed) -> None:
        """The run could not begin: for what we did to it, or for a fault of the cell's."""
        self._cell.kill()
        await self._cell.gone.wait()
        await self._over.wait()
        # What its init ended with is no word of the task's: only a limit is a result.
        if self._result is None or self._result.reason in (Reason.EXITED, Reason.SIGNALLED):
            raise CellFailed(str(error)) from error

    def close_nowait(self) -> bool:
        """Do what `close` does, if that needs no waiting; say whether it is done."""
        cell = self._cell
        if not self._over.is_set() or cell.is_odd:
            return False
        if cell.cgroup is not None and not cell.cgroup.end_nowait():
            return False
        if self._task_folder >= 0 and _takes_long_to_drop(self._task_folder):
            return False
        self._leave()
        self._close_descriptors()
        return True

    async def close(self) -> None:
        """See `Run.close`; the cell is its owner's to give back, or to close if it `is_odd`."""
        try:
            if self._asked and not self._over.is_set():
                await self._end_by_force()
            if self._cell.cgroup is not None and not self._cell.is_odd:
                await self._cell.cgroup.end()
        except (trio.TooSlowError, TimeoutError, OSError) as error:
            self._cell.kill()
            raise SetupFailed(f"a run could not be cleaned up: {error}") from error
        finally:
            self._leave()
            folder = self._task_folder
            if folder >= 0 and _takes_long_to_drop(folder):
                self._task_folder = -1
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(os.close, folder, limiter=trio.CapacityLimiter(1))
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        for descriptor in (self._pidfd, self._task_folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._task_folder = -1

    async def _end_by_force(self) -> None:
        with trio.fail_after(_CLEANUP_S):
            self._end(Reason.STOPPED)
            await self._over.wait()

    # Start.

    def _describe(self, given: list[int]) -> dict[str, Any]:
        """The run as its init reads it, or that this is in a file, which is then in `given`."""
        body = describe_in_cell(
            self._spec,
            with_cgroup=self._cell.cgroup is not None,
            python=self._cell.kind.python,
            overhead_pids=self._cell.overhead_pids(warm=self._is_warm),
        )
        body["body_in_file"] = False
        if _is_short(self._spec):
            return body
        file = os.memfd_create("run", os.MFD_CLOEXEC)
        given.append(file)
        write_file(file, to_launcher(body))
        return {"body_in_file": True}

    def _begin_account(self) -> list[int]:
        """Begin it; the cgroup that the run is to be born in, if any, is the caller's to close."""
        cgroup = self._cell.cgroup
        if cgroup is None:
            return []
        try:
            if cgroup.is_clean():
                # Of what waits at rest, its init is ours; the fork of a warm run becomes its task.
                leaf = cgroup.begin(self._spec.limits, at_rest=int(self._is_warm))
                return [] if leaf is None else [leaf]
            told = "something is left in its cell"
        except OSError as error:
            told = f"{error.strerror}: {error.filename}"
        self._cell.kill()
        raise CellFailed(f"cannot limit a run: {told}")

    # What happens to it.

    def _on_ended(self, told: dict[str, Any] | None) -> None:
        if told is None:
            return  # the cell's end follows
        self._exit_code = told["exit_code"]
        self._told = told
        self._finish()

    def _on_wall_time(self) -> None:
        self._end(Reason.TIME_LIMIT)

    def _on_out_of_memory(self) -> None:
        self._end(Reason.OUT_OF_MEMORY)

    def _on_cell_gone(self) -> None:
        if not self._over.is_set():
            if self._refusal is None and self._killed_for is None:
                self._refusal = SetupFailed(PEER_GONE)
            self._finish()

    async def _watch_cpu_time(self, limit_s: float) -> None:
        cgroup = self._cell.cgroup
        while cgroup is not None and not self._over.is_set():
            left_s = limit_s - cgroup.cpu_s()
            if left_s <= 0:
                self._end(Reason.CPU_TIME_LIMIT)
                return
            with trio.move_on_after(
                max(_LEAST_CPU_CHECK_S, left_s / max(1.0, self._spec.limits.cpus))
            ):
                await self._over.wait()

    def _judge_unstarted(self, text: str, usage: Usage) -> Result | None:
        """Its init was killed, and not by us: no word of the task's makes that a failed set-up."""
        return Result(reason=Reason.SIGNALLED, exit_code=137, signal=signal.SIGKILL, usage=usage)

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if self._patience is None:
                # Its launcher is to tell its end; one that does not goes with its cell.
                at_s = trio.current_time() + _LAUNCHER_S
                self._patience = self._deadlines.call_at(at_s, self._cell.kill)
        elif self._asked:
            # It is still being made, by the cell's own launcher.
            self._cell.kill()

    def _finish(self) -> None:
        """Nothing of it is left: settle its account and judge how it ended."""
        for deadline in (self._wall, self._patience):
            if deadline is not None:
                deadline.cancel()
        self._cell.forget_run()
        try:
            self._settle(trio.current_time() - self._started_at_s)
        except (SandboxError, OSError) as error:
            self._refusal = error if isinstance(error, SandboxError) else SetupFailed(str(error))
            self._cell.kill()
        finally:
            self._over.set()

    def _settle(self, wall_s: float) -> None:
        cgroup = self._cell.cgroup
        if cgroup is None:
            self._watching.close()
            watched = self._watched
            seen_s, seen_bytes = (watched.cpu_s, watched.memory_peak_bytes) if watched else (0, 0)
            usage = Usage(
                wall_s=wall_s,
                cpu_s=max(seen_s, self._told.get("cpu_s", 0.0)),
                memory_peak_bytes=max(seen_bytes, self._told.get("memory_peak_bytes", 0)),
            )
            self._conclude(usage, out_of_memory=False)
            return
        usage = Usage(
            wall_s=wall_s, cpu_s=cgroup.cpu_s(), memory_peak_bytes=cgroup.memory_peak_bytes()
        )
        self._conclude(usage, out_of_memory=cgroup.out_of_memory())


def _takes_long_to_drop(folder: int) -> bool:
    """Whether there is much in a /task, which the kernel frees while its last descriptor is closed.

    It may take a good part of a second: not on the pool's own time, which is all tenants'.
    """
    held = os.fstatvfs(folder)
    used_bytes = (held.f_blocks - held.f_bfree) * held.f_frsize
    return used_bytes > _MUCH_BYTES or held.f_files - held.f_ffree > _MANY_FILES


def _is_short(spec: Spec) -> bool:
    """Whether its description surely fits a datagram, each character taking six at most."""
    characters = (
        sum(map(len, spec.argv)) + sum(map(len, spec.env)) + sum(map(len, spec.env.values()))
    )
    characters += sum(len(file.name) + _FIELD_CHARACTERS for file in spec.files)
    return 6 * characters <= _INLINE_BYTES


def _sources(spec: Spec) -> list[Path]:
    files = [file.source for file in spec.files]
    return files if spec.archive is None else [*files, spec.archive.source]
