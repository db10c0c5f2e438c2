"""One client's connection to the master: opened when it is first needed, and again when it is lost.

A call that does no harm when it is repeated goes on over a new connection, for as long as the
client's patience lasts. A master that was never there is said so at once.
"""

import random
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from hivemind.client.errors import ClientError, LostConnection, NoAnswer, NotLoggedIn, NotTrusted
from hivemind.client.faults import explained, is_lost, not_logged_in
from hivemind.client.target import Target
from hivemind.rpc.channel import Channel, open_channel
from hivemind.rpc.errors import ConnectFailed, RpcError
from hivemind.rpc.tls import BadCertificate, client_tls
from hivemind.supervision import Backoff

T = TypeVar("T")

CALL_S = 30.0
"""How long a call that moves no bulk may take. The master answers such calls from memory, or after
one commit; half a minute is far beyond either."""


@attrs.frozen(kw_only=True)
class Patience:
    """How long a lost master is waited for, and how often it is tried."""

    within_s: float = 60.0
    """From the loss to the moment when it is given up. A restart of a master takes seconds."""
    backoff: Backoff = attrs.field(factory=lambda: Backoff(first_s=0.1, most_s=2.0))


def tls_for(target: Target) -> ssl.SSLContext | None:
    """How to know the master; None where plain HTTP/2 is spoken. Raises NotTrusted."""
    if target.trust is None:
        return None
    try:
        trust = target.trust
        return client_tls(ca=trust.ca, certificate=trust.certificate, key=trust.key)
    except BadCertificate as error:
        raise NotTrusted(f"{error}; {target.trust.said_by} names it") from error


class Connection:
    """Made by ``open_client``; ``nursery`` owns the channel."""

    def __init__(
        self,
        target: Target,
        tls: ssl.SSLContext | None,
        patience: Patience,
        nursery: trio.Nursery,
    ) -> None:
        self.target = target
        self._tls = tls
        self._patience = patience
        self._nursery = nursery
        self._channel: Channel | None = None
        self._opening = trio.Lock()
        self._was_connected = False
        self._holder = trio.CancelScope()

    def close(self) -> None:
        """Close the connection, and open no other. The nursery then has nothing left to hold."""
        self._holder.cancel()
        self._nursery.cancel_scope.cancel()

    async def channel(self) -> Channel:
        """An open connection. Raises ConnectFailed."""
        async with self._opening:
            if self._channel is None or self._channel.closed.is_set():
                self._channel = await self._nursery.start(self._hold_channel)
                self._was_connected = True
            return self._channel

    async def _hold_channel(self, *, task_status: trio.TaskStatus[Channel]) -> None:
        trust = self.target.trust
        metadata = {}
        if self.target.token:
            metadata["authorization"] = f"Bearer {self.target.token}"
        try:
            with trio.CancelScope() as holder:
                async with open_channel(
                    self.target.host,
                    self.target.port,
                    tls=self._tls,
                    server_name=None if trust is None else trust.name,
                    metadata=metadata,
                    allow_plaintext=self.target.allow_plaintext,
                ) as channel:
                    # A cancelled block may still have a last word to send, such as a stop. The
                    # shield ends with the block: close() cancels it.
                    holder.shield = True
                    self._holder = holder
                    task_status.started(channel)
                    await channel.closed.wait()
        except* ConnectFailed as group:
            # The channel's own nursery wraps it; whoever waits for the channel wants it bare.
            failure = group.exceptions[0]
        else:
            return
        raise failure

    async def call(self, make: Callable[[Channel], Awaitable[T]], *, repeatable: bool = True) -> T:
        """The answer of one short call, which has ``CALL_S`` for each try.

        Args:
            make: makes the call on the channel that it is given.
            repeatable: whether it may be made again when it is not known to have arrived.

        Raises:
            ClientError: the master refused, or could not be reached.
        """

        async def make_in_time(channel: Channel) -> T:
            with trio.move_on_after(CALL_S):
                return await make(channel)
            raise NoAnswer(
                f"the master at {self.target.address} did not answer within {CALL_S:g} s; try again"
            )

        trial = self.trial()
        while True:
            try:
                return await make_in_time(await self.channel())
            except RpcError as error:
                if not repeatable and self._was_connected:
                    raise explained(error, self.target) from error
                await trial.after(error)

    def trial(self) -> "Trial":
        """For calls that are repeated by their own rules."""
        return Trial(self.target, self._patience, lambda: self._was_connected)

    def require_token(self) -> None:
        """Raise NotLoggedIn where no token is known."""
        if self.target.token:
            return
        if self.target.is_guess:
            raise NotLoggedIn(
                "no pool is known here; start one with `hivemind up`, or set HIVEMIND_MASTER to "
                "one's address and log in with `hivemind account login NAME`"
            )
        raise not_logged_in(self.target.address, "not logged in")


class Trial:
    """Counts the failures of one piece of work, and says when it is not to be tried again."""

    def __init__(
        self, target: Target, patience: Patience, was_connected: Callable[[], bool]
    ) -> None:
        self._target = target
        self._patience = patience
        self._was_connected = was_connected
        self._failures = 0
        self._give_up_at = 0.0

    def succeed(self) -> None:
        """The work went on: the next failure is a first one again."""
        self._failures = 0

    async def after(self, error: RpcError) -> None:
        """Return when the work may be tried again.

        Raises:
            ClientError: it may not: the error is an answer, or patience has run out.
        """
        told = explained(error, self._target)
        if not is_lost(error) or not self._was_connected():
            raise told from error
        self._failures += 1
        now = trio.current_time()
        if self._failures == 1:
            self._give_up_at = now + self._patience.within_s
        delay_s = self._patience.backoff.delay_s(self._failures, random.random())  # noqa: S311
        if now + delay_s > self._give_up_at:
            raise self._lost() from error
        await trio.sleep(delay_s)

    def _lost(self) -> ClientError:
        return LostConnection(
            f"the master at {self._target.address} went away and did not come back within "
            f"{self._patience.within_s:g} s; what it acknowledged is safe, try again later"
        )
