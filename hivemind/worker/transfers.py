"""Bytes too large for the link: payloads and standard input down, results up.

Each transfer takes a connection of its own and is streamed between the disk and the network in
pieces, so neither its size nor its speed is felt by the heartbeat or by the worker's memory.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import structlog
import trio

from hivemind.core.messages import UPLOAD_CHUNK_BYTES, AttemptRef, FinishedReport
from hivemind.core.wording import one_line
from hivemind.rpc.errors import RemoteError, RpcError, Status
from hivemind.supervision import Backoff
from hivemind.worker.dial import Dial
from hivemind.worker.errors import WorkerError
from hivemind.worker.identity import Identity, NotAccepted

_UNKNOWN = frozenset({Status.NOT_FOUND, Status.PERMISSION_DENIED})
"""The master does not know the attempt as this node's; asking again changes nothing."""
_FOR_GOOD = frozenset(
    {
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.OUT_OF_RANGE,
        Status.ALREADY_EXISTS,
        Status.UNIMPLEMENTED,
    }
)
"""What is sent, or asked for, is wrong in itself. A fault of the master's may yet be mended."""

log = structlog.get_logger(__name__)


class TransferFailed(WorkerError):
    """Bytes could not be had, and trying again would not help."""


class RefusedForGood(TransferFailed):
    """The master will not take these bytes, or give them, whenever it is asked."""


class NotWanted(TransferFailed):
    """The master knows nothing of the attempt."""


class Transfers:
    """Fetches inputs and delivers results, for as long as that takes.

    A master that is away, or busy, is tried again, with growing pauses and without an end: whoever
    holds the attempt cancels.
    """

    def __init__(
        self,
        dial: Dial,
        identity: Identity,
        *,
        backoff: Backoff | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._dial = dial
        self._identity = identity
        self._backoff = backoff or Backoff(first_s=0.2, most_s=15.0)
        self._jitter = jitter

    async def fetch(self, ref: AttemptRef, *, stdin: bool, size: int, into: Path) -> None:
        """Have exactly ``size`` bytes of the attempt's payload, or standard input, in a new file.

        Raises:
            NotWanted: the master does not know the attempt.
            TransferFailed: it sent more or fewer bytes than it had announced, or refused for good.
            OSError: the disk is full.
        """

        async def once() -> None:
            async with (
                self._dial.open(await self._identity.token()) as master,
                aclosing(master.fetch_payload(ref, stdin=stdin)) as pieces,
                await trio.open_file(into, "wb") as file,
            ):
                got = 0
                async for data in pieces:
                    got += len(data)
                    if got > size:
                        break
                    await file.write(data)
            if got != size:
                raise TransferFailed(
                    f"the master announced {size} bytes of {'stdin' if stdin else 'payload'} "
                    f"and sent {'more' if got > size else got}"
                )

        await self._repeat(ref, "fetch", once)

    async def deliver(self, report: FinishedReport, tar: Path) -> None:
        """Have the master take a final report with its result; when this returns, it has both.

        Raises:
            NotWanted: the master does not know the attempt.
            RefusedForGood: it will never take this.
            OSError: the result cannot be read.
        """

        async def once() -> None:
            async with (
                await trio.open_file(tar, "rb") as file,
                self._dial.open(await self._identity.token()) as master,
            ):
                await master.finish_with_result(report, _Pieces(file.read))

        await self._repeat(report.ref, "deliver", once)

    async def _repeat(
        self, ref: AttemptRef, what: str, once: Callable[[], Awaitable[None]]
    ) -> None:
        failures = 0
        while True:
            try:
                await once()
            except RemoteError as error:
                if error.status in _UNKNOWN:
                    raise NotWanted(one_line(str(error))) from error
                if error.status in _FOR_GOOD:
                    raise RefusedForGood(one_line(str(error))) from error
                if error.status is Status.UNAUTHENTICATED:
                    self._identity.forget_token()
                reason: Exception = error
            except (RpcError, NotAccepted) as error:
                reason = error
            else:
                return
            failures += 1
            if failures == 1:
                log.warning(
                    "transfer_failed",
                    what=what,
                    task_id=ref.task_id,
                    attempt=ref.attempt,
                    reason=one_line(str(reason)),
                )
            await trio.sleep(self._backoff.delay_s(failures, self._jitter()))


class _Pieces:
    """A file in pieces. No generator, since whoever reads it may leave it unfinished."""

    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self._read = read

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        data = await self._read(UPLOAD_CHUNK_BYTES)
        if not data:
            raise StopAsyncIteration
        return data
