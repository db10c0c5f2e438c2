"""How nodes that are pushed to are reached: in plain text on this machine, encrypted beyond it, and
nowhere that their accounts have no business to have the master call.
"""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import attrs

from hivemind.core.registration import can_be_a_node
from hivemind.master.push_lookups import Lookups
from hivemind.rpc.contract.push import PushClient, open_push_client
from hivemind.rpc.errors import ConnectFailed
from hivemind.rpc.plaintext import PlaintextRefused, leads_here

_MOST_TRIED = 4
"""Addresses of one name; each may take the whole time for a connection."""


class AddressRefused(ConnectFailed):
    """The hostname stands for addresses alone that this master calls for nobody."""


@attrs.frozen(kw_only=True)
class PushDial:
    """The master's way to nodes."""

    tls: Callable[[], ssl.SSLContext | None]
    """By what authority to know nodes on other machines; None where the master knows none."""
    allow_plaintext: bool
    """Nodes on other machines may be spoken to without, where there is no authority."""
    may_be_local: Callable[[], bool]
    """Whether nodes may be on the master's own machine. What listens there may believe whoever is
    there, too.
    """
    lookups: Lookups = attrs.field(factory=Lookups)

    @asynccontextmanager
    async def connect(self, host: str, port: int, owner: str) -> AsyncIterator[PushClient]:
        """A connection to a node of that account's.

        Raises ConnectFailed; PlaintextRefused where the node is on another machine and there is
        neither an authority to know it by, nor leave to do without; AddressRefused, before anything
        is sent to it, where it is nowhere that a node may be.
        """
        addresses = await self._addresses(host, port, owner)
        async with AsyncExitStack() as stack:
            yield await self._first(stack, host, port, addresses)

    async def _addresses(self, host: str, port: int, owner: str) -> Sequence[str]:
        """Where it may be called: asked for once, so that what is called is what was judged."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            found = await self.lookups.addresses(host, port, owner=owner)
        else:
            found = (host,)
        allowed = [address for address in found if self._is_allowed(address)]
        if found and not allowed:
            raise AddressRefused(
                f"{host} is no address of a node: it is the master's own machine, or no machine's"
            )
        return allowed[:_MOST_TRIED]

    def _is_allowed(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return can_be_a_node(parsed) and (self.may_be_local() or not leads_here(address))

    async def _first(
        self, stack: AsyncExitStack, host: str, port: int, addresses: Sequence[str]
    ) -> PushClient:
        """A connection to the first address that takes one."""
        failure = ConnectFailed(f"cannot connect to {host}:{port}: the name has no address")
        for address in addresses:
            try:
                return await self._open(stack, host, port, address)
            except ConnectFailed as error:
                failure = error
        raise failure

    async def _open(self, stack: AsyncExitStack, host: str, port: int, address: str) -> PushClient:
        tls = self.tls()
        may_be_plain = self.allow_plaintext and tls is None
        try:
            return await stack.enter_async_context(
                open_push_client(host, port, allow_plaintext=may_be_plain, address=address)
            )
        except PlaintextRefused:
            if tls is None:
                raise
        return await stack.enter_async_context(
            open_push_client(host, port, tls=tls, address=address)
        )
