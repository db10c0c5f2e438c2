"""A master that keeps what workers tell it and does as a test says; the transport is the real one.

It holds workers to the protocol: output may overlap and may not have gaps, a final report comes
after all output, and nothing but a known, proven node is listened to.
"""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
from nacl.signing import VerifyKey

from hivemind.core.ids import make_task_id
from hivemind.core.messages import (
    INLINE_BYTES,
    Acknowledged,
    Assignment,
    AttemptRef,
    DrainNotice,
    Enrolled,
    Enrolment,
    FinishedReport,
    Hello,
    MasterItem,
    NodeToken,
    OutputHeld,
    OutputReport,
    RefusedReport,
    Renewed,
    StartedReport,
    Welcome,
    WorkerItem,
)
from hivemind.core.records import Ending, OutputStream, TaskSpec, Vitals
from hivemind.rpc.auth import Authenticator, InvalidToken, Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid, unavailable
from hivemind.rpc.contract.link import OPEN_METHODS, serve_link
from hivemind.rpc.contract.specs import encode_spec
from hivemind.rpc.errors import ErrorCode, RpcError
from hivemind.rpc.server import Server, open_listeners

PATIENCE_S = 20.0
PIECE_BYTES = 256 * 1024


def new_ref(attempt: int = 1) -> AttemptRef:
    return AttemptRef(make_task_id(int(time.time() * 1000), secrets.token_bytes(10)), attempt)


@attrs.define
class Seen:
    """What a worker told about one attempt."""

    output: dict[OutputStream, bytearray] = attrs.field(
        factory=lambda: {stream: bytearray() for stream in OutputStream}
    )
    size: int = 0
    started: int = 0
    endings: list[Ending] = attrs.field(factory=list)
    result: bytes | None = None
    result_bytes: int = 0
    refusal: RefusedReport | None = None

    @property
    def stdout(self) -> bytes:
        return bytes(self.output[OutputStream.STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output[OutputStream.STDERR])


@attrs.define(eq=False)
class Session:
    """One link of one worker."""

    number: int
    hello: Hello
    orders: trio.MemorySendChannel[tuple[MasterItem, ...]]
    scope: trio.CancelScope

    def send(self, *items: MasterItem) -> None:
        self.orders.send_nowait(items)


class RecordingMaster:
    """Implements LinkHandlers. The knobs may be turned at any time."""

    def __init__(self) -> None:
        self.host, self.port = "127.0.0.1", 0
        self.lease_s = 15.0
        self.heartbeat_s = 0.2
        self.token_ttl_s = 600.0
        self.acknowledges = True
        self.renews = True
        self.takes_connections = True
        self.keeps_result_bytes = True
        self.broken_deliveries = 0
        self.most_result_bytes = 1 << 40
        self.fetches = 0
        self.fetches_wait = trio.Event()
        self.fetches_wait.set()
        self.join_tokens = {"join-me"}
        self.nodes: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.blobs: dict[tuple[AttemptRef, bool], bytes] = {}
        self.unwanted: set[AttemptRef] = set()
        self.seen: dict[AttemptRef, Seen] = {}
        self.sessions: list[Session] = []
        self.hellos: list[Hello] = []
        self.vitals: list[Vitals] = []
        self.drained = 0
        self.proofs = 0
        self.faults: list[str] = []
        self.reading_allowed = trio.Event()
        self.reading_allowed.set()
        self.nursery: trio.Nursery | None = None
        self._serving: trio.CancelScope | None = None
        self._nonces: dict[bytes, str] = {}
        self._changed = trio.Event()

    # -- what tests do --------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def of(self, ref: AttemptRef) -> Seen:
        return self.seen.setdefault(ref, Seen())

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until what was seen makes this true."""
        with trio.fail_after(PATIENCE_S):
            while not is_so():
                await self._changed.wait()

    async def until_connected(self) -> Session:
        await self.until(lambda: self.sessions)
        return self.sessions[-1]

    async def until_ended(self, ref: AttemptRef) -> Ending:
        await self.until(lambda: self.of(ref).endings)
        return self.of(ref).endings[-1]

    async def until_refused(self, ref: AttemptRef) -> RefusedReport:
        await self.until(lambda: self.of(ref).refusal)
        refusal = self.of(ref).refusal
        assert refusal is not None
        return refusal

    def assign(
        self,
        spec: TaskSpec,
        payload: bytes | None = None,
        stdin: bytes | None = None,
        *,
        ref: AttemptRef | None = None,
        account: str = "alice",
        announced: int | None = None,
    ) -> AttemptRef:
        """Give an attempt to the worker that is connected."""
        ref = ref or new_ref()
        item = self.assignment(ref, spec, payload, stdin, account=account, announced=announced)
        self.sessions[-1].send(item)
        return ref

    def assignment(
        self,
        ref: AttemptRef,
        spec: TaskSpec,
        payload: bytes | None = None,
        stdin: bytes | None = None,
        *,
        account: str = "alice",
        announced: int | None = None,
    ) -> Assignment:
        """An attempt to be given to a worker."""
        self.of(ref)
        fetch = {}
        for name, data in (("payload", payload), ("stdin", stdin)):
            if data is not None and (len(data) > INLINE_BYTES or announced is not None):
                self.blobs[ref, name == "stdin"] = data
                fetch[f"{name}_to_fetch"] = len(data) if announced is None else announced
        return Assignment(
            ref=ref,
            lease_id="lease",
            account=account,
            spec=encode_spec(spec),
            payload=None if "payload_to_fetch" in fetch else payload,
            stdin=None if "stdin_to_fetch" in fetch else stdin,
            **fetch,
        )

    async def run(
        self, spec: TaskSpec, payload: bytes | None = None, stdin: bytes | None = None
    ) -> Seen:
        """Give an attempt, wait for its end, and say what was seen of it."""
        ref = self.assign(spec, payload, stdin)
        await self.until_ended(ref)
        return self.of(ref)

    async def open(self, port: int = 0) -> None:
        """Serve; on the same port as before where one was used."""
        listeners = await open_listeners(self.host, port or self.port)
        self.port = listeners[0].socket.getsockname()[1]
        server = Server(
            [serve_link(self)],
            authenticator=Authenticator(open_methods=OPEN_METHODS, verify=self.verify),
        )
        assert self.nursery is not None
        self._serving = trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            assert self._serving is not None
            with self._serving:
                await server.serve(listeners, task_status=task_status)

        await self.nursery.start(serve)

    async def close(self) -> None:
        """Be gone, as after a kill: connections break and nobody listens."""
        assert self._serving is not None
        self._serving.cancel()
        await self.until(lambda: not self.sessions)

    def cut(self) -> None:
        """Break every link, without a word."""
        for session in self.sessions:
            session.scope.cancel()

    # -- LinkHandlers ---------------------------------------------------------------------------

    async def enrol(self, peer: str, enrolment: Enrolment) -> Enrolled:
        VerifyKey(enrolment.public_key).verify(
            b"hivemind enrol" + enrolment.join_token.encode(), enrolment.signature
        )
        if enrolment.join_token not in self.join_tokens:
            raise denied("this join token is unknown, used or expired")
        node_id = f"node-{len(self.nodes) + 1}-{secrets.token_hex(4)}"
        self.nodes[node_id] = enrolment.public_key
        return Enrolled(node_id=node_id, account="alice")

    async def challenge(self, peer: str, node_id: str) -> bytes:
        nonce = secrets.token_bytes(32)
        self._nonces[nonce] = node_id
        return nonce

    async def prove(self, peer: str, node_id: str, nonce: bytes, signature: bytes) -> NodeToken:
        assert self._nonces.pop(nonce) == node_id
        if node_id not in self.nodes:
            raise NamedFault(ErrorCode.NODE_NOT_FOUND, "this node is not of this pool")
        VerifyKey(self.nodes[node_id]).verify(b"hivemind prove" + nonce, signature)
        token = secrets.token_hex(8)
        self.tokens[token] = node_id
        self.proofs += 1
        self._note()
        return NodeToken(text=token, expires_in_s=self.token_ttl_s)

    async def verify(self, token: str, peer: str) -> Principal:
        if token not in self.tokens:
            raise InvalidToken("unknown token")
        return Principal(
            account="alice",
            role="provider",
            kind="node",
            node_id=self.tokens[token],
            token_id=token,
            expires_at=time.time() + self.token_ttl_s,
        )

    async def connect(
        self, node_id: str, batches: AsyncIterator[tuple[WorkerItem, ...]]
    ) -> AsyncGenerator[tuple[MasterItem, ...], None]:
        if not self.takes_connections:
            raise unavailable("come back later")
        first = await anext(batches)
        assert isinstance(first[0], Hello)
        hello = first[0]
        send, receive = trio.open_memory_channel[tuple[MasterItem, ...]](1000)
        self.hellos.append(hello)
        session = Session(len(self.hellos), hello, send, trio.CancelScope())
        yield (self._welcome(hello),)
        self.sessions.append(session)
        self._note()
        assert self.nursery is not None
        gone = trio.Event()
        self.nursery.start_soon(self._listen, session, batches, gone)
        try:
            async for items in receive:
                yield items
        finally:
            session.scope.cancel()
            with trio.move_on_after(PATIENCE_S, shield=True):
                await gone.wait()
            self.sessions.remove(session)
            self._note()

    async def _listen(
        self,
        session: Session,
        batches: AsyncIterator[tuple[WorkerItem, ...]],
        gone: trio.Event,
    ) -> None:
        try:
            with session.scope:
                async for items in batches:
                    for item in items:
                        await self._take(item, session)
                    self._note()
                    await self.reading_allowed.wait()
        except RpcError:
            pass
        finally:
            session.orders.close()
            gone.set()

    def _welcome(self, hello: Hello) -> Welcome:
        return Welcome(
            lease_s=self.lease_s,
            heartbeat_s=self.heartbeat_s,
            held=tuple(
                OutputHeld(ref, self.of(ref).size) for ref in hello.held if ref not in self.unwanted
            ),
            unwanted=tuple(ref for ref in hello.held if ref in self.unwanted),
        )

    async def _take(self, item: WorkerItem, session: Session) -> None:
        match item:
            case Vitals():
                self.vitals.append(item)
                if self.renews:
                    session.send(Renewed())
            case StartedReport():
                assert item.seq == 1
                self.of(item.ref).started += 1
            case OutputReport():
                self._take_output(item)
            case RefusedReport():
                self.of(item.ref).refusal = item
            case FinishedReport():
                if item.result is not None:
                    self.of(item.ref).result = item.result
                    assert len(item.result) <= INLINE_BYTES
                self._finish(item)
                if self.acknowledges:
                    session.send(Acknowledged(item.ref, item.seq))
            case DrainNotice():
                self.drained += 1
            case _:
                self.faults.append(f"unexpected {item}")

    def _take_output(self, item: OutputReport) -> None:
        chunk = item.output.chunk
        seen = self.of(AttemptRef(item.task_id, item.output.attempt))
        if chunk.offset > seen.size:
            self.faults.append(f"gap: {chunk.offset} after {seen.size}")
            return
        data = chunk.data[seen.size - chunk.offset :]
        seen.output[chunk.stream] += data
        seen.size += len(data)

    def _finish(self, report: FinishedReport) -> None:
        seen = self.of(report.ref)
        if report.output_bytes != seen.size:
            self.faults.append(f"{report.output_bytes} bytes announced, {seen.size} came")
        seen.endings.append(report.ending)
        self._note()

    async def fetch_payload(
        self, node_id: str, ref: AttemptRef, *, stdin: bool
    ) -> AsyncGenerator[bytes, None]:
        data = self.blobs.get((ref, stdin))
        if data is None:
            raise denied("no such attempt is this node's")
        self.fetches += 1
        self._note()
        await self.fetches_wait.wait()
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    async def finish_with_result(
        self, node_id: str, report: FinishedReport, result: AsyncIterator[bytes]
    ) -> None:
        seen = self.of(report.ref)
        seen.result_bytes = 0
        kept = bytearray()
        async for piece in result:
            seen.result_bytes += len(piece)
            if seen.result_bytes > self.most_result_bytes:
                raise invalid(f"the upload is over the limit of {self.most_result_bytes} bytes")
            if self.keeps_result_bytes:
                kept += piece
        if self.broken_deliveries:
            self.broken_deliveries -= 1
            raise unavailable("the test breaks this delivery")
        with trio.fail_after(PATIENCE_S):
            await self.until(lambda: seen.size >= report.output_bytes)
        seen.result = bytes(kept)
        self._finish(report)

    def _note(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


@asynccontextmanager
async def open_recording_master(port: int = 0) -> AsyncIterator[RecordingMaster]:
    """A master on loopback; at the end it must have nothing to complain of."""
    master = RecordingMaster()
    async with trio.open_nursery() as nursery:
        master.nursery = nursery
        await master.open(port)
        yield master
        nursery.cancel_scope.cancel()
    assert master.faults == []
