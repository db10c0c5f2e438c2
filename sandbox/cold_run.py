"""One run in a sandbox of its own, which bubblewrap makes for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import Any

import trio

from sandbox.cgroups import RunCgroup
from sandbox.deadlines import Deadlines
from sandbox.describe import describe
from sandbox.errors import BadArchive, BadSpec, SandboxError, SetupFailed
from sandbox.judge import judge_unstarted
from sandbox.link import SpawnerLink
from sandbox.paths import check_paths
from sandbox.pipes import read_all, write_file
from sandbox.result import Reason, Result, Start, Usage
from sandbox.run import Run
from sandbox.spec import Spec
from sandbox.watchdog import Watchdog, Watched

_START_S = 30.0
_CLEANUP_S = 30.0
_LEAST_CPU_CHECK_S = 0.05


class ColdRun(Run):
    """A run whose sandbox is made for it and goes with it."""

    def __init__(
        self,
        spec: Spec,
        *,
        link: SpawnerLink,
        nursery: trio.Nursery,
        slot: int,
        uid: int,
        limiter: RunCgroup | Watchdog,
        deadlines: Deadlines,
    ) -> None:
        super().__init__(spec, link=link, nursery=nursery, slot=slot)
        self._uid = uid
        self._limiter = limiter
        self._deadlines = deadlines
        self._number = link.new_id()
        self._set_up = trio.Event()

    @property
    def started(self) -> Start:
        """How it was started."""
        return Start.COLD

    def _left_behind(self) -> list[int]:
        return []

    def _judge_unstarted(self, text: str, usage: Usage) -> Result | None:
        return judge_unstarted(text, usage)

    def _said_nothing(self) -> str:
        return "bubblewrap ended without a word"

    async def start(self) -> None:
        """Stage the inputs and start.

        Raises:
            BadSpec: an input cannot be used (BadArchive where it is the archive).
            SetupFailed: the sandbox could not be made.
        """
        check_paths(self._spec)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as given:
            stdin = self._open_stdin()
            given.callback(os.close, stdin)
            stdout, stderr = self._output.open()
            given.callback(os.close, stdout)
            given.callback(os.close, stderr)
            report, report_writer = os.pipe2(os.O_CLOEXEC)
            given.callback(os.close, report_writer)
            ours.callback(os.close, report)
            os.set_blocking(report, False)
            try:
                # Not to be cut short: what was started must be known, so that it can be ended.
                with trio.fail_after(_START_S, shield=True):
                    await self._request_start([report_writer, stdin, stdout, stderr])
            except trio.TooSlowError:
                raise SetupFailed("the spawner did not start a run within 30 seconds") from None
            self._nursery.start_soon(self._supervise, report, ours.pop_all())
        await self._set_up.wait()
        if self._refusal is not None:
            raise self._refusal

    async def close(self) -> None:
        """Kill what is left and free all that the run held.

        Raises:
            SetupFailed: something of it could not be removed in time; its slot must not be reused.
        """
        try:
            with trio.fail_after(_CLEANUP_S):
                if self._pidfd >= 0:
                    self._end(Reason.STOPPED)
                    await self._over.wait()
                self._leave()
                async with self._link.cleaning(self._slot):
                    if isinstance(self._limiter, RunCgroup):
                        await self._limiter.remove()
        except (trio.TooSlowError, TimeoutError) as error:
            raise SetupFailed(f"a run could not be cleaned up: {error}") from error
        finally:
            self._leave()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            else:
                self._link.ignore_end(self._number)  # it was never started

    async def _request_start(self, streams: list[int]) -> None:
        with contextlib.ExitStack() as held:
            body = os.memfd_create("run", os.MFD_CLOEXEC)
            held.callback(os.close, body)
            with_cgroup = isinstance(self._limiter, RunCgroup)
            write_file(body, json.dumps(describe(self._spec, with_cgroup=with_cgroup)).encode())
            into, joins = None, list[int]()
            if isinstance(self._limiter, RunCgroup):
                self._create_cgroup(self._limiter)
                into, joins = held.enter_context(self._limiter.entrance())
            fields = {"slot": self._slot, "uid": self._uid, "into_cgroup": into is not None}
            descriptors = [body, *streams, *([] if into is None else [into]), *joins]
            self._link.expect_end(self._number)
            answer = await self._link.request(self._number, "start", fields, descriptors)
        self._pidfd = answer.pidfd
        self._started_at_s = trio.current_time()
        self._begin_feeding()

    def _create_cgroup(self, cgroup: RunCgroup) -> None:
        try:
            cgroup.create(self._spec.limits)
        except OSError as error:
            raise SetupFailed(
                f"cannot make a cgroup: {error.strerror}: {error.filename}"
            ) from error

    # Supervision.

    async def _supervise(self, report: int, held: contextlib.ExitStack) -> None:
        """Enforce the limits until nothing is left of the run, then judge how it ended.

        Shielded: it ends with the run, which whoever holds the run is sure to kill.
        """
        wall = self._deadlines.call_at(
            self._started_at_s + self._spec.limits.wall_s, self._on_wall_time
        )
        try:
            with held, trio.CancelScope(shield=True):
                if isinstance(self._limiter, RunCgroup):
                    await self._supervise_in_cgroup(self._limiter, report)
                else:
                    await self._supervise_by_watchdog(self._limiter, report)
        except (SandboxError, OSError) as error:
            self._refusal = error if isinstance(error, SandboxError) else SetupFailed(str(error))
            self._kill()
        finally:
            wall.cancel()
            self._set_up.set()
            self._over.set()

    async def _supervise_in_cgroup(self, cgroup: RunCgroup, report: int) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self._watch_memory, cgroup)
            if self._spec.limits.cpu_s is not None:
                watchers.start_soon(self._watch_cpu_time, cgroup, self._spec.limits.cpu_s)
            wall_s = await self._follow(report)
            watchers.cancel_scope.cancel()
        await self._link.ended(self._number)
        await cgroup.wait_empty()
        usage = Usage(
            wall_s=wall_s,
            cpu_s=cgroup.cpu_s(),
            memory_peak_bytes=cgroup.memory_peak_bytes(),
        )
        self._conclude(usage, out_of_memory=cgroup.out_of_memory())

    async def _supervise_by_watchdog(self, watchdog: Watchdog, report: int) -> None:
        with watchdog.watch(self._pidfd, self._spec.limits, self._end) as watched:
            wall_s = await self._follow(report)
        told = await self._link.ended(self._number)
        self._conclude(_usage(wall_s, watched, told), out_of_memory=False)

    async def _follow(self, report: int) -> float:
        """Follow the run until its last process is gone; returns how long it took."""
        await self._read_report(report)
        await trio.lowlevel.wait_readable(self._pidfd)
        return trio.current_time() - self._started_at_s

    async def _read_report(self, report: int) -> None:
        """Read our own process's error, or bubblewrap's status, until its writer is gone."""
        buffered = b""
        async for data in read_all(report):
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line))

    def _note(self, status: dict[str, Any]) -> None:
        if "error" in status:
            family = {"archive": BadArchive, "spec": BadSpec}.get(status["error"], SetupFailed)
            self._refusal = family(status["text"])
        elif "exit-code" in status:
            self._exit_code = status["exit-code"]
        elif "child-pid" in status:
            self._set_up.set()

    def _on_wall_time(self) -> None:
        self._end(Reason.TIME_LIMIT)

    async def _watch_memory(self, cgroup: RunCgroup) -> None:
        await cgroup.wait_out_of_memory()
        self._end(Reason.OUT_OF_MEMORY)

    async def _watch_cpu_time(self, cgroup: RunCgroup, limit_s: float) -> None:
        while (left_s := limit_s - cgroup.cpu_s()) > 0:  # noqa: ASYNC110
            # The soonest that its share of processors lets it use up what is left.
            await trio.sleep(max(_LEAST_CPU_CHECK_S, left_s / max(1.0, self._spec.limits.cpus)))
        self._end(Reason.CPU_TIME_LIMIT)

    def _kill(self) -> None:
        if self._pidfd < 0:
            return
        # Its first process first: as pid 1 it takes everything with it, and it can no longer
        # report an exit code that is our own doing.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if isinstance(self._limiter, RunCgroup):
            self._limiter.kill()


def _usage(wall_s: float, watched: Watched, told: dict[str, Any]) -> Usage:
    return Usage(
        wall_s=wall_s,
        cpu_s=max(watched.cpu_s, told["cpu_s"]),
        memory_peak_bytes=max(watched.memory_peak_bytes, told["memory_peak_bytes"]),
    )
