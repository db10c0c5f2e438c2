"""The master, put together."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from hivemind.core.events import Effect
from hivemind.core.ledger import earned_ucpt
from hivemind.core.messages import AttemptRef
from hivemind.core.policy import PoolRules, Profile
from hivemind.core.records import Account, Task
from hivemind.master.accounts import Accounts
from hivemind.master.authority import Authority
from hivemind.master.bell import Bell, Bells
from hivemind.master.descriptors import connections_for_nodes
from hivemind.master.enrolment import Enroller
from hivemind.master.founding import found
from hivemind.master.links import Links
from hivemind.master.nodes import Nodes
from hivemind.master.output import OutputFolder
from hivemind.master.payments import Payments
from hivemind.master.presence import Presence
from hivemind.master.public_nodes import PublicNodes
from hivemind.master.public_tasks import PublicTasks
from hivemind.master.push_dial import PushDial
from hivemind.master.push_tools import PushTools
from hivemind.master.pushes import Pushes
from hivemind.master.rates import RateLimiter
from hivemind.master.reactor import Reactor
from hivemind.master.reports import Reports
from hivemind.master.retention import Retention
from hivemind.master.secrets import OneTimeSecrets
from hivemind.master.session import OUTPUT_SLACK_BYTES, SessionTools
from hivemind.master.tasks import Tasks
from hivemind.master.tls import load_tls, local_host
from hivemind.master.uploads import Uploads
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.contract.accounts import MESSAGE_TOKENS as ACCOUNT_TOKENS
from hivemind.rpc.contract.accounts import serve_accounts, serve_users
from hivemind.rpc.contract.credits import serve_credits
from hivemind.rpc.contract.link import OPEN_METHODS as OPEN_LINK_METHODS
from hivemind.rpc.contract.link import serve_link
from hivemind.rpc.contract.nodes import serve_nodes
from hivemind.rpc.contract.public_master import PublicMasterCalls, spooled_fields
from hivemind.rpc.contract.public_nodes import serve_public_nodes
from hivemind.rpc.contract.public_reports import (
    serve_report_batches,
    serve_worker_reports,
)
from hivemind.rpc.contract.public_tasks import MESSAGE_TOKENS as TASK_TOKENS
from hivemind.rpc.contract.serving import Servable, with_reflection
from hivemind.rpc.contract.tasks import serve_tasks
from hivemind.rpc.health import Health
from hivemind.rpc.plaintext import check_listeners
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.spool import Spool
from hivemind.rpc.tls import BadCertificate
from hivemind.settings.credentials import Credentials, write_credentials
from hivemind.settings.daemon import MasterConfig, format_address
from hivemind.settings.errors import SettingsError
from hivemind.settings.home import make_home
from hivemind.settings.policies import Policies, load_policies
from hivemind.store.api import Store
from hivemind.store.blobs import BlobFolder
from hivemind.store.sqlite import open_sqlite_store
from hivemind.supervision import (
    EventKind,
    Restart,
    Service,
    ServiceEvent,
    open_supervisor,
)

OPEN_METHODS = frozenset(
    {
        "/nodepool.UserService/Register",
        "/nodepool.UserService/Login",
        "/nodepool.NodeManagerService/HealthCheck",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        *OPEN_LINK_METHODS,
    }
)
"""What may be called without a token; everything else, and whatever is added, may not."""

_TAR_SLACK_BYTES = 16 * 1024 * 1024
"""Headers and padding of the files in a result's tar."""

_CREDENTIALS_RETRY_S = 60.0

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Master:
    """A master that serves; made by ``open_master``."""

    def __init__(
        self,
        config: MasterConfig,
        store: Store,
        policies: Policies,
        listeners: Sequence[trio.SocketListener],
    ) -> None:
        """The server takes the listeners over, and closes them."""
        self._config = config
        self._tls = load_tls(config)
        self._store = store
        self._policies = policies
        self._listeners = list(listeners)
        self.address = (config.listen[0], listeners[0].socket.getsockname()[1])
        """Where it serves: host and port."""
        self.bells = Bells()
        self.reactor = Reactor(store, rules=self.rules)
        self._blobs = BlobFolder(config.home / "blobs", new_name=lambda: secrets.token_hex(16))
        self._authority = Authority(self.reactor, clock=time.time, random_bytes=secrets.token_bytes)
        self._output = OutputFolder(config.home / "output", self.bells.ring)
        self._rates = RateLimiter(lambda: self.rules().logins_per_minute)
        self._spool = Spool(
            folder=self._blobs.incoming,
            budget=ByteBudget(self.rules().uploads_in_flight_bytes),
            max_bytes=self.rules().payload_bytes,
        )
        self._uploads = Uploads(self._blobs, self._spool, lambda: self.rules().payload_bytes)
        self._links = self._make_links()
        self._pushes = Pushes(
            PushTools(
                reactor=self.reactor,
                store=self._store,
                blobs=self._blobs,
                authority=self._authority,
                rules=self.rules,
                connections=ByteBudget(connections_for_nodes(), wait_s=1.0),
                connect=PushDial(
                    tls=lambda: None if self._tls is None else self._tls.pushing,
                    allow_plaintext=config.allow_plaintext,
                    may_be_local=self._may_nodes_be_local,
                ).connect,
            )
        )
        self._tasks = self._make_tasks()
        self._health = Health()
        self._server: Server | None = None
        self._stale_credentials = Bell()
        self._drained = trio.Event()
        self.reactor.on_published = self._publish
        self.reactor.on_reload = self._reload

    def rules(self) -> PoolRules:
        """The pool's rules as they are now."""
        return self._policies.pool

    def reload_policies(self) -> None:
        """Read the policy files again, and the certificates, which are for the connections to come.

        A bad one keeps what was in force, and is logged.
        """
        try:
            self._policies = load_policies(self._config.home)
        except SettingsError as error:
            log.error("policies_not_reloaded", daemon="master", error=str(error))
        else:
            log.info("policies_reloaded", daemon="master")
        self._reload_tls()

    def _reload_tls(self) -> None:
        if self._tls is None:
            return
        try:
            self._tls = load_tls(self._config)
        except BadCertificate as error:
            log.error("certificate_not_reloaded", daemon="master", error=str(error))
            return
        if self._server is not None:
            self._server.use_tls(None if self._tls is None else self._tls.context)
        self._stale_credentials.ring()
        log.info("certificate_reloaded", daemon="master")

    async def drain(self) -> None:
        """Take no new call, let those in flight end within the grace, and return.

        Workers go on with what they run and come back to the next master.
        """
        self._health.shut_down()
        self._tasks.shut_down()
        self._links.end_all()
        if self._server is not None:
            self._server.drain()
            await self._drained.wait()

    # --- putting it together ---

    def _make_links(self) -> Links:
        tools = SessionTools(
            reactor=self.reactor,
            store=self._store,
            output=self._output,
            rules=self.rules,
            most_output_bytes=lambda policy: self._most(policy, "output") + OUTPUT_SLACK_BYTES,
            keyring=self._authority.keyring,
        )
        enroller = Enroller(
            self.reactor,
            self._authority,
            rules=self.rules,
            clock=time.time,
            random_bytes=secrets.token_bytes,
        )
        return Links(
            tools,
            enroller=enroller,
            blobs=self._blobs,
            spool=self._spool,
            most_result_bytes=lambda policy: self._most(policy, "result") + _TAR_SLACK_BYTES,
        )

    def _most(self, policy: str, key: str) -> int:
        """The most bytes of something that a task of this policy may have.

        A policy that was taken away while a task of it runs counts as one without keys.
        """
        profile = self._policies.profiles.get(policy) or Profile(name=policy)
        return int(getattr(profile, key).most)

    def _make_tasks(self) -> Tasks:
        return Tasks(
            self.reactor,
            self._store,
            profiles=lambda: self._policies.profiles,
            rules=self.rules,
            uploads=self._uploads,
            blobs=self._blobs,
            output=self._output,
            bells=self.bells,
            clock=time.time,
            random_bytes=secrets.token_bytes,
        )

    def _make_server(self) -> Server:
        one_time = OneTimeSecrets(
            self.reactor,
            clock=time.time,
            random_bytes=secrets.token_bytes,
            default_ttl_s=lambda: self.rules().join_token_ttl_s,
        )
        accounts = Accounts(
            self.reactor,
            self._authority,
            one_time,
            rules=self.rules,
            clock=time.time,
            rates=self._rates,
            is_open=self._is_registration_open,
            on_rotated=self._stale_credentials.ring,
        )
        payments = Payments(
            self.reactor,
            self._store,
            clock=time.time,
            rates=RateLimiter(lambda: self.rules().transfers_per_minute),
        )
        presence = Presence(
            self.reactor, self._links, self._pushes, rules=self.rules, clock=time.time
        )
        public_nodes = PublicNodes(
            self.reactor,
            self._pushes,
            presence,
            clock=time.time,
            may_be_local=self._may_nodes_be_local,
        )
        reports = Reports(
            self.reactor,
            self._store,
            output=self._output,
            blobs=self._blobs,
            pushes=self._pushes,
            clock=time.time,
            report_status=public_nodes.report_status,
            earned_ucpt=self._earned_ucpt,
        )
        services: list[Servable] = [
            serve_users(accounts, payments),
            serve_credits(payments),
            serve_accounts(accounts),
            serve_tasks(self._tasks),
            PublicMasterCalls(
                PublicTasks(
                    self.reactor,
                    self._tasks,
                    uploads=self._uploads,
                    output=self._output,
                    blobs=self._blobs,
                ),
                reports,
            ),
            serve_nodes(
                Nodes(self.reactor, self._links, presence, on_forgotten=self._pushes.forgotten)
            ),
            serve_public_nodes(public_nodes),
            serve_worker_reports(reports),
            serve_report_batches(reports),
            serve_link(self._links),
            self._health,
        ]
        return Server(
            with_reflection(services),
            authenticator=Authenticator(
                open_methods=OPEN_METHODS,
                verify=self._authority.verify,
                still_good=self._authority.still_good,
                message_tokens={**ACCOUNT_TOKENS, **TASK_TOKENS},
                certified=frozenset() if self._tls is None else self._tls.certified,
            ),
            spool=self._spool,
            spooled=spooled_fields(lambda: self.rules().payload_bytes),
            tls=None if self._tls is None else self._tls.context,
        )

    def _earned_ucpt(self, ref: AttemptRef) -> int:
        """What an attempt that is under way has earned so far."""
        cluster = self.reactor.cluster
        task, attempt = cluster.tasks.get(ref.task_id), cluster.attempts.get(ref.task_id)
        if task is None or attempt is None or attempt.number != ref.attempt:
            return 0
        node = cluster.nodes.get(attempt.node_id)
        return earned_ucpt(
            cluster.escrows.get(task.id),
            attempt,
            "" if node is None else node.account,
            wall_s=task.wall_s,
            now=time.time(),
        )

    def _is_registration_open(self) -> bool:
        rule = self.rules().registration
        return rule == "open" or (rule == "auto" and self._config.listen[0] in _LOOPBACK)

    def _may_nodes_be_local(self) -> bool:
        rule = self.rules().local_nodes
        return rule == "allow" or (rule == "auto" and self._config.listen[0] in _LOOPBACK)

    # --- services ---

    async def sweep(self) -> None:
        """Remove what a crash left behind: spools, and files that no row names."""
        await self._blobs.make()
        await self._blobs.sweep(await self._store.blob_files())

    def services(self) -> Sequence[Service]:
        """In the order of their start."""
        return (
            Service(name="reactor", run=self.reactor.run),
            Service(name="founding", run=self._found, restart=Restart.TEMPORARY),
            Service(name="links", run=self._links.run),
            Service(name="retention", run=self._keep_no_longer),
            Service(name="pushes", run=self._pushes.run),
            Service(name="server", run=self._serve),
        )

    async def _serve(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        listeners, self._listeners = self._listeners, []
        if not listeners:
            listeners = await open_listeners(*self.address)
        self._server = self._make_server()
        await self._server.serve(listeners, task_status=task_status)
        self._drained.set()
        # Drained: nothing is left to serve, and the owner is about to leave.
        await trio.sleep_forever()

    async def _keep_no_longer(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        retention = Retention(
            self.reactor,
            self._store,
            output=self._output,
            blobs=self._blobs,
            rules=self.rules,
            clock=time.time,
        )
        task_status.started()
        await retention.run()

    async def _found(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Make what is missing, then keep the first admin's credentials fresh."""
        admin = await found(self.reactor, clock=time.time, random_bytes=secrets.token_bytes)
        await self._write_credentials(admin)
        task_status.started()
        wait_s = self.rules().token_ttl_s / 2
        while True:
            with trio.move_on_after(wait_s):
                await self._stale_credentials.wait()
            try:
                await self._write_credentials(admin)
                wait_s = self.rules().token_ttl_s / 2
            except SettingsError as error:
                log.error("credentials_not_renewed", error=str(error))
                wait_s = _CREDENTIALS_RETRY_S

    async def _write_credentials(self, admin: Account) -> None:
        host = local_host(self.address[0])
        tls = self._tls
        shown = (None, None) if tls is None else tls.client_certificate or (None, None)
        credentials = Credentials(
            master=format_address(host, self.address[1]),
            account=admin.name,
            token=self._authority.account_token(admin, self.rules().token_ttl_s),
            tls_ca=None if tls is None else tls.certificate,
            tls_name=None if tls is None or tls.name == host else tls.name,
            tls_cert=shown[0],
            tls_key=shown[1],
            allow_plaintext=self._config.allow_plaintext,
        )
        await trio.to_thread.run_sync(write_credentials, self._config.home, credentials)

    # --- what the reactor tells ---

    def _publish(self, tasks: Sequence[Task], effects: Sequence[Effect]) -> None:
        self._links.dispatch(effects)
        self._pushes.dispatch(effects)
        for task in tasks:
            self.bells.ring(task.id)

    def _reload(self) -> None:
        self._links.end_all()
        self._pushes.reload()
        self.bells.ring_all()


@asynccontextmanager
async def open_master(config: MasterConfig) -> AsyncIterator[Master]:
    """A master that is ready to serve when the block begins, and has stopped when it has ended.

    Leaving the block without ``drain`` cuts calls off; nothing that was acknowledged is lost.

    Raises BadCertificate, PortInUse, ListensInPlaintext, SettingsError for the home and its
    policies, StoreError for the database: each one line that says what to do. A failure that
    restarting does not mend is raised in the block.
    """
    policies = load_policies(config.home)
    # Before the home is touched: an address that is taken leaves no half-made home behind.
    listeners = await open_listeners(*config.listen)
    try:
        if config.tls_cert is None and not config.allow_plaintext:
            check_listeners(listeners)
        make_home(config.home)
        async with open_sqlite_store(config.home / "master.db") as store:
            master = Master(config, store, policies, listeners)
            await master.sweep()
            async with open_supervisor(master.services(), on_event=_log_event) as supervisor:
                await supervisor.ready.wait()
                yield master
    finally:
        with trio.move_on_after(1, shield=True):
            for listener in listeners:
                await listener.aclose()


def _log_event(event: ServiceEvent) -> None:
    if event.error is not None:
        log.error(
            "service",
            service=event.service,
            what=event.kind.value,
            run=event.run,
            error=repr(event.error),
            exc_info=event.error if event.kind is EventKind.FAILED else None,
        )
    else:
        log.debug("service", service=event.service, what=event.kind.value, run=event.run)
