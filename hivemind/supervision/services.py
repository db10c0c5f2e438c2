"""What a service is, how it is doing, and how long to wait before it is tried again."""

import enum
import math
from collections.abc import Awaitable, Callable
from typing import Any

import attrs


class Restart(enum.Enum):
    """When a service that ended is started again."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """If it raised; when it returns, its work is done."""
    TEMPORARY = "temporary"
    """Never."""


class State(enum.Enum):
    """What a service is doing."""

    WAITING = "waiting"
    """Its turn to be started has not come."""
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """It failed, and will be started again."""
    DRAINING = "draining"
    ENDED = "ended"
    """It returned, or was stopped."""
    FAILED = "failed"
    """It raised, and will not be started again."""


class EventKind(enum.Enum):
    """What is reported about a service."""

    STARTED = "started"
    ENDED = "ended"
    FAILED = "failed"
    """It raised ``error``; it is started again after ``delay_s``, or, if that is None, never."""
    DRAIN_FAILED = "drain_failed"
    """Its drain raised ``error``; it is cancelled all the same."""
    STOP_OVERDUE = "stop_overdue"
    """It was cancelled and is still there after its grace; the next one is stopped meanwhile."""


@attrs.frozen(kw_only=True)
class Service:
    """Something that runs for as long as its supervisor.

    ``drain``, where given, is called when the service is to stop and before it is cancelled; it
    has ``stop_grace_s`` for letting work in progress finish. The service then has ``stop_grace_s``
    again for its clean-up, before the next one is stopped beside it.
    """

    name: str
    run: Callable[..., Awaitable[Any]]
    """Called as ``run(task_status=...)``."""
    restart: Restart = Restart.PERMANENT
    stop_grace_s: float = 5.0
    start_within_s: float = 60.0
    """Not to have called ``task_status.started`` by then counts as a failure."""
    drain: Callable[[], Awaitable[None]] | None = None


@attrs.frozen(kw_only=True)
class ServiceHealth:
    """How a service is doing."""

    name: str
    state: State
    restarts: int
    last_error: str | None
    """One line; None if it never failed."""
    since: float
    """When it entered the state, by Trio's clock."""


@attrs.frozen(kw_only=True)
class ServiceEvent:
    """Something happened to a service; ``run`` counts its starts from 1."""

    kind: EventKind
    service: str
    run: int
    error: BaseException | None = None
    delay_s: float | None = None


@attrs.frozen(kw_only=True)
class Backoff:
    """How long to wait before trying again: doubling up to ``most_s``, and never quite the same."""

    first_s: float = 0.1
    most_s: float = 30.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """The wait after so many failures in a row (from 1); ``jitter`` is drawn from [0, 1).

        It lies between half of the full wait and the whole, so that what failed together does not
        come back together.
        """
        # The exponent is capped because a float overflows beyond 2**1023; most_s rules long before.
        full_s = min(self.most_s, math.ldexp(self.first_s, min(failures - 1, 64)))
        return full_s * (0.5 + jitter / 2)
