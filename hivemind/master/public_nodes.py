"""The public API's view of the pool's machines: registering them, and how each is."""

from collections.abc import Callable

import trio

from hivemind.core.errors import CoreError
from hivemind.core.messages import NodeInfo
from hivemind.core.records import Capabilities, Node
from hivemind.core.registration import (
    Intent,
    Registration,
    check_node_id,
    check_registration,
    is_at_loopback,
)
from hivemind.core.reports import Answer, StatusSaid
from hivemind.core.sizes import format_duration
from hivemind.core.wording import one_line
from hivemind.master import push_commands
from hivemind.master.presence import Presence
from hivemind.master.pushes import Pushes
from hivemind.master.reactor import Reactor
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import NamedFault, denied, invalid
from hivemind.rpc.errors import ErrorCode
from hivemind.rpc.plaintext import is_loopback
from hivemind.rpc.tokens import MASTER_AUDIENCE
from hivemind.settings.daemon import BadAddress, format_address, parse_address

_GIB = 1024**3
_AT_ONCE = 100
_INTENTS = {
    "online": Intent.SERVING,
    "draining": Intent.DRAINING,
    "offline": Intent.OFFLINE,
}
_HEARTBEATS = frozenset({"online", "busy", "idle"})


class PublicNodes:
    """See ``rpc.contract.public_nodes.PublicNodeHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        pushes: Pushes,
        presence: Presence,
        *,
        clock: Callable[[], float],
        may_be_local: Callable[[], bool],
    ) -> None:
        """``may_be_local``: whether nodes may be on the master's own machine."""
        self._reactor = reactor
        self._pushes = pushes
        self._presence = presence
        self._clock = clock
        self._may_be_local = may_be_local

    async def register(self, caller: Principal, node_id: str, said: Registration) -> str:
        """Take a node in that is pushed to, or note what changed of it; words for its owner.

        Its trust, and what runs there, stay. It is on disk when this returns. Raises CallRefused.
        """
        try:
            check_node_id(node_id)
            check_registration(said)
        except CoreError as error:
            raise invalid(str(error)) from error
        if node_id == MASTER_AUDIENCE:
            raise invalid(f"a node cannot be called {MASTER_AUDIENCE}; choose another id")
        if is_at_loopback(said) and not self._may_be_local():
            raise invalid(
                f"{one_line(said.hostname)!a} cannot be a hostname: to this master it is its own"
                " machine; give the name or address by which the master reaches the node"
            )
        known = self._reactor.cluster.nodes.get(node_id)
        is_new = known is None
        if known is None or known.account != caller.account or known.registration != said:
            known = await self._reactor.perform(
                lambda turn: push_commands.register(turn, node_id, caller.account, said)
            )
            self._pushes.watch(node_id)
        self._pushes.heard(node_id)
        done = "registered" if is_new else "registered again"
        words = f"node {node_id} {done}; the pool trusts it {known.trust} of 100"
        if self._is_reached(known):
            return words
        where = format_address(*said.address)
        return f"{words} and gives it tasks once the master reaches it at {where}"

    async def report_status(self, caller: Principal, said: StatusSaid) -> Answer:
        """The node shows itself, and says whether it takes more. Raises CallRefused."""
        node = self._reactor.cluster.nodes.get(said.node_id)
        if node is None:
            raise NamedFault(
                ErrorCode.NODE_NOT_FOUND,
                f"no node {one_line(said.node_id[:80])!a}; register it first",
            )
        is_own = node.account == caller.account
        if not is_own or (caller.kind == "node" and caller.node_id != said.node_id):
            raise denied(
                f"no node {one_line(said.node_id[:80])!a} of yours", ErrorCode.NODE_NOT_FOUND
            )
        intent = _INTENTS.get(said.status)
        before = None if node.registration is None else node.registration.intent
        if before is None:
            # It dials the master: its link shows whether it is there, and it may drain.
            if intent in {Intent.SERVING, Intent.DRAINING}:
                await self._set_intent(said.node_id, intent)
            elif intent is Intent.OFFLINE:
                raise invalid(f"node {said.node_id} keeps a link; stop it to have it offline")
            return Answer(message="noted")
        if intent is None and before is Intent.OFFLINE:
            intent = Intent.SERVING
        if intent is not None and intent is not before:
            await self._set_intent(said.node_id, intent)
            self._pushes.watch(said.node_id)
        self._pushes.heard(said.node_id)
        if said.status in _INTENTS or said.status in _HEARTBEATS:
            return Answer(message="noted")
        return Answer(
            message="noted as a heartbeat; online, busy, idle, draining and offline say more"
        )

    async def _set_intent(self, node_id: str, intent: Intent | None) -> None:
        if intent is not None:
            await self._reactor.perform(
                lambda turn: push_commands.set_intent(turn, node_id, intent)
            )

    async def health(self, text: str) -> tuple[str, str]:
        """How the node is, by its id or by a name that no other has, and a line that says more."""
        await trio.lowlevel.checkpoint()
        nodes = self._reactor.cluster.nodes
        node = nodes.get(text)
        if node is None:
            named = [one for one in nodes.values() if one.name == text]
            node = named[0] if len(named) == 1 else None
            if len(named) > 1:
                return "unknown", f"{len(named)} nodes have this name; ask for one by its id"
        if node is None:
            return "unknown", f"{ErrorCode.NODE_NOT_FOUND.name}: no such node"
        seen = self._presence.of(node)
        if not seen.at:
            return seen.status, "it was never heard"
        ago = format_duration(max(0.0, round(self._clock() - seen.at, 1)))
        return seen.status, f"heard {ago} ago{self._hindrance(node)}"

    def _hindrance(self, node: Node) -> str:
        """Why a node that is heard of is given nothing."""
        intent = None if node.registration is None else node.registration.intent
        if intent is Intent.OFFLINE:
            return "; it said that it is offline"
        if not self._is_reached(node):
            return "; the master has not reached it"
        if node.is_drained or intent is Intent.DRAINING:
            return "; it is draining, and given nothing more"
        return ""

    def _is_reached(self, node: Node) -> bool:
        """Whether it can be given tasks where it must be called for that."""
        if node.registration is None or node.registration.intent is Intent.OFFLINE:
            return True
        state = self._reactor.cluster.fleet.nodes.get(node.id)
        return state is not None and state.connected

    async def list_nodes(self) -> tuple[NodeInfo, ...]:
        """Every node, by id."""
        infos: list[NodeInfo] = []
        for count, node_id in enumerate(sorted(self._reactor.cluster.nodes)):
            if count % _AT_ONCE == _AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            node = self._reactor.cluster.nodes.get(node_id)
            if node is not None:
                infos.append(self._info(node))
        return tuple(infos)

    def _trust_of(self, node: Node) -> int:
        """As far as it counts: one without a whole sandbox is trusted little."""
        state = self._reactor.cluster.fleet.nodes.get(node.id)
        return node.trust if state is None else state.effective_trust

    def _info(self, node: Node) -> NodeInfo:
        seen, said = self._presence.of(node), node.registration
        if said is None:
            state = self._reactor.cluster.fleet.nodes.get(node.id)
            if state is None:
                said = Registration(hostname="", port=0, cpu_cores=0, memory_gb=0)
            else:
                capacity = state.capacity
                hostname, port = _where(state.capabilities)
                said = Registration(
                    hostname=hostname,
                    port=port,
                    cpu_cores=capacity.cpu_millis // 1000,
                    memory_gb=capacity.memory_bytes // _GIB,
                    gpu_memory_gb=capacity.gpu_memory_bytes // _GIB,
                    gpu_name=capacity.gpu_name,
                    location=capacity.location,
                    docker_status=state.capabilities.sandbox,
                )
        return NodeInfo(
            node_id=node.id, said=said, trust=self._trust_of(node), last_seen_at=seen.at
        )


def _where(worker: Capabilities) -> tuple[str, int]:
    """Where a worker that dials the master can be called itself; port 0 where it does not tell."""
    try:
        host, port = parse_address(worker.address)
    except BadAddress:
        return worker.hostname, 0
    # Loopback is another machine for whoever reads this elsewhere.
    return worker.hostname if is_loopback(host) else host, port
