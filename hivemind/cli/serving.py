"""Running daemons until a signal says otherwise.

The first SIGTERM or SIGINT drains, a second one stops at once, SIGHUP reloads the policies and
the certificates. A
signal that comes before the daemons are ready stops the start.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs
import structlog
import trio

from hivemind.cli.output import say
from hivemind.settings.daemon import format_address

_SIGNAL_BASE = 128

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Daemon(Protocol):
    """What signals can do to a master or a worker."""

    async def drain(self) -> None:
        """Finish what is under way, take nothing more."""

    def reload_policies(self) -> None:
        """Read the policy files, and the certificates, again."""


@attrs.frozen
class Running:
    """Daemons that are ready: where the pool is, and who drains, in that order."""

    address: tuple[str, int]
    daemons: Sequence[Daemon]


class _Heed:
    """What the signals have said so far."""

    def __init__(self) -> None:
        self.running: Running | None = None
        self.drain = trio.Event()
        self.status = 0

    async def run(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    for daemon in self.running.daemons if self.running else ():
                        daemon.reload_policies()
                    continue
                if self.running is None or self.drain.is_set():
                    self.status = _SIGNAL_BASE + number if self.drain.is_set() else 0
                    scope.cancel()
                    return
                log.info("draining", signal=signal.Signals(number).name)
                self.drain.set()


async def serve_until_signalled(
    open_running: Callable[[], AbstractAsyncContextManager[Running]],
) -> int:
    """Open the daemons, say ``ready HOST:PORT`` on standard output, and run; the exit status.

    What opening or running them raises comes out in a group.
    """
    heed = _Heed()
    async with trio.open_nursery() as helpers:
        await helpers.start(heed.run, helpers.cancel_scope)
        async with open_running() as running:
            host, port = running.address
            say(f"ready {format_address(host, port)}")
            heed.running = running
            await heed.drain.wait()
            for daemon in running.daemons:
                await daemon.drain()
        helpers.cancel_scope.cancel()
    return heed.status
