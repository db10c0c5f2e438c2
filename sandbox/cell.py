"""A cell: a sandbox with a launcher in it, in which the runs of one tenant follow each other."""

from __future__ import annotations

import contextlib
import marshal
import os
import platform
import signal
import socket
from collections.abc import Callable
from typing import Any, Literal

import attrs
import trio

from sandbox.cell_cgroup import CellCgroup, no_entrance
from sandbox.errors import SetupFailed
from sandbox.link import SpawnerLink
from sandbox.python import Python
from sandbox.spawner import seccomp
from sandbox.spec import Spec

_MOST_PARKED = 1024
# They go to the launcher as open files, and one message takes 253 descriptors (SCM_MAX_FD); far
# fewer, for all that start at once share what the pool may have open.
_MOST_FILES = 100
_READY_S = 20.0
_GONE_S = 10.0
PEER_GONE = "the launcher of its cell ended while it ran: try it again"
_REPORT_BYTES = 4096
_MAIN = "/tmp/launcher/main.py"  # noqa: S108 - where the spawner puts it


@attrs.frozen(kw_only=True)
class CellRules:
    """How long a cell is used.

    Attributes:
        max_runs: after so many runs it is made anew.
        max_age_s: as it is this many seconds after it was made, at the next opportunity.
        idle_s: a cell that its tenant has not used for so long is given up.
        parked: how many cells are kept ready for tenants that have none yet. They are of the usual
            kind: the deny list, a network of their own, and the host's Python.

    Raises:
        ValueError: a rule is out of range. It is the pool's owner who set it, and no task.
    """

    max_runs: int = attrs.field(default=1000, validator=attrs.validators.ge(1))
    max_age_s: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))
    idle_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    parked: int = attrs.field(
        default=0, validator=[attrs.validators.ge(0), attrs.validators.le(_MOST_PARKED)]
    )


@attrs.frozen(kw_only=True)
class CellKind:
    """What is the same for all runs of a cell, whoever they belong to."""

    python: Python
    seccomp: Literal["deny-list", "allow-list"] = "deny-list"
    network: Literal["none", "loopback", "full"] = "loopback"

    @classmethod
    def of(cls, spec: Spec, python: Python) -> CellKind | None:
        """The kind of cell that a run fits; None where it needs a sandbox of its own.

        Args:
            spec: the run's.
            python: the interpreter of those that name none.
        """
        if spec.tenant is None or spec.binds or spec.devices or spec.root is not None:
            return None
        if len(spec.files) > _MOST_FILES:
            return None
        return cls(python=spec.python or python, seccomp=spec.seccomp, network=spec.network)

    @property
    def env(self) -> dict[str, str]:
        """The variables of its launcher."""
        # Symbols bound at the start need not be bound, and their pages copied, in every fork.
        eager = {"LD_BIND_NOW": "1"}
        return {"HOME": "/task", "LANG": "C.UTF-8", **eager, **dict(self.python.env)}

    @property
    def binds(self) -> list[tuple[str, str]]:
        """(host path, target) of what is bound read-only."""
        if self.python.prefix is None:
            return []
        return [(str(self.python.prefix), str(self.python.target))]


class Cell:
    """A cell; `open` makes it, and `kill` ends it, whatever it is doing.

    Attributes:
        tenant: whose it is for the rest of its life; None while it is parked.
        is_odd: whether something about it is not as it should be; it serves no further run.
        is_last_run: whether it ends with the run that it was taken for.
        is_cleaned_up: whether nothing of it is left, so that its slot can be used again.
        gone: set when its processes are.
    """

    def __init__(
        self,
        kind: CellKind,
        *,
        slot: int,
        uid: int,
        spawner: SpawnerLink,
        nursery: trio.Nursery,
        cgroup: CellCgroup | None,
    ) -> None:
        self.kind = kind
        self.slot = slot
        self.cgroup = cgroup
        self.tenant: str | None = None
        self.runs = 0
        self.made_at_s = trio.current_time()
        self.idle_since_s = self.made_at_s
        self.is_odd = False
        self.is_last_run = False
        self.is_cleaned_up = False
        self.gone = trio.Event()
        self.launcher: SpawnerLink | None = None
        self.warm: SpawnerLink | None = None
        self.on_gone: Callable[[], None] = _nothing
        self.on_out_of_memory: Callable[[], None] = _nothing
        self._uid = uid
        self._spawner = spawner
        self._nursery = nursery
        self._number = spawner.new_id()
        self._pidfd = -1
        self._control: SpawnerLink | None = None
        self._unpacks = False
        self._sockets: list[socket.socket] = []

    def overhead_pids(self, *, warm: bool) -> int:
        """Processes that count against a run's limit where there is no cgroup.

        At rest there are the cell's init, its launcher and an init that waits for a command; with a
        warm interpreter also that, an init that waits for a script, and the fork that waits with
        it. A warm run's fork is the run's own.
        """
        at_rest = 3 if self.warm is None else 6
        return at_rest - warm

    def forget_run(self) -> None:
        """Tell nobody of what happens to it from now on: its run is over."""
        self.on_gone = self.on_out_of_memory = _nothing

    def kill(self) -> None:
        """Kill all of it; `gone` says when nothing is left."""
        self.is_odd = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self.cgroup is not None:
            self.cgroup.kill()

    async def open(self, *, warm: bool) -> None:
        """Start it, with a warm interpreter if asked for; returns when it is ready.

        Raises:
            SetupFailed: it could not be made; nothing of it is left.
        """
        opened = False
        try:
            if self.cgroup is not None:
                self.cgroup.create(self._uid)
            await self._start()
            if warm:
                await self.open_warm()
            elif self.cgroup is not None:
                self.cgroup.settle()
            opened = True
        except OSError as error:
            raise SetupFailed(f"a cell could not be made: {error}") from error
        finally:
            if not opened:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _GONE_S):
                    await self.close()

    async def open_warm(self) -> None:
        """Start the cell's warm interpreter.

        Raises:
            SetupFailed: it did not come; the cell is of no more use.
        """
        assert self._control is not None  # noqa: S101 - it was opened
        try:
            link, theirs = self._new_link()
            with theirs:
                argv = [self.kind.python.interpreter, _MAIN]
                await _ask(self._control, "warm", {"argv": argv}, [theirs.fileno()])
            await _ask(link, "configure", self._configuration(), [])
            if self.cgroup is not None:
                self.cgroup.settle()
        except (SetupFailed, OSError) as error:
            self.kill()
            raise SetupFailed(f"a warm interpreter could not be made: {error}") from error
        self.warm = link

    async def prepare_to_unpack(self) -> None:
        """Have the inits of its commands import what unpacks archives, if they have not yet.

        Raises:
            SetupFailed: the cell is of no more use.
        """
        if self._unpacks or self._control is None:
            return
        try:
            await _ask(self._control, "unpack", {}, [])
            self._unpacks = True
        finally:
            if not self._unpacks:
                self.kill()  # a run must not come upon an init that is being made anew

    async def close(self) -> None:
        """Kill it and free all that it held.

        Raises:
            SetupFailed: something of it was left after a while; its slot must not be reused.
        """
        with trio.CancelScope(shield=True):
            try:
                with trio.fail_after(_GONE_S):
                    self.kill()
                    if self._pidfd >= 0:
                        await self.gone.wait()
                    elif not self.gone.is_set():
                        self._spawner.ignore_end(self._number)  # it was never started
                    self._hang_up()
                    async with self._spawner.cleaning(self.slot):
                        if self.cgroup is not None:
                            await self.cgroup.remove()
                self.is_cleaned_up = True
            except (trio.TooSlowError, TimeoutError) as error:
                raise SetupFailed(f"a cell could not be cleaned up: {error}") from error

    async def _start(self) -> None:
        with contextlib.ExitStack() as held:
            with contextlib.ExitStack() as given:
                link, theirs = self._new_link()
                given.callback(theirs.close)
                self._control, control = self._new_link()
                given.callback(control.close)
                report, report_writer = os.pipe2(os.O_CLOEXEC)
                held.callback(os.close, report)
                given.callback(os.close, report_writer)
                entrance = no_entrance() if self.cgroup is None else self.cgroup.entrance()
                into, joins = given.enter_context(entrance)
                fields = {
                    "slot": self.slot,
                    "uid": self._uid,
                    "into_cgroup": into is not None,
                    "keep_cgroup_ns": into is not None and not joins,
                    "python": self.kind.python.interpreter,
                    "env": self.kind.env,
                    "binds": self.kind.binds,
                    "network": self.kind.network,
                }
                descriptors = [report_writer, theirs.fileno(), control.fileno()]
                descriptors += [*([] if into is None else [into]), *joins]
                self._spawner.expect_end(self._number)
                try:
                    with trio.fail_after(_READY_S, shield=True):
                        answer = await self._spawner.request(
                            self._number, "start_cell", fields, descriptors
                        )
                except trio.TooSlowError:
                    raise SetupFailed("the spawner did not start a cell in time") from None
            self._pidfd = answer.pidfd
            self._nursery.start_soon(self._watch)
            self.launcher = link
            try:
                await _ask(link, "configure", self._configuration(), [])
            except SetupFailed as error:
                os.set_blocking(report, False)  # who writes there may live, and have nothing to say
                told = ""
                with contextlib.suppress(BlockingIOError):
                    told = os.read(report, _REPORT_BYTES).decode(errors="replace")
                raise SetupFailed(f"{error}: {' '.join(told.split())}") from error

    def _configuration(self) -> dict[str, Any]:
        program = seccomp.build_filter(
            platform.machine(),
            mode=self.kind.seccomp,
            families="unix" if self.kind.network == "none" else "inet",
        )
        in_leaves = self.cgroup is not None and self.cgroup.has_leaves
        return {"filter": program, "in_leaves": in_leaves}

    def _new_link(self) -> tuple[SpawnerLink, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sockets.append(ours)
        link = SpawnerLink(ours, [], peer=PEER_GONE, encode=to_launcher, knows_ends=True)
        self._nursery.start_soon(self._serve, link)
        return link, theirs

    async def _serve(self, link: SpawnerLink) -> None:
        """Hand out what a launcher says; one that stops talking, or babbles, ends its cell."""
        with trio.CancelScope(shield=True):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                await link.run()
            self.kill()

    async def _watch(self) -> None:
        """Wait until nothing is left of it, then tell its run."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as watching:
                if self.cgroup is not None:
                    watching.start_soon(self._watch_memory, self.cgroup)
                with contextlib.suppress(SetupFailed):  # with the spawner everything is gone
                    await self._spawner.ended(self._number)
                watching.cancel_scope.cancel()
            self.is_odd = True
            self._hang_up()
            os.close(self._pidfd)
            self._pidfd = -2
            self.gone.set()
            self.on_gone()

    def _hang_up(self) -> None:
        while self._sockets:
            ours = self._sockets.pop()
            trio.lowlevel.notify_closing(ours)
            ours.close()

    async def _watch_memory(self, cgroup: CellCgroup) -> None:
        while True:
            await cgroup.wait_out_of_memory()
            self.on_out_of_memory()


def to_launcher(message: dict[str, Any]) -> bytes:
    """A message for a launcher: marshal is quicker than JSON, and costs it no import.

    The version is one that every Python reads. What comes back is JSON: marshal must not read what
    nobody has vouched for.
    """
    return marshal.dumps(message, 2)


def _nothing() -> None:
    """What there is to do between runs."""


async def _ask(link: SpawnerLink, op: str, fields: dict[str, Any], descriptors: list[int]) -> None:
    try:
        with trio.fail_after(_READY_S):
            await link.request(0, op, fields, descriptors)
    except trio.TooSlowError:
        raise SetupFailed("a launcher did not answer in time") from None
