"""The pool's side of collecting a run's output: the spawner's child writes, here is who waits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from typing import Any, BinaryIO

import trio

from sandbox.errors import CollectFailed
from sandbox.link import SpawnerLink
from sandbox.pipes import read_all
from sandbox.result import Collected

_START_S = 30.0


async def collect(
    link: SpawnerLink,
    fields: dict[str, Any],
    left_behind: list[int],
    destination: BinaryIO | int,
) -> Collected:
    """Have the tar written: straight into a real file, else through a pipe.

    Args:
        link: to the spawner.
        fields: which folder, and the limits.
        left_behind: a descriptor of the run's /task, where that is not its slot's mount.
        destination: where the tar goes.

    Raises:
        CollectFailed: a limit was passed, or writing failed.
        SetupFailed: the spawner is gone.
    """
    with contextlib.ExitStack() as held:
        report, report_writer = _pipe(held)
        target = _descriptor_of(destination)
        piped = -1
        given = contextlib.ExitStack()
        given.callback(os.close, report_writer)
        if target is None:
            piped, target = _pipe(held)
            given.callback(os.close, target)
        number = link.new_id()
        link.expect_end(number)
        held.callback(link.ignore_end, number)
        with given, trio.fail_after(_START_S, shield=True):
            given_away = [report_writer, target, *left_behind]
            answer = await link.request(number, "collect", fields, given_away)
        held.callback(_kill_and_close, answer.pidfd)
        if piped >= 0 and not isinstance(destination, int):
            await _copy(piped, destination)
        line = b"".join([data async for data in read_all(report)])
        await link.ended(number)
    return _read_line(line)


def _pipe(held: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    held.callback(os.close, reader)
    return reader, writer


def _descriptor_of(destination: BinaryIO | int) -> int | None:
    if isinstance(destination, int):
        return destination
    try:
        destination.flush()
        return destination.fileno()
    except io.UnsupportedOperation:
        return None


async def _copy(reader: int, destination: BinaryIO) -> None:
    async for data in read_all(reader):
        destination.write(data)


def _kill_and_close(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _read_line(line: bytes) -> Collected:
    if not line:
        raise CollectFailed("cannot collect the output: the collecting process was killed")
    told = json.loads(line)
    if "error" in told:
        raise CollectFailed(told["error"])
    return Collected(files=told["files"], bytes=told["bytes"], skipped=tuple(told["skipped"]))
