"""What pushed nodes are tended with, and what a connection to one can do."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs
import trio

from hivemind.core.policy import PoolRules
from hivemind.core.records import Node
from hivemind.master.authority import Authority
from hivemind.master.reactor import Reactor
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.contract.push import PushReply
from hivemind.store.api import Store
from hivemind.store.blobs import BlobFolder

_TOKEN_S = 600.0


class NodeCalls(Protocol):
    """A connection to a node, as ``rpc.contract.push.PushClient`` has one."""

    @property
    def closed(self) -> trio.Event:
        """Set when the connection is over."""
        ...

    async def check(self) -> None:
        """Return if the node answers."""
        ...

    async def execute(
        self,
        task_id: str,
        size: int,
        pieces: AsyncIterator[bytes],
        *,
        token: str,
        on_sending: Callable[[], None],
        on_sent: Callable[[], None],
    ) -> PushReply:
        """Give the node a task."""
        ...

    async def stop(self, task_id: str, *, token: str) -> PushReply:
        """Ask the node to stop a task."""
        ...


@attrs.frozen(kw_only=True)
class PushTools:
    """What every pushed node works with."""

    reactor: Reactor
    store: Store
    blobs: BlobFolder
    authority: Authority
    rules: Callable[[], PoolRules]
    connections: ByteBudget = attrs.field(factory=lambda: ByteBudget(64, wait_s=1.0))
    """How many nodes may be connected to at once; each account has its share."""
    connect: Callable[[str, int, str], AbstractAsyncContextManager[NodeCalls]]
    """To a node's hostname and port, for its account. Raises the RpcError family."""

    def token_for(self, node: Node) -> str:
        """What the node is shown with a call."""
        return self.authority.push_token(node, _TOKEN_S)
