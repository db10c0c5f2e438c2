"""The worker, put together."""

import math
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import structlog
import trio

import sandbox
from hivemind import version
from hivemind.core.records import Capabilities, Vitals
from hivemind.rpc.errors import (
    RpcError,
)
from hivemind.rpc.tls import BadCertificate
from hivemind.settings.credentials import Credentials
from hivemind.settings.daemon import WorkerConfig
from hivemind.settings.errors import SettingsError
from hivemind.settings.policies import load_policies
from hivemind.supervision import (
    EventKind,
    Service,
    ServiceEvent,
    StartFailed,
    open_supervisor,
)
from hivemind.worker.capacity import Wish, measure_machine, offered_gpus, plan_capacity, with_gpus
from hivemind.worker.cells import plan_cells
from hivemind.worker.dial import Dial
from hivemind.worker.direct import DirectTasks
from hivemind.worker.errors import WorkerError
from hivemind.worker.front import Front, open_front
from hivemind.worker.gate import Gate, open_gate
from hivemind.worker.gpu_slots import GpuSlots
from hivemind.worker.gpus import Gpus, open_gpus
from hivemind.worker.held import HeldAttempts
from hivemind.worker.identity import IdentityFolder
from hivemind.worker.joining import credentials_of_home, dial_of, join_master, master_tls, own_tls
from hivemind.worker.link import Link
from hivemind.worker.outbox import Outbox
from hivemind.worker.own_home import open_own_home
from hivemind.worker.recovery import recover
from hivemind.worker.room import Room
from hivemind.worker.runner import Runner
from hivemind.worker.system_info import SystemSampler
from hivemind.worker.transfers import Transfers
from hivemind.worker.vitals import VitalSigns

_STOP_S = 15.0
"""How long the attempts that a drain ends may take to be gone."""
_DELIVER_S = 15.0
"""How long a drain waits for the master to acknowledge what has ended."""
_SHUTTING_DOWN = "its node is shutting down"

log = structlog.get_logger(__name__)


class SandboxUnavailable(WorkerError):
    """The machine cannot run tasks safely; one line for each thing that is missing."""


@attrs.frozen(kw_only=True)
class MasterSide:
    """What a worker has for its master; one that is used directly alone has none of it."""

    runner: Runner
    link: Link
    held: HeldAttempts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runner and link, each of which makes no sense without the other.

        If one of them ever fails, both begin anew, and the next hello tells what is still held.
        """
        async with trio.open_nursery() as both:
            await both.start(self.runner.run)
            await both.start(self.link.run)
            task_status.started()


class Worker:
    """A worker that is ready, welcomed by its master if it has one; made by ``open_worker``."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        own: "_Own",
        direct: DirectTasks,
        dial: Dial | None,
        master_side: MasterSide | None,
    ) -> None:
        self._config = config
        self._dial = dial
        self._pool = own.pool
        self._room = own.room
        self._front = own.front
        self._direct = direct
        self._master_side = master_side
        self.address = own.front.address
        """Where it serves: host and port."""

    def reload_policies(self) -> None:
        """Read the policy files again, and the certificates, which are for the connections to come.

        A bad one keeps what was in force, and is logged.
        """
        self._reload_tls()
        try:
            policies = load_policies(self._config.home)
        except Exception as error:
            log.error("policies_not_reloaded", daemon="worker", error=str(error))
        else:
            self._room.profiles = policies.profiles
            self._pool.use_cell_rules(plan_cells(policies.profiles.values()))
            log.info("policies_reloaded", daemon="worker")

    def _reload_tls(self) -> None:
        dial = self._dial
        if not self._front.has_tls and (dial is None or dial.tls is None):
            return
        try:
            front_tls = own_tls(self._config)
            if dial is not None and dial.tls is not None:
                dial.tls = master_tls(self._config, credentials_of_home(self._config))
        except (BadCertificate, SettingsError) as error:
            log.error("certificate_not_reloaded", daemon="worker", error=str(error))
        else:
            if front_tls is not None:
                self._front.use_tls(front_tls)
            log.info("certificate_reloaded", daemon="worker")

    async def drain(self) -> None:
        """Take nothing more, let what runs end within the grace, and tell the master all of it.

        What is still running then is ended and reported, so that the master gives it to others. The
        link is closed when this returns.
        """
        master_side, direct = self._master_side, self._direct
        self._front.health.shut_down()
        self._room.is_draining = True
        if master_side is not None:
            master_side.link.announce_drain()
        log.info("draining", running=self._room.taken)
        with trio.move_on_after(self._config.drain_grace_s):
            await self._wait_idle()
        if master_side is not None:
            master_side.runner.stop_all(_SHUTTING_DOWN)
        direct.stop_all(_SHUTTING_DOWN)
        with trio.move_on_after(_STOP_S):
            await self._wait_idle()
        unconfirmed = 0
        if master_side is not None:
            with trio.move_on_after(_DELIVER_S):
                await master_side.held.wait_empty()
            master_side.link.leave()
            unconfirmed = len(master_side.held)
        # Last, since direct callers may take their time over the calls that are under way.
        await self._front.drain()
        log.info("drained", unconfirmed=unconfirmed)

    async def _wait_idle(self) -> None:
        await self._direct.wait_idle()
        if self._master_side is not None:
            await self._master_side.runner.wait_idle()


@asynccontextmanager
async def open_worker(config: WorkerConfig) -> AsyncIterator[Worker]:
    """A worker that takes tasks when the block begins, and has left nothing running when it ends.

    The block begins when the master has welcomed the worker; a master that does not answer is
    waited for, as long as it takes, while those who call the worker directly are served. One
    without a master begins at once. Leaving without ``drain`` ends what runs at once, unreported.

    Raises, each with one line that says what to do: SettingsError for the home, its policies and
    its credentials; BadCertificate; PortInUse; ListensInPlaintext; HomeInUse; BadLocalToken;
    SandboxUnavailable, which has a line for each thing that is missing; ImpossibleOffer;
    NoSuchHost; NotTrusted; the IdentityError family where the master will not have this worker. A
    failure that restarting does not mend is raised in the block.
    """
    policies = load_policies(config.home)
    capacity = plan_capacity(
        Wish(
            slots=config.slots,
            cpu_millis=config.cpu_millis,
            memory_bytes=config.memory_bytes,
            location=config.location,
        ),
        measure_machine(),
    )
    known = credentials_of_home(config)
    dial = dial_of(config, known)
    front_tls = own_tls(config)
    if dial is not None:
        await dial.check_name()
    with open_own_home(config.home) as folder, open_gpus() as gpus:
        devices = offered_gpus(gpus, policies.profiles.values())
        room = Room(
            capacity=with_gpus(capacity, devices),
            profiles=policies.profiles,
            gpus=gpus,
            gpu_slots=GpuSlots(devices),
        )
        gate = await open_gate(folder)
        cells = plan_cells(policies.profiles.values())
        async with _open_sandboxes(config, capacity.slots, cells) as pool:
            direct = DirectTasks(
                gate=gate,
                room=room,
                pool=pool,
                folder=folder / "direct",
                sampler=SystemSampler(folder),
            )
            async with (
                open_front(
                    config.listen,
                    gate=gate,
                    direct=direct,
                    folder=folder,
                    tls=front_tls,
                    allow_plaintext=config.allow_plaintext,
                ) as front,
                _supervised(_own_services(gate, direct, front)),
            ):
                own = _Own(folder=folder, gpus=gpus, room=room, gate=gate, pool=pool, front=front)
                async with _open_master_side(config, dial, known, own) as master_side:
                    log.info("listening", address=front.told, tls=front_tls is not None)
                    yield Worker(config, own=own, direct=direct, dial=dial, master_side=master_side)


@attrs.frozen(kw_only=True)
class _Own:
    """What the worker has, whoever its tasks come from."""

    folder: Path
    gpus: Gpus
    room: Room
    gate: Gate
    pool: sandbox.Pool
    front: Front


def _own_services(gate: Gate, direct: DirectTasks, front: Front) -> Sequence[Service]:
    """What serves direct callers, in the order of their start."""
    return (
        Service(name="keyring", run=gate.run),
        Service(name="direct", run=direct.run, stop_grace_s=30.0),
        Service(name="server", run=front.run),
    )


@asynccontextmanager
async def _open_master_side(
    config: WorkerConfig,
    dial: Dial | None,
    known: Credentials | None,
    own: _Own,
) -> AsyncIterator[MasterSide | None]:
    """What the worker has for its master, which has welcomed it when the block begins."""
    if dial is None:
        yield None
        return
    room = own.room
    outbox = Outbox(own.folder / "attempts")
    held = HeldAttempts()
    await recover(outbox, held)
    identity = await join_master(dial, IdentityFolder(own.folder), config, known, own.front.told)
    own.gate.belong(identity.membership)
    transfers = Transfers(dial, identity)
    runner = Runner(pool=own.pool, outbox=outbox, held=held, transfers=transfers, room=room)
    signs = VitalSigns(own.folder, own.gpus)

    def measure() -> Vitals:
        return signs.measure(room.taken)

    link = Link(
        dial=dial,
        identity=identity,
        held=held,
        runner=runner,
        transfers=transfers,
        capabilities=Capabilities(
            capacity=room.capacity,
            hostname=socket.gethostname(),
            version=version(),
            limits=config.limits,
            sandbox="enabled",
            address=own.front.told,
        ),
        measure=measure,
        on_keyring=own.gate.take,
    )
    side = MasterSide(runner=runner, link=link, held=held)
    # Started at the first welcome, and a master may be away for long.
    work = Service(name="work", run=side.run, start_within_s=math.inf, stop_grace_s=30.0)
    async with _supervised([work]):
        yield side


@asynccontextmanager
async def _supervised(services: Sequence[Service]) -> AsyncIterator[None]:
    """These services for the length of the block, which begins when all are usable."""
    try:
        async with open_supervisor(services, on_event=_log_event) as supervisor:
            await supervisor.ready.wait()
            yield
    except StartFailed as failure:
        if isinstance(failure.__cause__, WorkerError | RpcError):
            raise failure.__cause__ from None
        raise


@asynccontextmanager
async def _open_sandboxes(
    config: WorkerConfig, slots: int, cells: sandbox.CellRules
) -> AsyncIterator[sandbox.Pool]:
    try:
        async with sandbox.open_pool(_pool_config(config, slots, cells)) as pool:
            yield pool
    except sandbox.Unavailable as error:
        raise SandboxUnavailable(_what_is_missing(error, config)) from error


def _pool_config(config: WorkerConfig, slots: int, cells: sandbox.CellRules) -> sandbox.PoolConfig:
    """What the pool of sandboxes is told; the one place for it."""
    return sandbox.PoolConfig(
        limits="cgroup" if config.limits == "cgroup" else "best-effort",
        slots=slots,
        cgroup_parent="hivemind",
        cells=cells,
    )


def _what_is_missing(error: sandbox.Unavailable, config: WorkerConfig) -> str:
    lines = [
        f"this machine cannot run tasks: no {item.name}: {item.detail}: {item.remedy}"
        for item in error.missing
    ]
    if config.limits == "cgroup" and any(item.name == "cgroup" for item in error.missing):
        lines.append(
            "or start it with --limits best-effort: limits are then watched from outside, which a "
            "task can outrun for a moment"
        )
    return ";\n".join(lines)


def _log_event(event: ServiceEvent) -> None:
    if event.error is None:
        log.debug("service", service=event.service, what=event.kind.value, run=event.run)
        return
    log.error(
        "service",
        service=event.service,
        what=event.kind.value,
        run=event.run,
        error=repr(event.error),
        exc_info=event.error if event.kind is EventKind.FAILED else None,
    )
