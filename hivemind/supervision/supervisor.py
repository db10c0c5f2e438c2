"""The supervisor: keeps services running, and fails upward when restarting does not help."""

import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import attrs
import trio

from hivemind.supervision.services import (
    Backoff,
    EventKind,
    Restart,
    Service,
    ServiceEvent,
    ServiceHealth,
    State,
)


class SupervisionError(Exception):
    """A supervisor could not keep its services running."""


class StartFailed(SupervisionError):
    """A service failed before it was ever usable; ``__cause__`` says why."""

    def __init__(self, service: str, cause: Exception) -> None:
        super().__init__(f"{service} could not be started: {_line(cause)}")
        self.service = service
        self.__cause__ = cause


class TooManyRestarts(SupervisionError):
    """Restarting did not help; ``__cause__`` is the last failure."""

    def __init__(self, service: str, cause: Exception, intensity: int, period_s: float) -> None:
        super().__init__(
            f"{service} failed, and {intensity} restarts within {period_s:g} s are used up:"
            f" {_line(cause)}"
        )
        self.service = service
        self.__cause__ = cause


class StartTooSlow(SupervisionError):
    """A service did not say in time that it was usable."""


class ReturnedEarly(SupervisionError):
    """A permanent service returned, although it should run until it is cancelled."""


@attrs.define(kw_only=True, eq=False)
class _Kept:
    """One service and where it stands."""

    service: Service
    # Shielded: what cancels the supervisor must not cancel its services all at once, since they
    # are to stop in order. The supervisor cancels each of these before it is left.
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    usable: trio.Event = attrs.field(factory=trio.Event)
    gone: trio.Event = attrs.field(factory=trio.Event)
    state: State = State.WAITING
    since: float = attrs.field(factory=trio.current_time)
    runs: int = 0
    failures: int = 0
    last_error: str | None = None
    value: Any = None

    def enter(self, state: State) -> None:
        self.state = state
        self.since = trio.current_time()


class Supervisor:
    """Runs services; made by ``open_supervisor``."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        intensity: int,
        period_s: float,
        backoff: Backoff,
        jitter: Callable[[], float],
        on_event: Callable[[ServiceEvent], None],
    ) -> None:
        self.ready = trio.Event()
        """Set once every service has been usable."""
        self.failure: SupervisionError | None = None
        """Why the supervisor fails upward, from the moment when it knows."""
        self._kept = {service.name: _Kept(service=service) for service in services}
        if len(self._kept) != len(services):
            raise ValueError("two services of one supervisor have the same name")
        self._intensity = intensity
        self._period_s = period_s
        self._backoff = backoff
        self._jitter = jitter
        self._on_event = on_event
        self._restarted_at: deque[float] = deque()
        self._on_failure = trio.CancelScope()
        self._starts = trio.CancelScope()
        self._drain: trio.CancelScope | None = None
        self._is_stopping = False
        self._is_hurried = False
        self._stopped = trio.Event()

    def health(self) -> tuple[ServiceHealth, ...]:
        """How every service is doing, in the order of their start."""
        return tuple(
            ServiceHealth(
                name=name,
                state=kept.state,
                restarts=max(0, kept.runs - 1),
                last_error=kept.last_error,
                since=kept.since,
            )
            for name, kept in self._kept.items()
        )

    def value(self, name: str) -> object:
        """What the service last gave to ``task_status.started``; None before that.

        Raises KeyError for a service that this supervisor does not have.
        """
        return self._kept[name].value

    @property
    def stop_within_s(self) -> float:
        """The longest that a stop can take: two graces for each service, and a second of slack."""
        return 1.0 + 2 * sum(kept.service.stop_grace_s for kept in self._kept.values())

    async def stop(self) -> None:
        """Stop every service, the last started first; returns when each has ended or is overdue.

        Several tasks may call it, again and again: there is one stop. It goes through to its end
        within ``stop_within_s`` even if the task that began it is cancelled.
        """
        if self._is_stopping:
            await self._stopped.wait()
            return
        self._is_stopping = True
        self._starts.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self.stop_within_s):
            await self._stop_all()
        self._stopped.set()

    def stop_now(self) -> None:
        """Cancel every service at once, without drains and without order.

        May be called in the middle of ``stop``, which then ends as soon as the services have.
        """
        self._is_hurried = True
        self._starts.cancel()
        if self._drain is not None:
            self._drain.cancel()
        for kept in self._kept.values():
            kept.scope.cancel()

    async def run(self, keepers: trio.Nursery) -> None:
        """Start the services in order in this nursery; for ``open_supervisor`` alone."""
        with self._starts:
            await self._start_all(keepers)

    def until_failure(self) -> trio.CancelScope:
        """The scope that a failure of this supervisor cancels; for ``open_supervisor`` alone."""
        return self._on_failure

    async def _start_all(self, keepers: trio.Nursery) -> None:
        for kept in self._kept.values():
            # A service may become usable in the very step in which the starts are called off.
            await trio.lowlevel.checkpoint_if_cancelled()
            kept.enter(State.STARTING)
            keepers.start_soon(self._keep, kept, name=kept.service.name)
            await kept.usable.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ready.set()

    async def _stop_all(self) -> None:
        for kept in reversed(self._kept.values()):
            await self._stop_one(kept)

    async def _stop_one(self, kept: _Kept) -> None:
        if kept.state is State.WAITING:
            kept.enter(State.ENDED)
            return
        grace_s = kept.service.stop_grace_s
        drain = kept.service.drain
        if drain is not None and kept.state is State.RUNNING and not self._is_hurried:
            kept.enter(State.DRAINING)
            try:
                with trio.move_on_after(grace_s) as self._drain:
                    await drain()
            except Exception as error:
                self._report(kept, EventKind.DRAIN_FAILED, error=error)
        kept.scope.cancel()
        with trio.move_on_after(grace_s):
            await kept.gone.wait()
        if not kept.gone.is_set():
            self._report(kept, EventKind.STOP_OVERDUE)

    async def _keep(self, kept: _Kept) -> None:
        """Run a service, again and again as its policy says, until its scope is cancelled."""
        try:
            with kept.scope:
                delay_s = await self._run_once(kept)
                while delay_s is not None:
                    await trio.sleep(delay_s)
                    delay_s = await self._run_once(kept)
            if kept.state is not State.FAILED:
                kept.enter(State.ENDED)
                self._report(kept, EventKind.ENDED)
        finally:
            kept.gone.set()

    async def _run_once(self, kept: _Kept) -> float | None:
        """Run a service until it ends; how long to wait before the next run, None for no more."""
        service = kept.service
        usable_at = math.inf
        delay_s: float | None = None
        kept.runs += 1
        kept.enter(State.STARTING)
        try:
            async with trio.open_nursery() as holder:
                with trio.move_on_after(service.start_within_s) as start_scope:
                    kept.value = await holder.start(service.run)
                if start_scope.cancelled_caught:
                    raise StartTooSlow(f"not usable after {service.start_within_s:g} s")
                usable_at = trio.current_time()
                kept.enter(State.RUNNING)
                self._report(kept, EventKind.STARTED)
                kept.usable.set()
            if service.restart is Restart.PERMANENT and not self._is_stopping:
                raise ReturnedEarly("it returned, although it should run until it is cancelled")
        except* Exception as group:
            # Only Exceptions are absorbed; a Cancelled beside them goes on to the service's scope.
            delay_s = self._on_service_failure(kept, _innermost(group), usable_at)
        return delay_s

    def _on_service_failure(self, kept: _Kept, error: Exception, usable_at: float) -> float | None:
        kept.last_error = _line(error)
        if trio.current_time() - usable_at >= self._period_s:
            kept.failures = 0
        kept.failures += 1
        delay_s = self._plan_restart(kept, error)
        kept.enter(State.FAILED if delay_s is None else State.BACKING_OFF)
        self._report(kept, EventKind.FAILED, error=error, delay_s=delay_s)
        return delay_s

    def _plan_restart(self, kept: _Kept, error: Exception) -> float | None:
        """How long to wait before a service that failed is run again; None: it is not."""
        name = kept.service.name
        if kept.scope.cancel_called or self._is_stopping:
            return None
        if not kept.usable.is_set():
            self._fail(StartFailed(name, error))
            return None
        if kept.service.restart is Restart.TEMPORARY:
            return None
        now = trio.current_time()
        while self._restarted_at and now - self._restarted_at[0] >= self._period_s:
            self._restarted_at.popleft()
        if len(self._restarted_at) >= self._intensity:
            self._fail(TooManyRestarts(name, error, self._intensity, self._period_s))
            return None
        self._restarted_at.append(now)
        return self._backoff.delay_s(kept.failures, self._jitter())

    def _fail(self, failure: SupervisionError) -> None:
        if self.failure is None:
            self.failure = failure
        self._starts.cancel()
        self._on_failure.cancel()

    def _report(
        self,
        kept: _Kept,
        kind: EventKind,
        *,
        error: Exception | None = None,
        delay_s: float | None = None,
    ) -> None:
        self._on_event(
            ServiceEvent(
                kind=kind, service=kept.service.name, run=kept.runs, error=error, delay_s=delay_s
            )
        )


@contextlib.asynccontextmanager
async def open_supervisor(
    services: Sequence[Service],
    *,
    on_event: Callable[[ServiceEvent], None],
    intensity: int = 5,
    period_s: float = 60.0,
    backoff: Backoff | None = None,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[Supervisor]:
    """Run services for as long as the block, and stop them in reverse order when it is left.

    The block begins at once; ``ready`` is set when the last service has become usable, each having
    been started after the one before it was. A service that fails later is restarted as its policy
    says, after a backoff; beyond ``intensity`` restarts of all services together within
    ``period_s`` the supervisor gives up. ``on_event`` must not raise.

    Raises StartFailed or TooManyRestarts, having cancelled the block and stopped the services; if
    the block raised as well, an ExceptionGroup of both. What the block raises is otherwise passed
    on as it is. Cancellation reaches the block, then the services in reverse order, each with its
    grace.
    """
    supervisor = Supervisor(
        services,
        intensity=intensity,
        period_s=period_s,
        backoff=backoff or Backoff(),
        jitter=jitter,
        on_event=on_event,
    )
    block_error: Exception | None = None
    async with trio.open_nursery() as keepers:
        keepers.start_soon(supervisor.run, keepers, name="supervisor")
        try:
            with supervisor.until_failure():
                yield supervisor
        except Exception as error:
            # Raised again below, outside the nursery, which would wrap it in a group.
            block_error = error
        finally:
            with trio.move_on_after(supervisor.stop_within_s, shield=True):
                await supervisor.stop()
    if supervisor.failure is None:
        if block_error is not None:
            raise block_error
    elif block_error is None:
        raise supervisor.failure
    else:
        raise ExceptionGroup("a supervisor and its block failed", [supervisor.failure, block_error])


def _innermost(group: ExceptionGroup[Exception]) -> Exception:
    """The one exception that a group holds, however deep; the group itself if it holds several."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _line(error: BaseException) -> str:
    """An exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
