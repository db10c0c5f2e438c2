"""The worker, put together."""

import fcntl
import math
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
import trio

import sandbox
from hivemind import version
from hivemind.core.ids import NODE_NAME_LENGTH
from hivemind.core.records import Capabilities, Vitals
from hivemind.core.wording import one_line
from hivemind.rpc.auth import Authenticator, InvalidToken, Principal
from hivemind.rpc.contract.serving import with_reflection
from hivemind.rpc.errors import (
    CertificateRefused,
    NoGrpc,
    OwnCertificateRefused,
    RpcError,
    TlsFailed,
)
from hivemind.rpc.health import Health
from hivemind.rpc.plaintext import PlaintextRefused
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.tls import BadCertificate, client_tls
from hivemind.settings.credentials import Credentials, read_credentials
from hivemind.settings.daemon import TLS_CA_VARIABLE, WorkerConfig, parse_address
from hivemind.settings.errors import SettingsError
from hivemind.settings.home import HomeUnusable, make_home
from hivemind.settings.policies import load_policies
from hivemind.supervision import (
    Backoff,
    EventKind,
    Service,
    ServiceEvent,
    StartFailed,
    open_supervisor,
)
from hivemind.worker.capacity import Wish, measure_machine, offered_gpus, plan_capacity, with_gpus
from hivemind.worker.cells import plan_cells
from hivemind.worker.dial import Dial, NotTrusted
from hivemind.worker.errors import WorkerError
from hivemind.worker.gpu_slots import GpuSlots
from hivemind.worker.gpus import open_gpus
from hivemind.worker.held import HeldAttempts
from hivemind.worker.identity import Identity, IdentityFolder, join
from hivemind.worker.link import Link
from hivemind.worker.outbox import Outbox
from hivemind.worker.recovery import recover
from hivemind.worker.runner import Runner
from hivemind.worker.transfers import Transfers
from hivemind.worker.vitals import VitalSigns

OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""What may be called without a token; there is nothing else to call."""

_STOP_S = 15.0
"""How long the attempts that a drain ends may take to be gone."""
_DELIVER_S = 15.0
"""How long a drain waits for the master to acknowledge what has ended."""
_JOIN_BACKOFF = Backoff(first_s=0.2, most_s=10.0)
_SERVER_HOST = "127.0.0.1"

log = structlog.get_logger(__name__)


class HomeInUse(WorkerError):
    """Another worker runs in this home."""


class SandboxUnavailable(WorkerError):
    """The machine cannot run tasks safely; one line for each thing that is missing."""


class Worker:
    """A worker that its master has welcomed; made by ``open_worker``."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        pool: sandbox.Pool,
        runner: Runner,
        link: Link,
        held: HeldAttempts,
        dial: Dial,
    ) -> None:
        self._config = config
        self._dial = dial
        self._pool = pool
        self._runner = runner
        self._link = link
        self._held = held
        self._health = Health()
        self._listeners: list[trio.SocketListener] = []
        self.address = (_SERVER_HOST, 0)
        """Where it tells its health: host and port."""

    def reload_policies(self) -> None:
        """Read the policy files again, and the certificates, which are for the connections to come.

        A bad one keeps what was in force, and is logged.
        """
        self._reload_tls()
        try:
            policies = load_policies(self._config.home)
        except Exception as error:
            log.error("policies_not_reloaded", error=str(error))
        else:
            self._runner.use_profiles(policies.profiles)
            self._pool.use_cell_rules(plan_cells(policies.profiles.values()))
            log.info("policies_reloaded")

    def _reload_tls(self) -> None:
        if self._dial.tls is None:
            return
        try:
            self._dial.tls = _tls(self._config, _credentials_of_home(self._config))
        except (BadCertificate, SettingsError) as error:
            log.error("certificate_not_reloaded", error=str(error))
        else:
            log.info("certificate_reloaded")

    async def drain(self) -> None:
        """Take nothing more, let what runs end within the grace, and tell the master all of it.

        What is still running then is ended and reported, so that the master gives it to others. The
        link is closed when this returns.
        """
        self._health.shut_down()
        self._runner.draining = True
        self._link.announce_drain()
        log.info("draining", running=self._runner.running)
        with trio.move_on_after(self._config.drain_grace_s):
            await self._runner.wait_idle()
        self._runner.stop_all("its node is shutting down")
        with trio.move_on_after(_STOP_S):
            await self._runner.wait_idle()
        with trio.move_on_after(_DELIVER_S):
            await self._held.wait_empty()
        self._link.leave()
        log.info("drained", unconfirmed=len(self._held))

    # -- putting it together --------------------------------------------------------------------

    async def listen(self) -> None:
        """Take a free port. Raises PortInUse."""
        self._listeners = await open_listeners(_SERVER_HOST, 0)
        self.address = (_SERVER_HOST, self._listeners[0].socket.getsockname()[1])

    def services(self) -> Sequence[Service]:
        """In the order of their start."""
        return (
            Service(name="server", run=self._serve),
            # Started at the first welcome, and a master may be away for long.
            Service(name="work", run=self._work, start_within_s=math.inf, stop_grace_s=30.0),
        )

    async def _work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runner and link, each of which makes no sense without the other.

        If one of them ever fails, both begin anew, and the next hello tells what is still held.
        """
        async with trio.open_nursery() as both:
            await both.start(self._runner.run)
            await both.start(self._link.run)
            task_status.started()

    async def _serve(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listeners, self._listeners = self._listeners, []
        server = Server(
            with_reflection([self._health]),
            authenticator=Authenticator(open_methods=OPEN_METHODS, verify=_refuse_token),
        )
        await server.serve(
            listeners or await open_listeners(*self.address), task_status=task_status
        )


@asynccontextmanager
async def open_worker(config: WorkerConfig) -> AsyncIterator[Worker]:
    """A worker that takes tasks when the block begins, and has left nothing running when it ends.

    The block begins when the master has welcomed the worker; a master that does not answer is
    waited for, as long as it takes. Leaving without ``drain`` ends what runs at once, unreported.

    Raises, each with one line that says what to do: SettingsError for the home, its policies and
    its credentials; BadCertificate; HomeInUse; SandboxUnavailable, which has a line for each thing
    that is missing; ImpossibleOffer; NoSuchHost; NotTrusted; the IdentityError family where the
    master will not have this worker. A failure that restarting does not mend is raised in the
    block.
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
    known = _credentials_of_home(config)
    dial = _dial(config, known)
    await dial.check_name()
    with _own_home(config.home) as folder, open_gpus() as gpus:
        outbox = Outbox(folder / "attempts")
        held = HeldAttempts()
        devices = offered_gpus(gpus, policies.profiles.values())
        capacity = with_gpus(capacity, devices)
        await recover(outbox, held)
        cells = plan_cells(policies.profiles.values())
        async with _open_sandboxes(config, capacity.slots, cells) as pool:
            identity = await _join(dial, IdentityFolder(folder), config, known)
            transfers = Transfers(dial, identity)
            runner = Runner(
                pool=pool,
                outbox=outbox,
                held=held,
                transfers=transfers,
                capacity=capacity,
                profiles=policies.profiles,
                gpus=gpus,
                gpu_slots=GpuSlots(devices),
            )
            signs = VitalSigns(folder, gpus)

            def measure() -> Vitals:
                return signs.measure(runner.running)

            link = Link(
                dial=dial,
                identity=identity,
                held=held,
                runner=runner,
                transfers=transfers,
                capabilities=Capabilities(
                    capacity=capacity,
                    hostname=socket.gethostname(),
                    version=version(),
                    limits=config.limits,
                    sandbox="enabled",
                ),
                measure=measure,
            )
            worker = Worker(config, pool=pool, runner=runner, link=link, held=held, dial=dial)
            async with _supervised(worker):
                yield worker


@asynccontextmanager
async def _supervised(worker: Worker) -> AsyncIterator[None]:
    """The worker's services for the length of the block, which begins when all are usable."""
    await worker.listen()
    try:
        async with open_supervisor(worker.services(), on_event=_log_event) as supervisor:
            await supervisor.ready.wait()
            yield
    except StartFailed as failure:
        if isinstance(failure.__cause__, WorkerError | RpcError):
            raise failure.__cause__ from None
        raise


def _credentials_of_home(config: WorkerConfig) -> Credentials | None:
    """The home's credentials, if they are for this master: no other may see their token."""
    known = read_credentials(config.home)
    return known if known is not None and parse_address(known.master) == config.master else None


def _dial(config: WorkerConfig, known: Credentials | None) -> Dial:
    host, port = config.master
    is_own = config.tls_ca is None and known is not None
    return Dial(
        host=host,
        port=port,
        tls=_tls(config, known),
        tls_name=known.tls_name if is_own and known is not None else None,
        allow_plaintext=config.allow_plaintext or (known is not None and known.allow_plaintext),
    )


def _tls(config: WorkerConfig, known: Credentials | None) -> ssl.SSLContext | None:
    """How to know the master, and what to show it. Raises BadCertificate."""
    ca = config.tls_ca or (known.tls_ca if known is not None else None)
    if ca is None:
        return None
    if config.tls_cert is not None or known is None:
        return client_tls(ca=ca, certificate=config.tls_cert, key=config.tls_key)
    return client_tls(ca=ca, certificate=known.tls_cert, key=known.tls_key)


async def _join(
    dial: Dial, folder: IdentityFolder, config: WorkerConfig, known: Credentials | None
) -> Identity:
    """The identity that the master accepts, however long the master may be away.

    A master that is there and cannot be known by its certificate is not waited for.
    """
    name = config.name or socket.gethostname()[:NODE_NAME_LENGTH]
    join_token = config.join_token or (known.token if known is not None else None)
    told = ""
    failures = 0
    while True:
        try:
            return await join(dial, folder, name=name, join_token=join_token)
        except CertificateRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: set tls_ca, or {TLS_CA_VARIABLE}, to a file with the "
                "master's certificate, and --master to a name that it is for"
            ) from error
        except OwnCertificateRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: give --tls-cert and --tls-key one of its authority's "
                "(`hivemind tls issue` makes them)"
            ) from error
        except PlaintextRefused as error:
            raise NotTrusted(
                f"{one_line(str(error))}: set --tls-ca to a file with the master's certificate, or "
                "say --allow-plaintext"
            ) from error
        except RpcError as error:
            reason = one_line(str(error))
            if isinstance(error, NoGrpc) and dial.tls is None:
                reason += "; if it is a master with a certificate, set tls_ca to a file with that"
            elif isinstance(error, TlsFailed):
                reason += "; if it is a master without a certificate, take tls_ca away"
        if reason != told:
            told = reason
            log.warning("master_not_reached", master=dial.address, reason=reason)
        failures += 1
        await trio.sleep(_JOIN_BACKOFF.delay_s(failures, random.random()))  # noqa: S311


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


@contextmanager
def _own_home(home: Path) -> Iterator[Path]:
    """The worker's folder in the home, made where it is missing, for this process alone."""
    make_home(home)
    folder = home / "worker"
    try:
        (folder / "attempts").mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeUnusable(
            f"{folder} cannot be used ({error.strerror}): mend that, or choose another --home"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeInUse(
                f"another worker runs in {home}: stop it, or use another --home"
            ) from error
        yield folder
    finally:
        os.close(lock)


async def _refuse_token(token: str, peer: str) -> Principal:
    await trio.lowlevel.checkpoint()
    raise InvalidToken("this worker serves nothing that a token would open")


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
