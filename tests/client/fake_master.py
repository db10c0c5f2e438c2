"""A master whose answers a test chooses, behind the real server and the real wire."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from grpclib.const import Status

from hivemind.core.explanation import Explanation
from hivemind.core.ledger import MovementKind
from hivemind.core.messages import (
    AttemptOutput,
    Balance,
    History,
    HistoryEntry,
    Identity,
    ListQuery,
    NodeList,
    Secret,
    Submission,
    Submitted,
    TaskDetail,
    TaskList,
    Transferred,
    UploadChunk,
    UploadPart,
    WatchItem,
    WatchQuery,
)
from hivemind.core.prices import Means, Quote
from hivemind.core.records import OutputChunk, OutputStream, Role, Task, TaskState
from hivemind.rpc.auth import Authenticator, InvalidToken, Principal
from hivemind.rpc.contract.accounts import serve_accounts, serve_users
from hivemind.rpc.contract.credits import serve_credits
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.contract.nodes import serve_nodes
from hivemind.rpc.contract.serving import Servable
from hivemind.rpc.contract.tasks import serve_tasks
from hivemind.rpc.errors import CallRefused, ErrorCode
from hivemind.rpc.server import Server, open_listeners

TOKEN = "token-of-ann"
ANN = Principal(
    account="ann", role="user", kind="account", token_id="t", expires_at=2e9, node_id=None
)
QUOTE = Quote(rate_ucpt=2, most_ucpt=60, wall_s=600.0, retries=2, balance_ucpt=9, means=Means.NONE)
OPEN = frozenset({"/nodepool.UserService/Register", "/nodepool.UserService/Login"})


def task(state: TaskState = TaskState.RUNNING, **changes: Any) -> Task:
    return attrs.evolve(Task(id="t1", account="ann", state=state, attempt=1), **changes)


def output(
    data: bytes, offset: int, *, attempt: int = 1, stream: OutputStream = OutputStream.STDOUT
) -> AttemptOutput:
    chunk = OutputChunk(stream=stream, offset=offset, data=data, at=0.0)
    return AttemptOutput(attempt=attempt, chunk=chunk)


Watch = Callable[[WatchQuery], AsyncGenerator[WatchItem, None]]


@attrs.define
class FakeMaster:
    """Takes every submit, remembers it by its key, and answers as the fields say."""

    nursery: trio.Nursery
    port: int = 0
    watch_as: Watch | None = None
    pages: dict[str, TaskList] = attrs.field(factory=dict)
    pieces: Callable[[], AsyncGenerator[bytes, None]] | None = None
    break_after_submit: int = 0
    """How many submits are taken and then lose their connection before the answer."""
    submits: list[tuple[Submission, bytes, bytes]] = attrs.field(factory=list)
    watches: list[WatchQuery] = attrs.field(factory=list)
    stops: list[str] = attrs.field(factory=list)
    keys: dict[str, str] = attrs.field(factory=dict)
    logouts: int = 0
    quoted: list[Submission] = attrs.field(factory=list)
    transfers: dict[str, tuple[str, int, str]] = attrs.field(factory=dict)
    break_after_transfer: int = 0
    _scope: trio.CancelScope | None = None
    _gone: trio.Event | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        listeners = await open_listeners("127.0.0.1", self.port)
        self.port = listeners[0].socket.getsockname()[1]
        services: list[Servable] = [
            serve_tasks(self),
            serve_nodes(self),
            serve_accounts(self),
            serve_users(self, self),
            serve_credits(self),
        ]
        server = Server(services, authenticator=Authenticator(OPEN, _verify))
        await self.nursery.start(self._serve, server, listeners)

    async def _serve(
        self, server: Server, listeners: Any, *, task_status: trio.TaskStatus[None]
    ) -> None:
        gone = self._gone = trio.Event()
        with trio.CancelScope() as self._scope:
            await server.serve(listeners, task_status=task_status)
        gone.set()

    def kill(self) -> None:
        """All connections break, and nobody listens any more."""
        assert self._scope is not None
        self._scope.cancel()

    async def restart(self) -> None:
        self.kill()
        assert self._gone is not None
        await self._gone.wait()
        await self.start()

    # --- TaskHandlers ---

    async def submit(
        self, caller: Principal, submission: Submission, chunks: AsyncIterator[UploadChunk]
    ) -> Submitted:
        got = {UploadPart.PAYLOAD: b"", UploadPart.STDIN: b""}
        async for chunk in chunks:
            got[chunk.part] += chunk.data
        self.submits.append((submission, got[UploadPart.PAYLOAD], got[UploadPart.STDIN]))
        is_known = submission.client_key in self.keys
        self.keys.setdefault(submission.client_key, f"t{len(self.keys) + 1}")
        if self.break_after_submit:
            self.break_after_submit -= 1
            self.nursery.start_soon(self.restart)
            await trio.sleep_forever()
        return Submitted(task_id=self.keys[submission.client_key], repeated=is_known)

    async def get(self, caller: Principal, task_id: str) -> TaskDetail:
        if task_id != "t1":
            raise NamedFault(ErrorCode.TASK_NOT_FOUND, f"no task {task_id!a}")
        return TaskDetail(task=task(), attempts=())

    async def list(self, caller: Principal, query: ListQuery) -> TaskList:
        return self.pages[query.cursor]

    async def watch(self, caller: Principal, query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        self.watches.append(query)
        assert self.watch_as is not None
        async for item in self.watch_as(query):
            yield item

    async def download(self, caller: Principal, task_id: str) -> AsyncGenerator[bytes, None]:
        assert self.pieces is not None
        async for piece in self.pieces():
            yield piece

    async def stop(self, caller: Principal, task_id: str) -> Task:
        self.stops.append(task_id)
        return task(stop_requested=True)

    async def explain(self, caller: Principal, task_id: str) -> Explanation:
        return Explanation(headline="it runs", causes=())

    async def quote(self, caller: Principal, submission: Submission) -> Quote:
        self.quoted.append(submission)
        return QUOTE

    # --- CreditHandlers ---

    async def balance(self, caller: Principal, account: str) -> Balance:
        return Balance(account=account or "ann", balance_ucpt=7, held_ucpt=5)

    async def history(self, caller: Principal, account: str, cursor: str, limit: int) -> History:
        seq = int(cursor or 2)
        entry = HistoryEntry(
            seq=seq, at=1.0, kind=MovementKind.TRANSFER, change_ucpt=-3, other="bob", memo="m"
        )
        return History(account="ann", entries=(entry,), next_cursor="1" if seq > 1 else "")

    async def transfer(
        self, caller: Principal, receiver: str, amount_ucpt: int, *, key: str, memo: str
    ) -> Transferred:
        is_known = key in self.transfers
        self.transfers.setdefault(key, (receiver, amount_ucpt, memo))
        if self.break_after_transfer:
            self.break_after_transfer -= 1
            self.nursery.start_soon(self.restart)
            await trio.sleep_forever()
        return Transferred(balance_ucpt=4, repeated=is_known)

    # --- the others ---

    async def set_role(self, caller: Principal, name: str, role: str) -> None:
        raise CallRefused(Status.PERMISSION_DENIED, "only an admin may give roles; ask one")

    async def rotate_keys(self, caller: Principal, grace_s: float | None) -> float:
        return -1.0 if grace_s is None else grace_s

    async def list_nodes(self, caller: Principal, cursor: str, limit: int) -> NodeList:
        return NodeList(nodes=())

    async def register(self, peer: str, name: str, password: str, invite: str) -> None:
        raise NamedFault(ErrorCode.USER_EXISTS, f"the name {name} is taken; choose another")

    async def login(self, peer: str, name: str, password: str) -> str:
        if password != "right password":
            raise NamedFault(ErrorCode.INVALID_PASSWORD, "wrong name or password; try again")
        return TOKEN

    async def whoami(self, caller: Principal) -> Identity:
        return Identity(account="ann", role=Role.USER, email="", created_at=0.0, expires_at=2e9)

    async def logout(self, caller: Principal) -> None:
        self.logouts += 1

    async def create_join_token(self, caller: Principal, ttl_s: float) -> Secret:
        return Secret(text="join", expires_at=ttl_s)

    async def create_invite(self, caller: Principal, ttl_s: float) -> Secret:
        raise CallRefused(Status.PERMISSION_DENIED, "only an admin may invite; ask one")


async def _verify(token: str, peer: str) -> Principal:
    if token != TOKEN:
        raise InvalidToken("the token has expired; log in again")
    return ANN


@asynccontextmanager
async def open_fake_master() -> AsyncIterator[FakeMaster]:
    async with trio.open_nursery() as nursery:
        master = FakeMaster(nursery)
        await master.start()
        try:
            yield master
        finally:
            nursery.cancel_scope.cancel()
