"""The client's end: one connection to a server, and the calls made over it.

async with open_channel("127.0.0.1", 50051, metadata={"authorization": f"Bearer {token}"}) as ch:
    stub = bind(EchoStub, ch)
    with trio.fail_after(5):
        pong = await stub.unary(Ping())
    async with aclosing(stub.down(Ping())) as replies:
        async for pong in replies: ...
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from h2.errors import ErrorCodes
from multidict import MultiDict

from hivemind.rpc._client_call import ClientCall
from hivemind.rpc._grpclib import (
    CallChannel,
    Cardinality,
    Deadline,
    Headers,
    LinkProcessor,
    LinkStream,
    StreamTerminatedError,
    WireDeadline,
)
from hivemind.rpc._link import Link, certificate_alert, handshake
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.errors import (
    CertificateRefused,
    ConnectFailed,
    NoGrpc,
    OwnCertificateRefused,
    TlsFailed,
)
from hivemind.rpc.plaintext import check_peer


class Channel(CallChannel):
    """An open connection, to be given to generated stubs (through `stubs.bind`).

    A call raises RemoteError for an error that the server answered, Unreachable where the
    connection is lost or going away, DeadlineExceeded where the call's `timeout` passed. The
    deadline of the caller's own cancel scopes travels to the server with the call. There is no
    reconnecting: a channel whose `closed` is set is done.
    """

    def __init__(
        self,
        link: Link,
        host: str,
        port: int,
        *,
        scheme: str,
        config: TransportConfig,
        metadata: Mapping[str, str],
        nursery: trio.Nursery,
    ) -> None:
        super().__init__(host, port, scheme=scheme)
        self._link = link
        self._default_metadata = dict(metadata)
        self.config = config
        self.nursery = nursery
        """Owns the tasks that send the requests of calls which stream both ways."""
        self.senders: set[trio.CancelScope] = set()
        self.closed = trio.Event()

    @property
    def closed_because(self) -> str | None:
        """Why the connection ended; None while it is open."""
        return self._link.closed_because

    @property
    def connection_refusal(self) -> str | None:
        """Why no new call can be made: the connection is closed, or the server is going away."""
        return self._link.connection.refusal

    @property
    def processor(self) -> LinkProcessor:
        """Where grpclib's stream looks for the connection."""
        return self._link.processor

    async def __connect__(self) -> "Channel":  # type: ignore[override]
        """The open connection; grpclib's streams call this before each request."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._link.is_closed:
            raise StreamTerminatedError(self._link.closed_because)
        return self

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Mapping[str, str | bytes] | Collection[tuple[str, str | bytes]] | None = None,
    ) -> ClientCall[Any, Any]:
        """A call to be entered with `async with`; its own metadata wins over the channel's."""
        merged: MultiDict[str | bytes] = MultiDict(self._default_metadata)
        given: MultiDict[str | bytes] = MultiDict(metadata or ())
        for key in set(given):
            merged.popall(key, None)
        merged.extend(given)
        by_deadline_s = None if deadline is None else deadline.time_remaining()
        limits = [timeout, by_deadline_s, _scope_remaining_s()]
        limit_s = min((s for s in limits if s is not None), default=None)
        call: ClientCall[Any, Any] = ClientCall(
            self,
            name,
            merged,  # type: ignore[arg-type]
            cardinality,
            request_type,
            reply_type,
            codec=self.codec,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=None if limit_s is None else WireDeadline.from_timeout(limit_s),
        )
        if limit_s is not None:
            call.deadline_at = trio.current_time() + limit_s
        return call

    def close(self) -> None:
        """Close the connection; every call on it raises Unreachable."""
        self._link.close("the channel was closed")


class _NoCalls:
    """A server cannot call its client."""

    def accept(self, stream: LinkStream, headers: Headers, release: Callable[[], None]) -> None:
        stream.reset_nowait(ErrorCodes.REFUSED_STREAM)
        release()


def _scope_remaining_s() -> float | None:
    remaining_s = trio.current_effective_deadline() - trio.current_time()
    return None if remaining_s == float("inf") else max(0.0, remaining_s)


@asynccontextmanager
async def open_channel(
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    config: TransportConfig | None = None,
    metadata: Mapping[str, str] | None = None,
    allow_plaintext: bool = False,
    address: str | None = None,
) -> AsyncIterator[Channel]:
    """Connect to a gRPC server. Leaving the block closes the connection and ends its calls.

    `tls` verifies the server, by `server_name` where its certificate is for another name than
    `host`, and shows a certificate where it has one; `metadata` goes with every call, a token for
    instance. Without `tls`, only a server on this machine is spoken to, unless `allow_plaintext`.
    `address` is what `host` stands for, where that is known already: no other is connected to.

    Raises:
        ConnectFailed: nobody listens; TlsFailed and NoGrpc where somebody else does;
            PlaintextRefused where it would be another machine's.
    """
    config = config or TransportConfig()
    stream = await _connect(host, port, tls, server_name or host, config, address or host)
    if isinstance(stream, trio.SocketStream) and not allow_plaintext:
        try:
            check_peer(stream, f"{host}:{port}")
        except ConnectFailed:
            await trio.aclose_forcefully(stream)
            raise
    link = Link(
        stream, is_client=True, config=config, acceptor=_NoCalls(), peer_address=(host, port)
    )
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        channel = Channel(
            link,
            host,
            port,
            scheme="http" if tls is None else "https",
            config=config,
            metadata=metadata or {},
            nursery=nursery,
        )
        nursery.start_soon(_run_link, link, channel)
        try:
            await _await_ready(link, channel, host, port, config)
            yield channel
        except Exception as raised:
            error = raised
        finally:
            channel.close()
            for sender in list(channel.senders):
                sender.cancel()
    # Raised out here, so that it is not wrapped into the nursery's group.
    if error is not None:
        raise error


async def _run_link(link: Link, channel: Channel) -> None:
    try:
        await link.run()
    finally:
        channel.closed.set()


async def _connect(
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    server_name: str,
    config: TransportConfig,
    address: str,
) -> trio.abc.Stream:
    where = f"{host}:{port}"
    with trio.move_on_after(config.connect_s):
        try:
            socket_stream = await trio.open_tcp_stream(address, port)
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {where}: {_os_reason(error)}") from error
        if tls is None:
            return socket_stream
        stream = trio.SSLStream(
            socket_stream, tls, server_hostname=server_name, https_compatible=True
        )
        try:
            refusal = await handshake(stream, config.connect_s)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if refusal is None:
            return stream
        await trio.aclose_forcefully(stream)
        text = f"cannot connect to {where}: {refusal.reason}"
        if said := certificate_alert(refusal.reason):
            raise OwnCertificateRefused(f"{where} refuses this end's certificate: {said}", said)
        if refusal.certificate_fault:
            raise CertificateRefused(text, refusal.certificate_fault)
        raise TlsFailed(text, refusal.reason)
    raise ConnectFailed(f"cannot connect to {where}: no answer within {config.connect_s:g} s")


async def _await_ready(
    link: Link, channel: Channel, host: str, port: int, config: TransportConfig
) -> None:
    async with trio.open_nursery() as either:

        async def until(event: trio.Event) -> None:
            await event.wait()
            either.cancel_scope.cancel()

        either.cancel_scope.deadline = trio.current_time() + config.connect_s
        either.start_soon(until, link.ready)
        either.start_soon(until, channel.closed)
    if not link.ready.is_set():
        reason = link.closed_because or f"no answer within {config.connect_s:g} s"
        link.close(reason, flush=False)
        if said := certificate_alert(reason):
            raise OwnCertificateRefused(
                f"{host}:{port} refuses this end's certificate: {said}", said
            )
        raise NoGrpc(f"cannot connect to {host}:{port}: no gRPC server there ({reason})")


def _os_reason(error: OSError) -> str:
    # Trio wraps what each address of the host had to say into one error without a number.
    causes: Sequence[Exception] = getattr(error.__cause__, "exceptions", [error])
    cause = next((one for one in causes if isinstance(one, OSError)), error)
    if isinstance(cause, socket.gaierror):
        return cause.strerror or "the name has no address"
    return os.strerror(cause.errno) if cause.errno else str(error)
