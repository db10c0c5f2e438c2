"""Whether a node is here, for nodes of either kind."""

from collections.abc import Callable

import attrs
import trio

from hivemind.core.policy import PoolRules
from hivemind.core.records import Node
from hivemind.core.registration import Intent, Registration
from hivemind.master.links import Links
from hivemind.master.pushes import Pushes
from hivemind.master.reactor import Reactor


@attrs.frozen
class Seen:
    """How a node is."""

    status: str
    """``online``, ``late`` (it should have shown itself by now) or ``offline``."""
    at: float
    """When it last showed itself, in seconds since the epoch; 0 is never."""


class Presence:
    """What the master knows of nodes' comings and goings."""

    def __init__(
        self,
        reactor: Reactor,
        links: Links,
        pushes: Pushes,
        *,
        rules: Callable[[], PoolRules],
        clock: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._links = links
        self._pushes = pushes
        self._rules = rules
        self._clock = clock

    def of(self, node: Node) -> Seen:
        """How the node is now."""
        if node.registration is not None:
            return self._of_pushed(node, node.registration)
        session = self._links.session(node.id)
        if session is None:
            state = self._reactor.cluster.fleet.nodes.get(node.id)
            return Seen("offline" if state is None else "late", node.last_seen_at)
        quiet_s = trio.current_time() - session.heard_at
        state = self._reactor.cluster.fleet.nodes.get(node.id)
        is_prompt = quiet_s < 2 * self._rules().heartbeat_s + 1
        status = (
            "offline" if state is None else "online" if is_prompt and state.connected else "late"
        )
        return Seen(status, self._clock() - quiet_s)

    def _of_pushed(self, node: Node, said: Registration) -> Seen:
        pushed = self._pushes.node(node.id)
        if pushed is None or pushed.heard_at is None:
            return Seen("offline", node.last_seen_at)
        at = self._clock() - (trio.current_time() - pushed.heard_at)
        if said.intent is Intent.OFFLINE or not pushed.is_within_lease:
            return Seen("offline", at)
        return Seen("online" if pushed.is_prompt else "late", at)
