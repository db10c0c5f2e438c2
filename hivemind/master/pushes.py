"""The nodes that are pushed to, each with tasks of its own; ``links`` has those that dial."""

from collections.abc import Sequence

import trio

from hivemind.core.events import Effect, KillAttempt, Release, SendAssign, SendStop
from hivemind.core.messages import AttemptRef
from hivemind.master.push_tools import PushTools
from hivemind.master.pushed_node import PushedNode


class Pushes:
    """Hands what was committed to the nodes that are pushed to, and knows when each was heard."""

    def __init__(self, tools: PushTools) -> None:
        self._tools = tools
        self._nodes: dict[str, PushedNode] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all pushed nodes until cancelled."""
        async with trio.open_nursery() as nodes:
            self._nursery = nodes
            try:
                for node in tuple(self._tools.reactor.cluster.nodes.values()):
                    if node.registration is not None:
                        self.watch(node.id)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._nodes.clear()

    def watch(self, node_id: str) -> None:
        """The node was registered, or is known otherwise than before; may not wait."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.changed()
        elif self._nursery is not None:
            node = self._nodes[node_id] = PushedNode(node_id, self._tools)
            self._nursery.start_soon(self._run, node)

    def forgotten(self, node_id: str) -> None:
        """The node is of the pool no more: let go of it, if it was pushed to."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.changed()

    async def _run(self, node: PushedNode) -> None:
        try:
            await node.run()
        finally:
            if self._nodes.get(node.node_id) is node:
                del self._nodes[node.node_id]

    def node(self, node_id: str) -> PushedNode | None:
        """The node; None for one that is not pushed to."""
        return self._nodes.get(node_id)

    def heard(self, node_id: str, ref: AttemptRef | None = None) -> None:
        """The node showed itself, by a report on an attempt where one is named."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.heard(ref)

    def reload(self) -> None:
        """The cluster was read anew: every node is found again."""
        for node in self._nodes.values():
            node.changed()
        for known in self._tools.reactor.cluster.nodes.values():
            if known.registration is not None and known.id not in self._nodes:
                self.watch(known.id)

    def dispatch(self, effects: Sequence[Effect]) -> None:
        """Hand what was committed to the nodes it concerns; may not wait."""
        for effect in effects:
            if not isinstance(effect, SendAssign | SendStop | KillAttempt | Release):
                continue
            node = self._nodes.get(effect.node_id)
            if node is None:
                continue
            ref = AttemptRef(effect.task_id, effect.attempt)
            match effect:
                case SendAssign():
                    node.give(ref)
                case SendStop():
                    node.stop(ref, is_wanted=True)
                case KillAttempt():
                    node.stop(ref, is_wanted=False)
                case Release():
                    node.over(ref)
