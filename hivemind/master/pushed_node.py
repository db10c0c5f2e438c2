"""One node that is pushed to: whether it is there, what it is given, what it must stop.

Each has tasks of its own, so one that hangs makes nobody wait. It is asked over and over whether it
is there. While the last question was not answered it is given nothing; when neither an answer nor a
report has come for the lease, what it has is lost. After its connection broke, an attempt must also
show by a report of its own, within the lease, that it is still there: the node may be another
process under the old address.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

import attrs
import structlog
import trio

from hivemind.core.messages import AttemptRef
from hivemind.core.pushing import push_id
from hivemind.core.records import Blob, Node, TaskState
from hivemind.core.registration import Intent, Registration
from hivemind.core.wording import one_line
from hivemind.master import push_commands
from hivemind.master.push_dial import AddressRefused
from hivemind.master.push_stops import PushStops
from hivemind.master.push_tools import NodeCalls, PushTools
from hivemind.master.turn import Turn
from hivemind.rpc.contract.push import PushReply, is_refusal
from hivemind.rpc.errors import CallRefused, RemoteError, RpcError
from hivemind.rpc.plaintext import PlaintextRefused
from hivemind.store.api import StoreError

MOST_LARGE = 4
"""How many tasks whose bytes are in files are sent to one node at once."""
RATE_BYTES_PER_S = 512 * 1024
"""Slower than this, after the time for an answer, a task is not waited for to be sent."""
_RETRY_S = 1.0
_LONGEST_PAUSE_S = 60.0
_MOST_WORDS = 500

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@attrs.define(eq=False)
class _Flight:
    """A task on its way to the node, until the node has answered."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    has_reported: bool = False
    is_large: bool = False
    """Its file is being read."""


@attrs.frozen
class _NoAnswer:
    """A push that was not answered, and why."""

    why: str


class PushedNode:
    """A node from its registration on; ``run`` owns all that concerns it."""

    def __init__(self, node_id: str, tools: PushTools) -> None:
        self.node_id = node_id
        self.heard_at: float | None = None
        """When the node last showed itself, by Trio's clock; None: not since the master began."""
        self._tools = tools
        self._lease_from = trio.current_time()
        self._is_lost = False
        self._is_known = False
        """What the cluster says that the node has was compared with what it is being given."""
        self._client: NodeCalls | None = None
        self._changed = trio.Event()
        self._flights: dict[AttemptRef, _Flight] = {}
        self._unanswered = 0
        """How many pushes in a row were not answered."""
        self._rests_until = 0.0
        """After one: when it may be given something again."""
        self._large = trio.CapacityLimiter(MOST_LARGE)
        self._stops = PushStops(tools)
        self._silent: dict[AttemptRef, float] = {}
        """Attempts whose connection broke, and until when they may stay silent."""
        self._warned = ""
        self._work: trio.Nursery | None = None

    # --- what others say: none of it waits ---

    def heard(self, ref: AttemptRef | None = None) -> None:
        """The node showed itself; by a report on an attempt, where one is named."""
        self.heard_at = self._lease_from = trio.current_time()
        if ref is None:
            return
        self._silent.pop(ref, None)
        flight = self._flights.get(ref)
        if flight is not None:
            # It has the task, and may take its time to say so.
            flight.has_reported = True
            flight.scope.deadline = float("inf")

    def changed(self) -> None:
        """What is known of the node has changed: its address, or what it wants."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def give(self, ref: AttemptRef) -> None:
        """Push the attempt."""
        if self._work is not None and ref not in self._flights:
            flight = self._flights[ref] = _Flight()
            self._work.start_soon(self._push, ref, flight)

    def stop(self, ref: AttemptRef, *, is_wanted: bool) -> None:
        """Have the attempt stopped. ``is_wanted``: a word on its end is waited for, for a while."""
        if self._work is None:
            return
        if is_wanted and ref not in self._stops:
            self._work.start_soon(self._await_stop, ref)
        self._stops.add(ref)
        self._send_stops()

    def stop_again(self, ref: AttemptRef) -> None:
        """The node reports on an attempt that is over: tell it, unless it was told and answered."""
        if not self._stops.was_told(ref):
            self.stop(ref, is_wanted=False)

    def over(self, ref: AttemptRef) -> None:
        """The attempt is over: an answer to its push is of no more use."""
        self._silent.pop(ref, None)
        flight = self._flights.get(ref)
        if flight is not None:
            flight.scope.deadline = trio.current_time() + self._tools.rules().push_accept_s

    @property
    def is_prompt(self) -> bool:
        """Whether it showed itself when it should have."""
        rules = self._tools.rules()
        return self._quiet_s < 2 * rules.push_probe_s + 1

    @property
    def is_within_lease(self) -> bool:
        """Whether it showed itself lately enough to keep what it has."""
        return self._quiet_s < self._tools.rules().push_lease_s

    @property
    def _quiet_s(self) -> float:
        return float("inf") if self.heard_at is None else trio.current_time() - self.heard_at

    # --- whether it is there ---

    async def run(self) -> None:
        """Tend the node until it is forgotten, or cancelled.

        A supervision point: whatever goes wrong with one node is that node's alone.
        """
        async with trio.open_nursery() as work:
            self._work = work
            try:
                while (node := self._node()) is not None:
                    try:
                        await self._tend(node)
                    except Exception:
                        log.exception("pushed_node_failed", node_id=self.node_id)
                        await trio.sleep(_RETRY_S)
            finally:
                self._work = None
            work.cancel_scope.cancel()

    async def _tend(self, node: Node) -> None:
        """Be connected to the node for as long as it answers there, again and again."""
        failures = 0
        while (current := self._node()) is not None and current.registration is not None:
            said, changed, begun_at = current.registration, self._changed, trio.current_time()
            if said.intent is not Intent.OFFLINE:
                failures = 0 if await self._visit(current.account, said) else failures + 1
            await self._set_away()
            await self._mind_leases()
            pause_s = min(
                _LONGEST_PAUSE_S, self._tools.rules().push_probe_s * 2 ** min(failures, 6)
            )
            with trio.move_on_after(min(pause_s, self._until_lease_end_s())):
                await changed.wait()
            # Else whoever registers one address after the other would have them all called at once.
            await trio.sleep_until(begun_at + _RETRY_S)

    async def _visit(self, owner: str, said: Registration) -> bool:
        """One connection, from its opening to its end. Whether the node ever answered on it."""
        has_answered = False
        try:
            async with (
                self._tools.connections.reserve(1, owner=owner),
                self._tools.connect(*said.address, owner) as client,
            ):
                self._client = client
                while self._is_at(said) and not client.closed.is_set():
                    changed = self._changed
                    if await self._probe(client):
                        has_answered = True
                        self.heard()
                        self._is_lost = False
                        await self._set_present()
                        self._send_stops()
                    else:
                        await self._set_away()
                    if await self._mind_leases():
                        break
                    await self._pause(client.closed, changed)
        except PlaintextRefused as error:
            self._warn_once(
                f"{error}; give the master --tls-ca and the node a certificate, or say"
                " --allow-plaintext"
            )
        except AddressRefused as error:
            self._warn_once(
                f"{error}; if nodes may be there, say so in the policy pool.toml, under local_nodes"
            )
        except CallRefused:
            log.warning("pushed_node_has_no_share", node_id=self.node_id, account=owner)
        except RpcError as error:
            log.debug("pushed_node_not_reached", node_id=self.node_id, error=str(error))
        finally:
            self._client = None
            self._note_break()
        return has_answered

    def _warn_once(self, reason: str) -> None:
        if reason != self._warned:
            self._warned = reason
            log.warning("pushed_node_not_reached", node_id=self.node_id, reason=reason)

    async def _pause(self, closed: trio.Event, changed: trio.Event) -> None:
        """Until the next probe is due, the connection ends, or the node is known otherwise."""
        async with trio.open_nursery() as either:

            async def until(event: trio.Event) -> None:
                await event.wait()
                either.cancel_scope.cancel()

            due_s = min(self._tools.rules().push_probe_s, self._until_lease_end_s())
            either.cancel_scope.deadline = trio.current_time() + due_s
            either.start_soon(until, closed)
            either.start_soon(until, changed)

    async def _probe(self, client: NodeCalls) -> bool:
        with trio.move_on_after(self._tools.rules().push_probe_s):
            try:
                await client.check()
            except RpcError:
                return False
            return True
        return False

    def _node(self) -> Node | None:
        return self._tools.reactor.cluster.nodes.get(self.node_id)

    def _is_at(self, said: Registration) -> bool:
        """Whether the node is still to be reached where this registration says."""
        node = self._node()
        if node is None or node.registration is None:
            return False
        now = node.registration
        return now.address == said.address and now.intent is not Intent.OFFLINE

    def _until_lease_end_s(self) -> float:
        """How long until something may have to be given up; at least a moment."""
        ends = list(self._silent.values())
        if not self._is_lost:
            ends.append(self._lease_from + self._tools.rules().push_lease_s)
        return max(0.05, min(ends, default=float("inf")) - trio.current_time())

    def _note_break(self) -> None:
        """The connection is gone: what runs there must show itself."""
        cluster = self._tools.reactor.cluster
        until = trio.current_time() + self._tools.rules().push_lease_s
        for task_id in cluster.on_node.get(self.node_id, ()):
            task = cluster.tasks[task_id]
            if task.state is TaskState.RUNNING:
                self._silent.setdefault(AttemptRef(task_id, task.attempt), until)

    # --- what the cluster is told ---

    async def _set_present(self) -> None:
        state = self._tools.reactor.cluster.fleet.nodes.get(self.node_id)
        if self._is_known and state is not None and state.connected:
            return
        if trio.current_time() < self._rests_until:
            return
        self._is_known = await self._try(
            lambda turn: push_commands.present(turn, self.node_id, self._flights)
        )

    async def _set_away(self) -> None:
        state = self._tools.reactor.cluster.fleet.nodes.get(self.node_id)
        if state is not None and state.connected:
            await self._try(lambda turn: turn.set_connected(self.node_id, connected=False))

    async def _mind_leases(self) -> bool:
        """Give up what was silent for too long; whether that was the node itself."""
        now, rules = trio.current_time(), self._tools.rules()
        for ref in [ref for ref, until in self._silent.items() if until <= now]:
            detail = f"node {self.node_id} lost its connection, and the attempt reported no more"
            if await self._try(partial(self._lose, ref=ref, detail=detail)):
                self._silent.pop(ref, None)
        if self._is_lost or now - self._lease_from < rules.push_lease_s:
            return False
        detail = f"its node was silent for {rules.push_lease_s:g} s"
        if await self._try(lambda turn: push_commands.lose(turn, self.node_id, detail)):
            self._is_lost = True
            self._silent.clear()
            log.warning("node_lost", node_id=self.node_id)
        return self._is_lost

    def _lose(self, turn: Turn, *, ref: AttemptRef, detail: str) -> bool:
        return push_commands.lose_attempt(turn, self.node_id, ref, detail)

    async def _try(self, command: Callable[[Turn], object]) -> bool:
        """Whether the store took it; where it did not, the next round tries again."""
        try:
            await self._tools.reactor.perform(command)
        except CallRefused as error:
            log.warning("pushed_node_not_stored", node_id=self.node_id, error=str(error))
            return False
        return True

    async def _insist(self, command: Callable[[Turn], object]) -> None:
        """Repeat until the store takes it: nobody else would."""
        while True:
            if await self._try(command):
                return
            await trio.sleep(_RETRY_S)

    # --- giving ---

    async def _push(self, ref: AttemptRef, flight: _Flight) -> None:
        """Give the node an attempt, and note what comes of it."""
        try:
            answer = await self._guarded(lambda: self._execute(ref, flight))
        finally:
            self._land(flight)
            del self._flights[ref]
        node_id = self.node_id
        match answer:
            case PushReply(success=True):
                self._unanswered = 0
                self.heard()
                await self._insist(lambda turn: push_commands.begin(turn, node_id, ref))
                task = self._tools.reactor.cluster.tasks.get(ref.task_id)
                if task is None or task.attempt != ref.attempt or task.stop_requested:
                    # The node may have been told so before it knew of the task.
                    self.stop(ref, is_wanted=False)
            case PushReply(message=message):
                self.heard()
                words = one_line(message[:_MOST_WORDS]) or "it gave no reason"
                await self._insist(lambda turn: push_commands.refuse(turn, node_id, ref, words))
            case _NoAnswer(why):
                log.warning("push_not_answered", node_id=node_id, task_id=ref.task_id, why=why)
                if flight.has_reported:
                    until = trio.current_time() + self._tools.rules().push_lease_s
                    self._silent.setdefault(ref, until)
                detail = f"node {node_id} did not take it: {why}"
                await self._insist(
                    lambda turn: push_commands.give_up_push(turn, node_id, ref, detail)
                )
                if not flight.has_reported:
                    await self._rest()

    async def _rest(self) -> None:
        """Give the node nothing for a while, longer with each push that it did not answer: every
        one has cost its task the time for an answer.
        """
        pause_s = self._tools.rules().refusal_bar_s * 2 ** min(self._unanswered, 10)
        self._unanswered += 1
        self._rests_until = trio.current_time() + min(_LONGEST_PAUSE_S, pause_s)
        await self._set_away()

    async def _guarded(
        self, push: Callable[[], Awaitable[PushReply | _NoAnswer]]
    ) -> PushReply | _NoAnswer:
        """What came of a push, whatever went wrong with it."""
        try:
            return await push()
        except RemoteError as error:
            text = one_line(str(error)[:_MOST_WORDS])
            return PushReply(False, text) if is_refusal(error) else _NoAnswer(text)
        except (RpcError, StoreError) as error:
            return _NoAnswer(one_line(str(error)[:_MOST_WORDS]))
        except Exception as error:
            log.exception("push_failed", node_id=self.node_id)
            return _NoAnswer(f"the master failed at it: {type(error).__name__}")

    async def _execute(self, ref: AttemptRef, flight: _Flight) -> PushReply | _NoAnswer:
        client, node = self._client, self._node()
        stored = await self._tools.store.spec(ref.task_id)
        if client is None or node is None:
            return _NoAnswer("it is not connected")
        if stored is None or stored.payload is None:
            return _NoAnswer("its bytes are gone")
        blob, accept_s = stored.payload, self._tools.rules().push_accept_s
        if blob.file is not None:
            with trio.move_on_after(accept_s):
                await self._large.acquire_on_behalf_of(flight)
                flight.is_large = True
            if not flight.is_large:
                return _NoAnswer("it is slow to take what it was given before")

        def set_deadline(within_s: float) -> None:
            if not flight.has_reported:
                flight.scope.deadline = trio.current_time() + within_s

        def note_sent() -> None:
            self._land(flight)
            set_deadline(accept_s)

        with flight.scope:
            async with aclosing(self._pieces(blob)) as pieces:
                return await client.execute(
                    push_id(ref),
                    blob.size,
                    pieces,
                    token=self._tools.token_for(node),
                    on_sending=lambda: set_deadline(accept_s + blob.size / RATE_BYTES_PER_S),
                    on_sent=note_sent,
                )
        return _NoAnswer(f"no answer came within {accept_s:g} s")

    async def _pieces(self, blob: Blob) -> AsyncGenerator[bytes, None]:
        """A task's bytes; the file is closed when they are sent, not when they are answered."""
        async with self._tools.blobs.open_read(blob) as chunks:
            async for chunk in chunks:
                yield chunk

    def _land(self, flight: _Flight) -> None:
        if flight.is_large:
            flight.is_large = False
            self._large.release_on_behalf_of(flight)

    # --- stopping ---

    async def _await_stop(self, ref: AttemptRef) -> None:
        """Give the node its time to say that the attempt is over, and then end it without that."""
        await trio.sleep(self._tools.rules().stop_grace_s)
        await self._insist(lambda turn: push_commands.give_up_stop(turn, self.node_id, ref))

    def _send_stops(self) -> None:
        node = self._node()
        if node is not None and self._work is not None and self._client is not None:
            self._stops.send(node, self._client, self._work)
