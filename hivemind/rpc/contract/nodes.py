"""The Nodes service of hivemind.v1."""

from typing import Protocol

from hivemind._pb.hivemind import v1
from hivemind.core.messages import NodeList, NodeView
from hivemind.core.records import Capacity, Vitals
from hivemind.rpc.auth import Principal
from hivemind.rpc.channel import Channel
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.reply import PAGE_BYTES, hold_reply
from hivemind.rpc.stubs import bind


class NodeHandlers(Protocol):
    """What the master does for the Nodes service."""

    async def list_nodes(self, caller: Principal, cursor: str, limit: int) -> NodeList:
        """A page of nodes, by id."""
        ...

    async def drain(self, caller: Principal, node: str) -> NodeView:
        """Give the node of this id or name nothing more."""
        ...

    async def resume(self, caller: Principal, node: str) -> NodeView:
        """Give it work again."""
        ...

    async def forget(self, caller: Principal, node: str) -> str:
        """Strike it off the pool's list; its id."""
        ...


def capacity_to_wire(capacity: Capacity) -> v1.Capacity:
    """Field by field."""
    return v1.Capacity(
        slots=capacity.slots,
        cpu_millis=capacity.cpu_millis,
        memory_bytes=capacity.memory_bytes,
        gpus=capacity.gpus,
        gpu_memory_bytes=capacity.gpu_memory_bytes,
        gpu_name=capacity.gpu_name,
        location=capacity.location,
    )


def capacity_from_wire(wire: v1.Capacity | None) -> Capacity:
    """Field by field; absent is nothing."""
    wire = wire or v1.Capacity()
    return Capacity(
        slots=wire.slots,
        cpu_millis=wire.cpu_millis,
        memory_bytes=wire.memory_bytes,
        gpus=wire.gpus,
        gpu_memory_bytes=wire.gpu_memory_bytes,
        gpu_name=wire.gpu_name,
        location=wire.location,
    )


def vitals_to_wire(vitals: Vitals) -> v1.Vitals:
    """Field by field."""
    return v1.Vitals(
        cpu_percent=vitals.cpu_percent,
        memory_used_bytes=vitals.memory_used_bytes,
        memory_total_bytes=vitals.memory_total_bytes,
        load_1m=vitals.load_1m,
        disk_free_bytes=vitals.disk_free_bytes,
        running=vitals.running,
        gpu_percent=vitals.gpu_percent,
        gpu_memory_used_bytes=vitals.gpu_memory_used_bytes,
    )


def vitals_from_wire(wire: v1.Vitals) -> Vitals:
    """Field by field."""
    return Vitals(
        cpu_percent=wire.cpu_percent,
        memory_used_bytes=wire.memory_used_bytes,
        memory_total_bytes=wire.memory_total_bytes,
        load_1m=wire.load_1m,
        disk_free_bytes=wire.disk_free_bytes,
        running=wire.running,
        gpu_percent=wire.gpu_percent,
        gpu_memory_used_bytes=wire.gpu_memory_used_bytes,
    )


def _node_to_wire(node: NodeView) -> v1.NodeView:
    return v1.NodeView(
        id=node.id,
        account=node.account,
        name=node.name,
        status=node.status,
        draining=node.draining,
        capacity=capacity_to_wire(node.capacity),
        vitals=None if node.vitals is None else vitals_to_wire(node.vitals),
        running=node.running,
        cpu_millis_reserved=node.cpu_millis_reserved,
        memory_bytes_reserved=node.memory_bytes_reserved,
        limits=node.limits,
        sandbox=node.sandbox,
        trust=node.trust,
        last_seen_at=node.last_seen_at,
        hostname=node.hostname,
        version=node.version,
        address=node.address,
        port=node.port,
        unconfirmed=node.unconfirmed,
    )


def _node_from_wire(wire: v1.NodeView) -> NodeView:
    return NodeView(
        id=wire.id,
        account=wire.account,
        name=wire.name,
        status=wire.status,
        draining=wire.draining,
        capacity=capacity_from_wire(wire.capacity),
        vitals=None if wire.vitals is None else vitals_from_wire(wire.vitals),
        running=wire.running,
        cpu_millis_reserved=wire.cpu_millis_reserved,
        memory_bytes_reserved=wire.memory_bytes_reserved,
        limits=wire.limits,
        sandbox=wire.sandbox,
        trust=wire.trust,
        last_seen_at=wire.last_seen_at,
        hostname=wire.hostname,
        version=wire.version,
        address=wire.address,
        port=wire.port,
        unconfirmed=wire.unconfirmed,
    )


class _NodesService(v1.NodesBase):
    def __init__(self, handlers: NodeHandlers) -> None:
        self._handlers = handlers

    async def list_nodes(self, message: v1.ListNodesRequest) -> v1.ListNodesResponse:
        await hold_reply(PAGE_BYTES)
        page = await self._handlers.list_nodes(
            current_account(), message.cursor, message.limit or 100
        )
        return v1.ListNodesResponse(
            nodes=[_node_to_wire(node) for node in page.nodes], next_cursor=page.next_cursor
        )

    async def drain_node(self, message: v1.DrainNodeRequest) -> v1.DrainNodeResponse:
        node = await self._handlers.drain(current_account(), message.node)
        return v1.DrainNodeResponse(node=_node_to_wire(node))

    async def resume_node(self, message: v1.ResumeNodeRequest) -> v1.ResumeNodeResponse:
        node = await self._handlers.resume(current_account(), message.node)
        return v1.ResumeNodeResponse(node=_node_to_wire(node))

    async def forget_node(self, message: v1.ForgetNodeRequest) -> v1.ForgetNodeResponse:
        node_id = await self._handlers.forget(current_account(), message.node)
        return v1.ForgetNodeResponse(node_id=node_id)


def serve_nodes(handlers: NodeHandlers) -> v1.NodesBase:
    """The service to hand to ``rpc.server``."""
    return _NodesService(handlers)


class NodesClient:
    """The Nodes service from the client's side."""

    def __init__(self, channel: Channel) -> None:
        self._stub = bind(v1.NodesStub, channel)

    async def list_nodes(self, cursor: str = "", limit: int = 100) -> NodeList:
        """One page of nodes. Raises the RpcError family."""
        reply = await self._stub.list_nodes(v1.ListNodesRequest(cursor=cursor, limit=limit))
        return NodeList(
            nodes=tuple(_node_from_wire(wire) for wire in reply.nodes),
            next_cursor=reply.next_cursor,
        )

    async def drain(self, node: str) -> NodeView:
        """Have the node of this id or name given nothing more. Raises the RpcError family."""
        reply = await self._stub.drain_node(v1.DrainNodeRequest(node=node))
        return _node_from_wire(reply.node or v1.NodeView())

    async def resume(self, node: str) -> NodeView:
        """Have it given work again. Raises the RpcError family."""
        reply = await self._stub.resume_node(v1.ResumeNodeRequest(node=node))
        return _node_from_wire(reply.node or v1.NodeView())

    async def forget(self, node: str) -> str:
        """Have it struck off the pool's list; its id. Raises the RpcError family."""
        reply = await self._stub.forget_node(v1.ForgetNodeRequest(node=node))
        return reply.node_id
