"""One run, from its inputs to its result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import trio

from sandbox.cgroups import RunCgroup
from sandbox.collecting import collect
from sandbox.describe import describe
from sandbox.errors import BadArchive, BadSpec, SandboxError, SetupFailed
from sandbox.judge import Evidence, judge, judge_unstarted
from sandbox.link import SpawnerLink
from sandbox.output import Output
from sandbox.paths import check_paths
from sandbox.pipes import read_all, write_all
from sandbox.result import Chunk, Collected, Reason, Result, Usage
from sandbox.spec import Spec
from sandbox.watchdog import Watchdog, Watched

_START_S = 30.0
_CLEANUP_S = 30.0
_STDIN_BYTES = 1 << 16
_LEAST_CPU_CHECK_S = 0.05


class Run:
    """A run in progress. Made by `Pool.open_run`; use `chunks`, `wait`, `stop` and `collect`."""

    def __init__(
        self,
        spec: Spec,
        *,
        link: SpawnerLink,
        nursery: trio.Nursery,
        slot: int,
        uid: int,
        limiter: RunCgroup | Watchdog,
    ) -> None:
        self._spec = spec
        self._link = link
        self._nursery = nursery
        self._slot = slot
        self._uid = uid
        self._limiter = limiter
        self._output = Output(spec.limits.output_bytes, lambda: self._end(Reason.OUTPUT_LIMIT))
        self._number = link.new_id()
        self._pidfd = -1
        self._killed_for: Reason | None = None
        self._exit_code: int | None = None
        self._refusal: SandboxError | None = None
        self._result: Result | None = None
        self._feeding = trio.CancelScope(shield=True)
        self._set_up = trio.Event()
        self._over = trio.Event()
        self._started_at_s = 0.0

    # What a caller uses.

    def chunks(self) -> AsyncIterator[Chunk]:
        """Stdout and stderr as they come, up to the end of both; for one reader.

        A task that writes faster than this is read waits; a task whose output is never read waits
        for ever, up to its time limit. An iteration that was left can be taken up again.
        """
        return self._output

    def stop(self) -> None:
        """Kill the whole run; `wait` says when nothing is left of it. Harmless when it is over."""
        self._end(Reason.STOPPED)

    async def wait(self) -> Result:
        """Wait until no process of the run is left, and say how it ended.

        The limits hold whether or not somebody waits. Being cancelled here stops nothing.

        Raises:
            SetupFailed: the sandbox could not be made; nothing of the task ran.
        """
        await self._over.wait()
        if self._result is None:
            raise self._refusal or SetupFailed("the run was never started")
        return self._result

    async def collect(
        self, destination: BinaryIO | int, *, max_bytes: int, max_files: int
    ) -> Collected:
        """Write what the run left as an uncompressed tar; waits for its end.

        That is the content of its output folder, and what `Spec.outputs` names; of those, what is
        not there is skipped, like everything that cannot be taken. The tar holds regular files and
        folders under relative names. What `destination` holds after an error or a cancellation is
        of no use.

        Args:
            destination: an open file or descriptor, written to from where it stands.
            max_bytes: limit for the sizes of the files together.
            max_files: limit for files and folders together.

        Raises:
            CollectFailed: a limit was passed, or writing failed.
        """
        await self.wait()
        fields = {
            "slot": self._slot,
            "folder": self._spec.output_dir,
            "outputs": list(self._spec.outputs),
            "max_bytes": max_bytes,
            "max_files": max_files,
        }
        return await collect(self._link, fields, destination)

    # What the pool uses.

    async def start(self) -> None:
        """Stage the inputs and start.

        Raises:
            BadSpec: an input cannot be used (BadArchive where it is the archive).
            SetupFailed: the sandbox could not be made.
        """
        check_paths(self._spec)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as given:
            stdin = self._open_stdin(ours, given)
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
                self._feeding.cancel()
                self._output.close()
                async with self._link.cleaning(self._slot):
                    if isinstance(self._limiter, RunCgroup):
                        await self._limiter.remove()
        except (trio.TooSlowError, TimeoutError) as error:
            raise SetupFailed(f"a run could not be cleaned up: {error}") from error
        finally:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    # Start.

    def _open_stdin(self, ours: contextlib.ExitStack, given: contextlib.ExitStack) -> int:
        """What the task reads: /dev/null, or a pipe that is fed from the source.

        Never the source itself: /proc/self/fd/0 would name it, and open it for writing.
        """
        if self._spec.stdin is None:
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            given.callback(os.close, null)
            return null
        source = self._spec.stdin
        reader, writer = os.pipe2(os.O_CLOEXEC)
        given.callback(os.close, reader)
        os.set_blocking(writer, False)
        if isinstance(source, Path):
            self._nursery.start_soon(_feed, source, writer)
        else:
            self._nursery.start_soon(_pass_on, source, writer, self._feeding)
        return reader

    async def _request_start(self, streams: list[int]) -> None:
        with contextlib.ExitStack() as held:
            body = os.memfd_create("run", os.MFD_CLOEXEC)
            held.callback(os.close, body)
            with_cgroup = isinstance(self._limiter, RunCgroup)
            _write_file(body, json.dumps(describe(self._spec, with_cgroup=with_cgroup)).encode())
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
            self._set_up.set()
            self._over.set()

    async def _supervise_in_cgroup(self, cgroup: RunCgroup, report: int) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self._watch_wall_time)
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
            async with trio.open_nursery() as watchers:
                watchers.start_soon(self._watch_wall_time)
                wall_s = await self._follow(report)
                watchers.cancel_scope.cancel()
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

    async def _watch_wall_time(self) -> None:
        await trio.sleep_until(self._started_at_s + self._spec.limits.wall_s)
        self._end(Reason.TIME_LIMIT)

    async def _watch_memory(self, cgroup: RunCgroup) -> None:
        await cgroup.wait_out_of_memory()
        self._end(Reason.OUT_OF_MEMORY)

    async def _watch_cpu_time(self, cgroup: RunCgroup, limit_s: float) -> None:
        while (left_s := limit_s - cgroup.cpu_s()) > 0:  # noqa: ASYNC110
            # The soonest that its share of processors lets it use up what is left.
            await trio.sleep(max(_LEAST_CPU_CHECK_S, left_s / max(1.0, self._spec.limits.cpus)))
        self._end(Reason.CPU_TIME_LIMIT)

    def _end(self, reason: Reason) -> None:
        """Kill everything; the first reason counts, unless the task ended by itself before."""
        if not self._over.is_set():
            self._killed_for = self._killed_for or reason
            self._kill()

    def _kill(self) -> None:
        if self._pidfd < 0:
            return
        # Its first process first: as pid 1 it takes everything with it, and it can no longer
        # report an exit code that is our own doing.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if isinstance(self._limiter, RunCgroup):
            self._limiter.kill()

    def _conclude(self, usage: Usage, *, out_of_memory: bool) -> None:
        if self._refusal is not None and not out_of_memory:
            return
        self._result = judge(
            Evidence(
                exit_code=self._exit_code,
                killed_for=self._killed_for,
                out_of_memory=out_of_memory,
                over_output=self._output.over_limit,
                cpu_limit_s=self._spec.limits.cpu_s,
                usage=usage,
            )
        )
        if self._result is not None:
            self._refusal = None
        else:
            text = self._output.first_error_text() or "bubblewrap ended without a word"
            self._result = judge_unstarted(text, usage)
            if self._result is None:
                self._refusal = SetupFailed(f"the sandbox could not be made: {text}")


def _usage(wall_s: float, watched: Watched, told: dict[str, Any]) -> Usage:
    return Usage(
        wall_s=wall_s,
        cpu_s=max(watched.cpu_s, told["cpu_s"]),
        memory_peak_bytes=max(watched.memory_peak_bytes, told["memory_peak_bytes"]),
    )


def _write_file(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


async def _feed(source: Path, writer: int) -> None:
    """Feed a task's stdin; it ends with the file, or when nobody reads it any more."""
    try:
        with trio.CancelScope(shield=True), source.open("rb", buffering=0) as file:
            await trio.lowlevel.checkpoint()
            while data := file.read(_STDIN_BYTES):
                await write_all(writer, data)
    except BrokenPipeError:
        return
    finally:
        os.close(writer)


async def _pass_on(source: int, writer: int, scope: trio.CancelScope) -> None:
    """Feed a task's stdin from a descriptor, until either end is gone or the run is over."""
    try:
        with scope:
            # In a thread: what the descriptor leads to is shared with others, who count on it to
            # block. It may outlive the run, in a last read that nobody waits for.
            while data := await trio.to_thread.run_sync(
                os.read, source, _STDIN_BYTES, abandon_on_cancel=True
            ):
                await write_all(writer, data)
    except OSError:
        return
    finally:
        os.close(writer)
