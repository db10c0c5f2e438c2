"""The worker's one connection to its master: kept, lost, and found again.

This is one of the two places in the worker where an exception is absorbed: whatever goes wrong on
a connection ends that connection, and the next one is tried after a pause.
"""

import random
from collections.abc import Callable
from contextlib import aclosing
from typing import assert_never

import structlog
import trio

from hivemind.core.messages import (
    Acknowledged,
    Assignment,
    DrainNotice,
    Hello,
    Keyring,
    KillOrder,
    MasterItem,
    Renewed,
    StopOrder,
    Welcome,
)
from hivemind.core.records import Capabilities, Vitals
from hivemind.core.wording import one_line
from hivemind.rpc.contract.link import LinkClient
from hivemind.rpc.errors import RpcError
from hivemind.supervision import Backoff
from hivemind.worker.conversation import Conversation, final_report
from hivemind.worker.dial import Dial
from hivemind.worker.errors import WorkerError
from hivemind.worker.held import HeldAttempt, HeldAttempts
from hivemind.worker.identity import Identity
from hivemind.worker.lease import Lease
from hivemind.worker.outbox import FinalReport
from hivemind.worker.runner import Runner
from hivemind.worker.transfers import NotWanted, RefusedForGood, Transfers

_WELCOME_S = 15.0
"""How long the master may take to answer a hello; it may be loading a large store."""
_STEADY_S = 10.0
"""A connection that lasted for so long was a good one, and the next is tried at once."""
_DELIVERIES = 2
"""How many large results travel at once: more would only share the same wire."""

log = structlog.get_logger(__name__)


class LinkBroken(WorkerError):
    """The conversation cannot go on; a new one may."""


class Link:
    """Speaks to the master for as long as it runs; reconnects for ever, with growing pauses.

    What the runner holds is told, and told again after a reconnect; what the master orders is given
    to the runner. When nothing was heard for as long as the master's lease, everything that runs is
    ended, and nobody is told: the master has given it to others.
    """

    def __init__(
        self,
        *,
        dial: Dial,
        identity: Identity,
        held: HeldAttempts,
        runner: Runner,
        transfers: Transfers,
        capabilities: Capabilities,
        measure: Callable[[], Vitals],
        on_keyring: Callable[[Keyring], None],
        backoff: Backoff | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._dial = dial
        self._identity = identity
        self._held = held
        self._runner = runner
        self._transfers = transfers
        self._capabilities = capabilities
        self._measure = measure
        self._on_keyring = on_keyring
        self._backoff = backoff or Backoff(first_s=0.1, most_s=10.0)
        self._jitter = jitter
        self._lease = Lease()
        self._conversation: Conversation | None = None
        self._session = trio.CancelScope()
        self._delivering: set[HeldAttempt] = set()
        self._deliveries: trio.Nursery | None = None
        self._delivery_slots = trio.CapacityLimiter(_DELIVERIES)
        self._heartbeat_s = 1.0
        self._was_connected: bool | None = None
        self._draining = False
        self._left = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the link until cancelled, or until ``leave``; started at the first welcome."""
        async with trio.open_nursery() as deliveries:
            self._deliveries = deliveries
            deliveries.start_soon(self._keep_lease)
            try:
                await self._keep_connected(task_status)
            finally:
                self._deliveries = None
            deliveries.cancel_scope.cancel()

    def announce_drain(self) -> None:
        """Tell the master, now and at every hello to come, to give this worker nothing more."""
        self._draining = True
        if self._conversation is not None:
            self._conversation.announce_drain()

    def leave(self) -> None:
        """Hang up, and connect no more: there is nothing left to tell, or no time left for it."""
        self._left.set()
        self._session.cancel()

    # -- connections ----------------------------------------------------------------------------

    async def _keep_connected(self, task_status: trio.TaskStatus[None]) -> None:
        failures = 0
        has_started = False

        def welcomed() -> None:
            nonlocal has_started
            self._note_connected()
            if not has_started:
                has_started = True
                task_status.started()

        while not self._left.is_set():
            began_at = trio.current_time()
            reason = await self._connect(welcomed)
            if self._left.is_set():
                log.info("link_left", master=self._dial.address)
                return
            self._note_disconnected(reason)
            # One that is welcomed and cut off again and again is as little use as none.
            failures = 1 if trio.current_time() - began_at > _STEADY_S else failures + 1
            await trio.sleep(self._backoff.delay_s(failures, self._jitter()))

    async def _connect(self, welcomed: Callable[[], None]) -> str:
        """One connection from its hello to its end; why it ended."""
        reason = "the worker gave it up: its lease ran out"
        with trio.CancelScope() as self._session:
            reason = await self._try_to_converse(welcomed)
        return one_line(reason)

    async def _try_to_converse(self, welcomed: Callable[[], None]) -> str:
        try:
            async with self._dial.open(await self._identity.token()) as master:
                await self._converse(master, welcomed)
        except (RpcError, WorkerError) as error:
            self._identity.forget_token()
            return str(error)
        except Exception as error:
            log.exception("link_failed", master=self._dial.address)
            return f"a fault of the worker: {type(error).__name__}"
        return "the master ended it"

    async def _converse(self, master: LinkClient, welcomed: Callable[[], None]) -> None:
        self._held.refusals.clear()
        hello = Hello(
            capabilities=self._capabilities, held=self._held.refs(), draining=self._draining
        )
        conversation = Conversation(
            hello, self._held, measure=self._measure, deliver=self._deliver_later
        )
        failure: Exception | None = None
        async with trio.open_nursery() as session:
            clock = trio.CancelScope()
            session.start_soon(self._await_welcome, clock, session.cancel_scope)
            try:
                async with aclosing(master.connect(conversation)) as batches:
                    async for items in batches:
                        for item in items:
                            if isinstance(item, Welcome):
                                clock.cancel()
                                self._on_welcome(item, conversation)
                                session.start_soon(self._beat, conversation)
                                welcomed()
                            else:
                                self._on_item(item, conversation)
            except Exception as error:
                # Raised again below, outside of the nursery, which would wrap it in a group.
                failure = error
            finally:
                self._conversation = None
                session.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not clock.cancel_called:
            raise LinkBroken(f"no welcome came within {_WELCOME_S:g} s")

    async def _await_welcome(self, clock: trio.CancelScope, session: trio.CancelScope) -> None:
        # No deadline is set around the call itself: it would travel to the master with the call.
        with clock:
            await trio.sleep(_WELCOME_S)
            session.cancel()

    async def _beat(self, conversation: Conversation) -> None:
        while True:
            conversation.beat()
            await trio.sleep(self._heartbeat_s)

    # -- what the master says -------------------------------------------------------------------

    def _on_welcome(self, welcome: Welcome, conversation: Conversation) -> None:
        if not welcome.lease_s > welcome.heartbeat_s > 0:
            raise LinkBroken(
                f"the master's lease of {welcome.lease_s:g} s cannot be kept with one heartbeat in "
                f"{welcome.heartbeat_s:g} s"
            )
        self._heartbeat_s = welcome.heartbeat_s
        self._lease.begin(welcome.lease_s, conversation.hello_sent_at)
        self._runner.draining = self._draining
        for ref in welcome.unwanted:
            self._runner.kill(ref)
        if welcome.keyring is not None:
            self._on_keyring(welcome.keyring)
        self._conversation = conversation
        conversation.on_welcome(welcome)

    def _on_item(self, item: MasterItem, conversation: Conversation) -> None:
        if self._conversation is not conversation:
            raise LinkBroken("the master spoke before its welcome")
        match item:
            case Assignment():
                self._runner.assign(item)
            case StopOrder():
                self._runner.stop(item.ref)
            case KillOrder():
                self._runner.kill(item.ref)
            case Renewed():
                self._lease.renew(conversation.on_renewed())
            case Acknowledged():
                self._runner.acknowledge(item.ref, item.seq)
            case DrainNotice():
                log.info("drain_ordered", master=self._dial.address)
                self._runner.draining = True
            case Keyring():
                self._on_keyring(item)
            case Welcome():
                raise LinkBroken("the master welcomed this worker twice")
            case _:
                assert_never(item)

    # -- large results --------------------------------------------------------------------------

    def _deliver_later(self, attempt: HeldAttempt) -> None:
        if self._deliveries is not None and attempt not in self._delivering:
            self._delivering.add(attempt)
            self._deliveries.start_soon(self._deliver, attempt)

    async def _deliver(self, attempt: HeldAttempt) -> None:
        report = attempt.report
        if report is None:
            return
        try:
            async with self._delivery_slots:
                await self._transfers.deliver(final_report(attempt, report), attempt.folder.result)
        except NotWanted as error:
            self._note_undelivered(report, str(error))
        except RefusedForGood as error:
            self._note_undelivered(report, str(error))
            await self._runner.lose_result(attempt, f"the master refused it: {error}")
            return
        except OSError as error:
            self._note_undelivered(report, str(error))
            await self._runner.lose_result(attempt, f"the node cannot read it: {error.strerror}")
            return
        finally:
            self._delivering.discard(attempt)
        self._runner.acknowledge(report.ref, report.seq)

    def _note_undelivered(self, report: FinalReport, reason: str) -> None:
        if report.ref in self._held:
            log.error(
                "result_not_delivered",
                task_id=report.ref.task_id,
                attempt=report.ref.attempt,
                reason=reason,
            )

    # -- the lease, and what is logged ----------------------------------------------------------

    async def _keep_lease(self) -> None:
        while True:
            await self._lease.wait_expiry()
            abandoned = self._runner.abandon_all()
            log.warning("lease_expired", lease_s=self._lease.length_s, attempts_ended=abandoned)
            # What the master believes of this worker is no longer so: only a new hello tells it.
            self._session.cancel()

    def _note_connected(self) -> None:
        self._was_connected = True
        log.info("link_up", master=self._dial.address, node_id=self._identity.membership.node_id)

    def _note_disconnected(self, reason: str) -> None:
        if self._was_connected is not False:
            self._was_connected = False
            log.warning("link_down", master=self._dial.address, reason=reason)
