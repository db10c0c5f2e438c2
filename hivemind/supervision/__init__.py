"""Supervisors: services that are started in order, restarted when they fail, stopped in reverse.

Both daemons are built on this. A service is ``async def run(*, task_status)``: it calls
``task_status.started(value)`` once it is usable, and then runs until it is cancelled. This is the
one place of a daemon that absorbs a service's exception; each goes to ``on_event`` once.

``services`` holds the words (``Service``, ``Restart``, ``Backoff``, events and health),
``supervisor`` what acts on them; start with ``open_supervisor``. Any room above may import this
one; it needs Trio and attrs alone.
"""

from hivemind.supervision.services import (
    Backoff,
    EventKind,
    Restart,
    Service,
    ServiceEvent,
    ServiceHealth,
    State,
)
from hivemind.supervision.supervisor import (
    ReturnedEarly,
    StartFailed,
    StartTooSlow,
    SupervisionError,
    Supervisor,
    TooManyRestarts,
    open_supervisor,
)

__all__ = [
    "Backoff",
    "EventKind",
    "Restart",
    "ReturnedEarly",
    "Service",
    "ServiceEvent",
    "ServiceHealth",
    "StartFailed",
    "StartTooSlow",
    "State",
    "SupervisionError",
    "Supervisor",
    "TooManyRestarts",
    "open_supervisor",
]
