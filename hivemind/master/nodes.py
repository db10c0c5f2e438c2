"""The pool's machines, as people see them."""

from hivemind.core.messages import NodeList, NodeView
from hivemind.core.records import Node
from hivemind.master.links import Links
from hivemind.master.presence import Presence
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import Principal

_MOST = 200


class Nodes:
    """See ``rpc.contract.nodes.NodeHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        links: Links,
        presence: Presence,
    ) -> None:
        self._reactor = reactor
        self._links = links
        self._presence = presence

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
        seen, said = self._presence.of(node), node.registration
        if state is None:
            return NodeView(
                id=node.id,
                account=node.account,
                name=node.name,
                status=seen.status,
                trust=node.trust,
                last_seen_at=seen.at,
                hostname="" if said is None else said.hostname,
                port=0 if said is None else said.port,
                unconfirmed=node.unconfirmed,
            )
        capabilities = state.capabilities
        return NodeView(
            id=node.id,
            account=node.account,
            name=node.name,
            status=seen.status,
            draining=state.draining,
            capacity=state.capacity,
            vitals=session.vitals if session is not None else None,
            running=state.running,
            cpu_millis_reserved=state.reserved.cpu_millis,
            memory_bytes_reserved=state.reserved.memory_bytes,
            limits=capabilities.limits,
            sandbox=capabilities.sandbox,
            trust=node.trust,
            last_seen_at=seen.at,
            hostname=capabilities.hostname,
            version=capabilities.version,
            port=0 if said is None else said.port,
            unconfirmed=node.unconfirmed,
        )
