"""The pool's machines, as people see them."""

from collections.abc import Callable

from hivemind.core.messages import NodeList, NodeView
from hivemind.core.records import Node, Role
from hivemind.master import commands
from hivemind.master.links import Links
from hivemind.master.naming import find_node
from hivemind.master.presence import Presence
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.errors import ErrorCode

_MOST = 200


class Nodes:
    """See ``rpc.contract.nodes.NodeHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        links: Links,
        presence: Presence,
        *,
        on_forgotten: Callable[[str], None],
    ) -> None:
        """``on_forgotten`` is called with the id of a node that is of the pool no more."""
        self._reactor = reactor
        self._links = links
        self._presence = presence
        self._on_forgotten = on_forgotten

    async def list_nodes(self, caller: Principal, cursor: str, limit: int) -> NodeList:
        """A page of nodes, by id; everybody may see what the pool is made of."""
        nodes = self._reactor.cluster.nodes
        ids = sorted(node_id for node_id in nodes if node_id > cursor)
        page = ids[: min(limit, _MOST)]
        return NodeList(
            nodes=tuple(self._view(nodes[node_id]) for node_id in page),
            next_cursor=page[-1] if len(ids) > len(page) else "",
        )

    async def drain(self, caller: Principal, node: str) -> NodeView:
        """Give the node nothing more, until it is resumed. Raises CallRefused."""
        return await self._set_drained(caller, node, is_drained=True)

    async def resume(self, caller: Principal, node: str) -> NodeView:
        """Give the node work again. Raises CallRefused."""
        return await self._set_drained(caller, node, is_drained=False)

    async def _set_drained(self, caller: Principal, node: str, *, is_drained: bool) -> NodeView:
        known = self._find(caller, node)
        await self._reactor.perform(
            lambda turn: commands.drain(turn, known.id, is_drained=is_drained)
        )
        return self._view(self._reactor.cluster.nodes[known.id])

    async def forget(self, caller: Principal, node: str) -> str:
        """Strike the node off the list; its id. Its worker must enrol anew. Raises CallRefused."""
        known = self._find(caller, node)
        await self._reactor.perform(lambda turn: commands.forget(turn, known.id))
        session = self._links.session(known.id)
        if session is not None:
            session.end(
                NamedFault(
                    ErrorCode.NODE_NOT_FOUND, f"node {known.id} was forgotten; enrol it anew"
                )
            )
        self._on_forgotten(known.id)
        return known.id

    def _find(self, caller: Principal, text: str) -> Node:
        """The node of this id, or the only one of this name, that the caller may steer.

        Raises CallRefused: there is none, there are several, or it is another account's.
        """
        is_admin = caller.role == Role.ADMIN
        return find_node(
            self._reactor.cluster.nodes,
            text,
            lambda node: is_admin or node.account == caller.account,
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
                draining=node.is_drained,
                last_seen_at=seen.at,
                hostname="" if said is None else said.hostname,
                sandbox="" if said is None else said.docker_status,
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
            trust=state.effective_trust,
            last_seen_at=seen.at,
            hostname=capabilities.hostname,
            version=capabilities.version,
            port=0 if said is None else said.port,
            unconfirmed=node.unconfirmed,
            address=capabilities.address,
        )
