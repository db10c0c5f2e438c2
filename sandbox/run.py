"""One run as its caller sees it, and what all kinds of runs have in common."""

from __future__ import annotations

import abc
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import trio

from sandbox.collecting import collect
from sandbox.errors import CollectFailed, SandboxError, SetupFailed
from sandbox.judge import Evidence, judge
from sandbox.link import SpawnerLink
from sandbox.output import Output
from sandbox.paths import open_source
from sandbox.pipes import write_all
from sandbox.result import Chunk, Collected, Reason, Result, Start, Usage
from sandbox.spec import Spec

_STDIN_BYTES = 1 << 16


class Run(abc.ABC):
    """A run in progress. Made by `Pool.open_run`; use `chunks`, `wait`, `stop` and `collect`."""

    def __init__(self, spec: Spec, *, link: SpawnerLink, nursery: trio.Nursery, slot: int) -> None:
        self._spec = spec
        self._link = link
        self._nursery = nursery
        self._slot = slot
        self._output = Output(spec.limits.output_bytes, lambda: self._end(Reason.OUTPUT_LIMIT))
        self._pidfd = -1
        self._killed_for: Reason | None = None
        self._exit_code: int | None = None
        self._refusal: SandboxError | None = None
        self._result: Result | None = None
        self._feeding: trio.CancelScope | None = None  # most read /dev/null
        self._to_feed: list[int] = []
        self._over = trio.Event()
        self._is_left = False
        self._started_at_s = 0.0

    # What a caller uses.

    @property
    @abc.abstractmethod
    def started(self) -> Start:
        """How it was started."""

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
            CollectFailed: a limit was passed, writing failed, or `open_run` was left.
        """
        await self.wait()
        if self._is_left:
            raise CollectFailed("what a run left behind is gone: collect it inside `open_run`")
        fields = {
            "slot": self._slot,
            "folder": self._spec.output_dir,
            "outputs": list(self._spec.outputs),
            "max_bytes": max_bytes,
            "max_files": max_files,
        }
        return await collect(self._link, fields, self._left_behind(), destination)

    # What the pool uses.

    @abc.abstractmethod
    async def start(self) -> None:
        """Stage the inputs and start.

        Raises:
            BadSpec: an input cannot be used (BadArchive where it is the archive).
            SetupFailed: the sandbox could not be made.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Kill what is left and free all that the run held.

        Raises:
            SetupFailed: something of it could not be removed in time; its slot must not be reused.
        """

    # What the kinds of runs share.

    def _judge_unstarted(self, text: str, usage: Usage) -> Result | None:
        """The result of a command that could not be executed, where only `text` tells of that."""
        return None

    @abc.abstractmethod
    def _said_nothing(self) -> str:
        """What to say of a sandbox that was not made, where nobody says why."""

    @abc.abstractmethod
    def _kill(self) -> None:
        """Kill everything of the run that there is by now."""

    @abc.abstractmethod
    def _left_behind(self) -> list[int]:
        """Descriptors that lead to what the run left, where its slot's mounts do not."""

    def _open_stdin(self) -> int:
        """What the task reads: /dev/null, or a pipe that is fed from the source once it has begun.

        Never the source itself: /proc/self/fd/0 would name it, and open it for writing. And never
        what another run has: locks and flags that a task sets stay with an open file, even one of
        /dev/null, until nobody has it any more. It is the caller's to close.

        Raises:
            BadSpec: the source cannot be read.
        """
        source = self._spec.stdin
        if source is None:
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if isinstance(source, Path):
            self._to_feed.append(open_source(source))
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._to_feed.append(writer)
        os.set_blocking(writer, False)
        return reader

    def _begin_feeding(self) -> None:
        """Feed the task's stdin. What was read for a start that failed would be lost."""
        if not self._to_feed:
            return
        *opened, writer = self._to_feed
        self._to_feed = []
        self._feeding = trio.CancelScope(shield=True)
        if isinstance(self._spec.stdin, int):
            self._nursery.start_soon(_pass_on, self._spec.stdin, writer, self._feeding)
        else:
            self._nursery.start_soon(self._feed, opened[0], writer, self._feeding)

    def _leave(self) -> None:
        """Its slot, and what lies there, is another's from now on."""
        self._is_left = True
        self._output.close()
        self._stop_feeding()

    def _stop_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        for descriptor in self._to_feed:
            os.close(descriptor)
        self._to_feed = []

    async def _feed(self, source: int, writer: int, scope: trio.CancelScope) -> None:
        """Feed a task's stdin; it ends with the file, or when nobody reads it any more."""
        try:
            with scope:
                await trio.lowlevel.checkpoint()
                while data := self._read_source(source):
                    await write_all(writer, data)
        except BrokenPipeError:
            return
        finally:
            os.close(source)
            os.close(writer)

    def _read_source(self, source: int) -> bytes:
        """The next bytes; a file that breaks off ends the run, which must not take it for whole."""
        try:
            return os.read(source, _STDIN_BYTES)
        except OSError as error:
            if not self._over.is_set():
                self._refusal = SetupFailed(f"cannot read a run's stdin: {error.strerror}")
                self._kill()
            return b""

    def _end(self, reason: Reason) -> None:
        """Kill everything; the first reason counts, unless the task ended by itself before."""
        if not self._over.is_set():
            self._killed_for = self._killed_for or reason
            self._kill()

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
            text = self._output.first_error_text() or self._said_nothing()
            self._result = self._judge_unstarted(text, usage)
            if self._result is None:
                self._refusal = SetupFailed(f"the sandbox could not be made: {text}")


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
