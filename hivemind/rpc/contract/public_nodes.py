"""NodeManagerService of the public API."""

from typing import Protocol

import trio

from hivemind._pb import nodepool
from hivemind.core.messages import NodeInfo
from hivemind.core.registration import Registration
from hivemind.core.reports import Answer, StatusSaid
from hivemind.rpc.auth import Principal, current_principal
from hivemind.rpc.context import note_error_code
from hivemind.rpc.contract.callers import current_account
from hivemind.rpc.contract.faults import NamedFault
from hivemind.rpc.errors import ErrorCode
from hivemind.rpc.reply import hold_reply

_ENCODED_AT_ONCE = 50
"""Each costs some 35 microseconds, in which nobody else is served."""

_NODE_BYTES = 1024
"""What one takes as a record, as a message and encoded, with names as long as they may be."""


class PublicNodeHandlers(Protocol):
    """What the master does for NodeManagerService."""

    async def register(self, caller: Principal, node_id: str, said: Registration) -> str:
        """Take a node in, or note what changed of it; words for its owner."""
        ...

    async def report_status(self, caller: Principal, said: StatusSaid) -> Answer:
        """The node shows itself."""
        ...

    async def health(self, text: str) -> tuple[str, str]:
        """How a node is, and a line that says more."""
        ...

    async def list_nodes(self) -> tuple[NodeInfo, ...]:
        """Every node, by id."""
        ...


class _EncodedList(nodepool.GetNodeListResponse):
    """A list whose nodes were encoded one by one, so that a long one holds up nobody."""

    encoded: bytes = b""

    def SerializeToString(self) -> bytes:
        return self.encoded


class _NodeManagerService(nodepool.NodeManagerServiceBase):
    def __init__(self, handlers: PublicNodeHandlers) -> None:
        self._handlers = handlers

    async def register_worker_node(
        self, message: nodepool.RegisterWorkerNodeRequest
    ) -> nodepool.StatusResponse:
        # What it says of its trust and of its last heartbeat is the pool's to know.
        said = Registration(
            hostname=message.hostname,
            port=message.port,
            cpu_cores=message.cpu_cores,
            memory_gb=message.memory_gb,
            cpu_score=message.cpu_score,
            gpu_score=message.gpu_score,
            gpu_memory_gb=message.gpu_memory_gb,
            gpu_name=message.gpu_name,
            location=message.location,
            docker_status=message.docker_status,
        )
        try:
            words = await self._handlers.register(current_account(), message.node_id, said)
        except NamedFault as fault:
            return nodepool.StatusResponse(success=False, message=fault.told())
        return nodepool.StatusResponse(success=True, message=words)

    async def health_check(
        self, message: nodepool.HealthCheckRequest
    ) -> nodepool.HealthCheckResponse:
        status, words = await self._handlers.health(message.node_id)
        if status == "unknown":
            note_error_code(ErrorCode.NODE_NOT_FOUND)
        return nodepool.HealthCheckResponse(status=status, message=words)

    async def report_status(self, message: nodepool.ReportStatusRequest) -> nodepool.StatusResponse:
        said = StatusSaid(node_id=message.node_id, status=message.status)
        try:
            answer = await self._handlers.report_status(current_principal(), said)
        except NamedFault as fault:
            return nodepool.StatusResponse(success=False, message=fault.told())
        return nodepool.StatusResponse(success=answer.success, message=answer.message)

    async def get_node_list(
        self, message: nodepool.GetNodeListRequest
    ) -> nodepool.GetNodeListResponse:
        current_account()
        pieces: list[bytes] = []
        infos = await self._handlers.list_nodes()
        await hold_reply(_NODE_BYTES * len(infos))
        for count, info in enumerate(infos):
            if count % _ENCODED_AT_ONCE == _ENCODED_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            pieces.append(bytes(nodepool.GetNodeListResponse(nodes=[_info_to_wire(info)])))
        reply = _EncodedList()
        # One list after the other is one list of all: repeated fields add up.
        reply.encoded = b"".join(pieces)
        return reply


def _info_to_wire(info: NodeInfo) -> nodepool.WorkerNodeInfo:
    said = info.said
    return nodepool.WorkerNodeInfo(
        node_id=info.node_id,
        hostname=said.hostname,
        cpu_cores=said.cpu_cores,
        memory_gb=said.memory_gb,
        cpu_score=said.cpu_score,
        gpu_score=said.gpu_score,
        gpu_memory_gb=said.gpu_memory_gb,
        location=said.location,
        port=said.port,
        gpu_name=said.gpu_name,
        trust_level=info.trust,
        last_heartbeat=info.last_seen_at,
        docker_status=said.docker_status,
    )


def serve_public_nodes(handlers: PublicNodeHandlers) -> nodepool.NodeManagerServiceBase:
    """The service to hand to ``rpc.server``."""
    return _NodeManagerService(handlers)
