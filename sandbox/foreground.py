"""A run in the foreground of a terminal: its output as it comes, its exit status, its end by ^C."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import trio

from sandbox.errors import SandboxError
from sandbox.order import RunOrder
from sandbox.pool import open_pool
from sandbox.result import Collected, Reason, Stream
from sandbox.run import Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DESCRIPTORS = {Stream.STDOUT: 1, Stream.STDERR: 2}
_SHOWN_SKIPPED = 3


@attrs.define
class _Ending:
    """Why this program ends before the run does: its exit status, once there is one."""

    status: int | None = None


async def run_in_foreground(order: RunOrder) -> int:
    """Run, pass everything on, and return the exit status.

    SIGINT, SIGTERM and SIGHUP end the run, and so does an output that nobody reads any more.

    Raises:
        SandboxError: it could not be run, or what it left could not be collected.
    """
    ending = _Ending()
    status = 0
    failure: Exception | None = None
    with trio.open_signal_receiver(*_signals()) as signals:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(_end_by_signal, signals, ending, watchers.cancel_scope)
            try:
                status = await _run(order, ending)
            except Exception as error:
                failure = error  # kept out of the nursery, which would wrap it in a group
            watchers.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status if ending.status is None else ending.status


def _signals() -> list[signal.Signals]:
    """What ends us; what our parent had us ignore (nohup, a shell's &) we go on ignoring."""
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return heard or [signal.SIGTERM]


async def _end_by_signal(
    signals: AsyncIterator[int], ending: _Ending, run: trio.CancelScope
) -> None:
    async for number in signals:
        if ending.status is None:
            ending.status = 128 + number
        run.cancel()


async def _run(order: RunOrder, ending: _Ending) -> int:
    async with open_pool(order.config) as pool, pool.open_run(order.spec) as run:
        try:
            async for chunk in run.chunks():
                await _write(_DESCRIPTORS[chunk.stream], chunk.data)
        except BrokenPipeError:
            ending.status = 128 + signal.SIGPIPE
            return ending.status
        result = await run.wait()
        if result.reason not in (Reason.EXITED, Reason.SIGNALLED):
            _say(f"ended: {result.reason.replace('_', ' ')}")
        if order.collect is not None:
            await _collect(run, order, order.collect)
        return result.exit_code


async def _write(descriptor: int, data: bytes) -> None:
    """Write everything, without holding up the run's limits where the reader is slow.

    Raises:
        BrokenPipeError: nobody reads it any more.
        SandboxError: it cannot be written.
    """
    view = memoryview(data)
    try:
        while view:
            # In a thread: to make our own stdout non-blocking would do so for all who share it.
            written = await trio.to_thread.run_sync(
                os.write, descriptor, view, abandon_on_cancel=True
            )
            view = view[written:]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SandboxError(f"cannot write the output: {error.strerror}") from error


async def _collect(run: Run, order: RunOrder, path: Path) -> None:
    """Write the tar beside `path` and put it in its place when it is whole."""
    limits = order.spec.limits
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            collected = await run.collect(
                file, max_bytes=limits.scratch_bytes, max_files=limits.scratch_inodes
            )
        partial.replace(path)
    except OSError as error:
        raise SandboxError(f"cannot collect into {str(path)!r}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    _say_skipped(collected)


def _say_skipped(collected: Collected) -> None:
    if collected.skipped:
        names = ", ".join(collected.skipped[:_SHOWN_SKIPPED])
        more = ", ..." if len(collected.skipped) > _SHOWN_SKIPPED else ""
        _say(f"not collected: {names}{more}")


def _say(text: str) -> None:
    sys.stderr.write(f"sandbox: {text}\n")
