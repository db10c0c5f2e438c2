"""The pool's machines, as people see them."""

import time
from collections.abc import Callable

import trio

from hivemind.core.messages import NodeList, NodeView
from hivemind.core.policy import PoolRules
from hivemind.core.records import Node
from hivemind.master.links import Links
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import Principal

_MOST = 200


class Nodes:
    """See ``rpc.contract.nodes.NodeHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        links: Links,
        *,
        rules: Callable[[], PoolRules],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._links = links
        self._rules = rules
        self._clock = clock

    async def list_nodes(self, caller: Principal, cursor: str, limit: int) -> NodeList:
        """A page of nodes, by id; everybody may see what the pool is made of."""
        nodes = self._reactor.cluster.nodes
        ids = sorted(node_id for node_id in nodes if node_id > cursor)
        page = ids[: min(limit, _MOST)]
        return NodeList(
            nodes=tuple(self._view(nodes[node_id]) for node_id in page),
            next_cursor=page[-1] if len(ids) > len(page) else "",
        )

    def _view(self, node: Node) -> NodeView:
        session = self._links.session(node.id)
        state = self._reactor.cluster.fleet.nodes.get(node.id)
        quiet_s = trio.current_time() - session.heard_at if session is not None else None
        if state is None:
            return NodeView(
                id=node.id,
                account=node.account,
                name=node.name,
                status="offline",
                trust=node.trust,
                last_seen_at=node.last_seen_at,
            )
        is_prompt = quiet_s is not None and quiet_s < 2 * self._rules().heartbeat_s + 1
        capabilities = state.capabilities
        return NodeView(
            id=node.id,
            account=node.account,
            name=node.name,
            status="online" if is_prompt and state.connected else "late",
            draining=state.draining,
            capacity=state.capacity,
            vitals=session.vitals if session is not None else None,
            running=state.running,
            cpu_millis_reserved=state.reserved.cpu_millis,
            memory_bytes_reserved=state.reserved.memory_bytes,
            limits=capabilities.limits,
            sandbox=capabilities.sandbox,
            trust=state.effective_trust,
            last_seen_at=node.last_seen_at if quiet_s is None else self._clock() - quiet_s,
            hostname=capabilities.hostname,
            version=capabilities.version,
        )
