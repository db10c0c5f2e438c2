"""Connections to the one master that this worker serves."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from hivemind.rpc.channel import open_channel
from hivemind.rpc.config import TransportConfig
from hivemind.rpc.contract.link import LinkClient
from hivemind.settings.daemon import format_address
from hivemind.worker.errors import WorkerError


class NoSuchHost(WorkerError):
    """The master's address cannot be resolved."""


class NotTrusted(WorkerError):
    """The master could not be known by its certificate, or it has none."""


@attrs.define(kw_only=True)
class Dial:
    """Where the master is, and how to speak to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    """None: plain HTTP/2. Connections to come use what it is then."""
    tls_name: str | None = None
    """The name that the master's certificate is for, where that is not ``host``."""
    allow_plaintext: bool = False
    """Whether a master on another machine may be spoken to without TLS."""
    transport: TransportConfig = attrs.field(factory=TransportConfig)

    @property
    def address(self) -> str:
        """As people write it."""
        return format_address(self.host, self.port)

    async def check_name(self) -> None:
        """Raises NoSuchHost where the master's name means nothing to this machine."""
        try:
            await trio.socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NoSuchHost(
                f"no address is known for the master {self.host!r} ({error.strerror}): "
                "check --master"
            ) from error

    @asynccontextmanager
    async def open(self, token: str | None = None) -> AsyncIterator[LinkClient]:
        """A connection of its own, whose calls carry the token. Raises the RpcError family.

        Large transfers each take one, so that none of them delays a heartbeat.
        """
        metadata = {"authorization": f"Bearer {token}"} if token is not None else {}
        async with open_channel(
            self.host,
            self.port,
            tls=self.tls,
            server_name=self.tls_name,
            config=self.transport,
            metadata=metadata,
            allow_plaintext=self.allow_plaintext,
        ) as channel:
            yield LinkClient(channel)
