"""A master's services on a real port, and a worker's side of a link that a test drives by hand."""

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio
from nacl.signing import SigningKey

from hivemind.core.admission import Ask
from hivemind.core.confinement import Reuse, Seccomp
from hivemind.core.messages import (
    AttemptOutput,
    AttemptRef,
    MasterItem,
    OutputReport,
    Renewed,
    Submission,
    UploadChunk,
    UploadPart,
    Welcome,
    WorkerItem,
)
from hivemind.core.policy import Bound, PoolRules, Profile
from hivemind.core.records import Node, OutputChunk, OutputStream, PayloadKind, Role
from hivemind.master import commands
from hivemind.master.accounts import Accounts
from hivemind.master.app import OPEN_METHODS
from hivemind.master.authority import Authority
from hivemind.master.bell import Bells
from hivemind.master.enrolment import Enroller
from hivemind.master.founding import found
from hivemind.master.links import Links
from hivemind.master.nodes import Nodes
from hivemind.master.output import OutputFolder
from hivemind.master.payments import Payments
from hivemind.master.presence import Presence
from hivemind.master.public_nodes import PublicNodes
from hivemind.master.push_dial import PushDial
from hivemind.master.push_tools import PushTools
from hivemind.master.pushes import Pushes
from hivemind.master.rates import RateLimiter
from hivemind.master.reactor import Reactor
from hivemind.master.reports import Reports
from hivemind.master.secrets import OneTimeSecrets
from hivemind.master.session import SessionTools
from hivemind.master.tasks import Tasks
from hivemind.master.uploads import Uploads
from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.channel import Channel, open_channel
from hivemind.rpc.contract.accounts import MESSAGE_TOKENS, serve_accounts, serve_users
from hivemind.rpc.contract.credits import serve_credits
from hivemind.rpc.contract.link import LinkClient, serve_link
from hivemind.rpc.contract.nodes import serve_nodes
from hivemind.rpc.contract.public_nodes import serve_public_nodes
from hivemind.rpc.contract.public_reports import (
    SPOOLED_REPORTS,
    serve_report_batches,
    serve_reports,
    serve_worker_reports,
)
from hivemind.rpc.contract.tasks import TasksClient, serve_tasks
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.spool import Spool
from hivemind.store.blobs import BlobFolder
from hivemind.store.memory import MemoryStore
from tests.master.builders import account, hello, node
from tests.master.gated import GatedStore

T = TypeVar("T")

PROFILES = {
    "default": Profile(name="default"),
    "tight": Profile(name="tight", output=Bound(default=100, most=1000)),
    "admins": Profile(name="admins", accounts=("role:admin",)),
    "boxed": Profile(
        name="boxed",
        seccomp=Seccomp.ALLOW_LIST,
        reuse=Reuse.ACCOUNT,
        env={"TZ": "UTC", "MODE": "the policy's"},
    ),
}


class Clock:
    """The time of day, which a test moves on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@attrs.define(kw_only=True)
class Pool:
    """Everything of a master but its settings and its supervisor."""

    folder: Path
    store: GatedStore
    clock: Clock
    reactor: Reactor
    authority: Authority
    bells: Bells
    output: OutputFolder
    blobs: BlobFolder
    links: Links
    pushes: Pushes
    reports: Reports
    tasks: Tasks
    server: Server
    port: int
    links_scope: trio.CancelScope

    def account_token(self, name: str, ttl_s: float = 600.0) -> str:
        return self.authority.account_token(self.reactor.cluster.accounts[name], ttl_s)

    def node_token(self, node_id: str) -> str:
        return self.authority.node_token(self.reactor.cluster.nodes[node_id], 600.0)

    @asynccontextmanager
    async def channel(self, token: str = "") -> AsyncIterator[Channel]:
        metadata = {"authorization": f"Bearer {token}"} if token else {}
        async with open_channel("127.0.0.1", self.port, metadata=metadata) as channel:
            yield channel

    @asynccontextmanager
    async def tasks_of(self, name: str) -> AsyncIterator[TasksClient]:
        async with self.channel(self.account_token(name)) as channel:
            yield TasksClient(channel)

    @asynccontextmanager
    async def link(self, node_id: str) -> AsyncIterator["Link"]:
        """A link of the node's, on a connection of its own; nothing was said on it yet."""
        async with (
            self.channel(self.node_token(node_id)) as channel,
            open_link(LinkClient(channel)) as link,
        ):
            yield link

    def files(self) -> list[str]:
        """Every file of a payload or result, whole or on its way."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in (self.folder / "blobs").rglob("*")
            if path.is_file()
        )


class Link:
    """A worker's side of the conversation."""

    def __init__(self, client: LinkClient, send: Any, replies: Any) -> None:
        self.client = client
        self._send = send
        self._replies = replies
        self._items: deque[MasterItem] = deque()

    async def say(self, *items: WorkerItem) -> None:
        await self._send.send(items)

    async def hear(self, kind: type[T]) -> T:
        """The next item, which must be of this kind; renewals are passed over."""
        with trio.fail_after(10):
            while True:
                while not self._items:
                    self._items.extend(await anext(self._replies))
                item = self._items.popleft()
                if not isinstance(item, Renewed) or kind is Renewed:
                    break
        assert isinstance(item, kind), item
        return item

    async def hear_nothing(self, for_s: float = 0.1) -> None:
        with trio.move_on_after(for_s):
            item = await self.hear(object)
            raise AssertionError(f"{item} was said")

    async def join(self, slots: int = 4, *held: AttemptRef) -> Welcome:
        await self.say(hello(slots, *held))
        return await self.hear(Welcome)

    async def end(self) -> BaseException | None:
        """How the link ends: nothing, or the error."""
        with trio.fail_after(10):
            try:
                async for _ in self._replies:
                    pass
            except Exception as error:
                return error
        return None


@asynccontextmanager
async def open_link(client: LinkClient) -> AsyncIterator[Link]:
    send, receive = trio.open_memory_channel[tuple[WorkerItem, ...]](1000)
    async with aclosing(client.connect(receive)) as replies:
        yield Link(client, send, replies)
        send.close()


def output(task_id: str, offset: int, data: bytes, attempt: int = 1, **fields: Any) -> OutputReport:
    stream = fields.get("stream", OutputStream.STDOUT)
    chunk = OutputChunk(stream=stream, offset=offset, data=data, at=1.0)
    return OutputReport(task_id=task_id, output=AttemptOutput(attempt=attempt, chunk=chunk))


def submission(kind: PayloadKind = PayloadKind.COMMAND, **fields: Any) -> Submission:
    if kind is PayloadKind.COMMAND:
        fields.setdefault("argv", ("true",))
    return Submission(kind=kind, ask=fields.pop("ask", Ask()), **fields)


async def chunks(payload: bytes = b"", stdin: bytes = b"") -> AsyncIterator[UploadChunk]:
    for part, data in ((UploadPart.PAYLOAD, payload), (UploadPart.STDIN, stdin)):
        for start in range(0, len(data), 256 * 1024):
            yield UploadChunk(part, data[start : start + 256 * 1024])


async def submit(client: TasksClient, **fields: Any) -> str:
    return (await client.submit(submission(**fields), chunks())).task_id


async def until(is_true: Callable[[], bool]) -> None:
    """Waits for a state that the other side brings about through the network."""
    with trio.fail_after(10):
        while not is_true():  # noqa: ASYNC110 - nothing here is told of it
            await trio.sleep(0.005)


@asynccontextmanager
async def open_pool(
    folder: Path,
    *,
    rules: PoolRules | None = None,
    profiles: Mapping[str, Profile] = PROFILES,
    store: GatedStore | None = None,
    nodes: tuple[str, ...] = ("n1", "n2"),
    is_open: bool = True,
) -> AsyncIterator[Pool]:
    """A pool of accounts ann, bob and root (an admin), where ann has the nodes."""
    chosen = rules or PoolRules()
    clock = Clock()
    kept = store or GatedStore(MemoryStore())
    reactor = Reactor(kept, rules=lambda: chosen, wall_clock=clock)
    authority = Authority(reactor, clock=clock, random_bytes=secrets.token_bytes)
    bells = Bells()
    blobs = BlobFolder(folder / "blobs", new_name=lambda: secrets.token_hex(16))
    await blobs.make()
    logs = OutputFolder(folder / "output", bells.ring)
    spool = Spool(
        folder=blobs.incoming,
        budget=ByteBudget(chosen.uploads_in_flight_bytes, wait_s=1.0),
        max_bytes=chosen.payload_bytes,
    )

    def most(policy: str, key: str) -> int:
        return int(getattr(profiles[policy], key).most)

    links = Links(
        SessionTools(
            reactor=reactor,
            store=kept,
            output=logs,
            rules=lambda: chosen,
            most_output_bytes=lambda policy: most(policy, "output"),
            keyring=authority.keyring,
        ),
        enroller=Enroller(
            reactor,
            authority,
            rules=lambda: chosen,
            clock=clock,
            random_bytes=secrets.token_bytes,
        ),
        blobs=blobs,
        spool=spool,
        most_result_bytes=lambda policy: most(policy, "result"),
    )
    tasks = Tasks(
        reactor,
        kept,
        profiles=lambda: profiles,
        rules=lambda: chosen,
        uploads=Uploads(blobs, spool, lambda: chosen.payload_bytes),
        blobs=blobs,
        output=logs,
        bells=bells,
        clock=clock,
        random_bytes=secrets.token_bytes,
    )
    accounts = Accounts(
        reactor,
        authority,
        OneTimeSecrets(
            reactor,
            clock=clock,
            random_bytes=secrets.token_bytes,
            default_ttl_s=lambda: chosen.join_token_ttl_s,
        ),
        rules=lambda: chosen,
        clock=clock,
        rates=RateLimiter(lambda: chosen.logins_per_minute),
        is_open=lambda: is_open,
    )
    payments = Payments(
        reactor, kept, clock=clock, rates=RateLimiter(lambda: chosen.transfers_per_minute)
    )
    pushes = Pushes(
        PushTools(
            reactor=reactor,
            store=kept,
            blobs=blobs,
            authority=authority,
            rules=lambda: chosen,
            connect=PushDial(
                tls=lambda: None, allow_plaintext=False, may_be_local=lambda: True
            ).connect,
        )
    )
    presence = Presence(reactor, links, pushes, rules=lambda: chosen, clock=clock)
    public_nodes = PublicNodes(reactor, pushes, presence, clock=clock, may_be_local=lambda: True)
    reports = Reports(
        reactor,
        kept,
        output=logs,
        blobs=blobs,
        pushes=pushes,
        clock=clock,
        report_status=public_nodes.report_status,
    )
    server = Server(
        [
            serve_users(accounts, payments),
            serve_credits(payments),
            serve_accounts(accounts),
            serve_tasks(tasks),
            serve_nodes(Nodes(reactor, links, presence, on_forgotten=pushes.forgotten)),
            serve_link(links),
            serve_public_nodes(public_nodes),
            serve_reports(reports),
            serve_worker_reports(reports),
            serve_report_batches(reports),
        ],
        authenticator=Authenticator(
            open_methods=OPEN_METHODS, verify=authority.verify, message_tokens=MESSAGE_TOKENS
        ),
        spool=spool,
        spooled=SPOOLED_REPORTS,
    )

    def publish(changed: Any, effects: Any) -> None:
        links.dispatch(effects)
        pushes.dispatch(effects)
        for task in changed:
            bells.ring(task.id)

    def reload() -> None:
        links.end_all()
        pushes.reload()
        bells.ring_all()

    reactor.on_published, reactor.on_reload = publish, reload
    listeners = await open_listeners("127.0.0.1", 0)
    links_scope = trio.CancelScope()

    async def run_links(*, task_status: trio.TaskStatus[None]) -> None:
        with links_scope:
            await links.run(task_status=task_status)

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(reactor.run)
        await found(reactor, clock=clock, random_bytes=secrets.token_bytes)

        def settle_in(turn: Any) -> None:
            for one in (account("root", Role.ADMIN), account("ann"), account("bob")):
                turn.put_account(one)
                commands.endow(turn, one)
            for id_ in nodes:
                turn.put_node(node(id_))

        await reactor.perform(settle_in)
        await nursery.start(run_links)
        await nursery.start(pushes.run)
        await nursery.start(server.serve, listeners)
        yield Pool(
            folder=folder,
            store=kept,
            clock=clock,
            reactor=reactor,
            authority=authority,
            bells=bells,
            output=logs,
            blobs=blobs,
            links=links,
            pushes=pushes,
            reports=reports,
            tasks=tasks,
            server=server,
            port=listeners[0].socket.getsockname()[1],
            links_scope=links_scope,
        )
        nursery.cancel_scope.cancel()


def key_of(seed: int) -> SigningKey:
    return SigningKey(bytes([seed]) * 32)


def node_of(id_: str, key: SigningKey, owner: str = "ann") -> Node:
    return node(id_, owner, bytes(key.verify_key))
