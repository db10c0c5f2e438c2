"""How nodes that are pushed to are reached: in plain text on this machine, encrypted beyond it."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from hivemind.rpc.contract.push import PushClient, open_push_client
from hivemind.rpc.plaintext import PlaintextRefused


@attrs.frozen(kw_only=True)
class PushDial:
    """The master's way to nodes."""

    tls: Callable[[], ssl.SSLContext | None]
    """By what authority to know nodes on other machines; None where the master knows none."""
    allow_plaintext: bool
    """Nodes on other machines may be spoken to without, where there is no authority."""

    @asynccontextmanager
    async def connect(self, host: str, port: int) -> AsyncIterator[PushClient]:
        """A connection to a node.

        Raises ConnectFailed; PlaintextRefused where the node is on another machine and there is
        neither an authority to know it by, nor leave to do without.
        """
        tls = self.tls()
        may_be_plain = self.allow_plaintext and tls is None
        try:
            async with open_push_client(host, port, allow_plaintext=may_be_plain) as client:
                yield client
                return
        except PlaintextRefused:
            if tls is None:
                raise
        async with open_push_client(host, port, tls=tls) as client:
            yield client
