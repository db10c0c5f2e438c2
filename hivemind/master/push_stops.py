"""What a pushed node must stop, until it has answered for it."""

from collections import OrderedDict

import trio

from hivemind.core.messages import AttemptRef
from hivemind.core.pushing import push_id
from hivemind.core.records import Node
from hivemind.master.push_tools import NodeCalls, PushTools
from hivemind.rpc.contract.push import is_refusal
from hivemind.rpc.errors import RemoteError, RpcError

CALL_S = 10.0
MOST = 5000
"""What a node may have to be told to stop; of more the oldest are let go."""


class PushStops:
    """One node's. What it does not answer it is told again when it is there again."""

    def __init__(self, tools: PushTools) -> None:
        self._tools = tools
        self._wanted: OrderedDict[AttemptRef, None] = OrderedDict()
        self._asking: set[AttemptRef] = set()
        self._told: OrderedDict[AttemptRef, None] = OrderedDict()
        """What it answered for lately."""

    def __contains__(self, ref: object) -> bool:
        return ref in self._wanted or ref in self._asking

    def was_told(self, ref: AttemptRef) -> bool:
        """Whether the node has answered for it."""
        return ref in self._told

    def add(self, ref: AttemptRef) -> None:
        """The node must stop the attempt."""
        self._wanted[ref] = None
        _bound(self._wanted)

    def send(self, node: Node, calls: NodeCalls, work: trio.Nursery) -> None:
        """Tell the node everything that it is not being told."""
        for ref in [ref for ref in self._wanted if ref not in self._asking]:
            self._asking.add(ref)
            work.start_soon(self._send, ref, node, calls)

    async def _send(self, ref: AttemptRef, node: Node, calls: NodeCalls) -> None:
        try:
            with trio.move_on_after(CALL_S):
                try:
                    await calls.stop(push_id(ref), token=self._tools.token_for(node))
                except RemoteError as error:
                    if not is_refusal(error):
                        return
                except RpcError:
                    return
                self._wanted.pop(ref, None)
                self._told[ref] = None
                _bound(self._told)
        finally:
            self._asking.discard(ref)


def _bound(held: OrderedDict[AttemptRef, None]) -> None:
    while len(held) > MOST:
        held.popitem(last=False)
