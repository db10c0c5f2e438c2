"""What can happen to a task, and what must then be done about it."""

import attrs

from hivemind.core.records import Ending, RefusalKind


@attrs.frozen(kw_only=True)
class Admit:
    """The submit was within policy: the task may wait for a node."""


@attrs.frozen(kw_only=True)
class Assign:
    """The scheduler chose a node. The attempt's number is the task's plus one."""

    node_id: str
    lease_id: str


@attrs.frozen(kw_only=True)
class Started:
    """The worker runs the attempt."""

    attempt: int
    seq: int
    node_id: str = ""
    """The node whose link brought it, by the master's own knowledge; empty: not to be checked."""


@attrs.frozen(kw_only=True)
class Refused:
    """The worker would not run the attempt; nothing of it was run."""

    attempt: int
    seq: int
    kind: RefusalKind
    detail: str
    is_last_hope: bool = False
    """No other known node could ever take the task: refusing it ends it."""
    node_id: str = ""
    """The node whose link brought it, by the master's own knowledge; empty: not to be checked."""


@attrs.frozen(kw_only=True)
class Finished:
    """The worker's final report on an attempt; its sandbox is empty."""

    attempt: int
    seq: int
    ending: Ending
    node_id: str = ""
    """The node whose link brought it, by the master's own knowledge; empty: not to be checked."""


@attrs.frozen(kw_only=True)
class TimedOut:
    """The master's backup: the time limit and its grace are over, and no report came."""

    attempt: int


@attrs.frozen(kw_only=True)
class NodeLost:
    """The attempt's lease ran out, or its node came back without it."""

    attempt: int
    detail: str
    is_over: bool = False
    """The node is here and no longer runs it."""


@attrs.frozen(kw_only=True)
class Stop:
    """Somebody who may do so wants the task over."""

    by: str


Event = Admit | Assign | Started | Refused | Finished | TimedOut | NodeLost | Stop


@attrs.frozen(kw_only=True)
class SendAssign:
    """Give the attempt to its node, once what it rests on is on disk."""

    task_id: str
    attempt: int
    node_id: str


@attrs.frozen(kw_only=True)
class SendStop:
    """Tell the node to stop the attempt; it will answer with a final report."""

    task_id: str
    attempt: int
    node_id: str


@attrs.frozen(kw_only=True)
class KillAttempt:
    """Tell the node to end an attempt that is no longer wanted; its report will be ignored."""

    task_id: str
    attempt: int
    node_id: str
    """Empty: whichever node sent the report that this answers."""


@attrs.frozen(kw_only=True)
class Enqueue:
    """Put the task into the queue, not to be assigned before ``delay_s`` have passed."""

    task_id: str
    delay_s: float


@attrs.frozen(kw_only=True)
class BarNode:
    """Do not give this task to this node for ``for_s`` seconds; ``None``: while the node stays."""

    task_id: str
    node_id: str
    for_s: float | None


@attrs.frozen(kw_only=True)
class Release:
    """The attempt's reservation on the node is over."""

    task_id: str
    attempt: int
    node_id: str


@attrs.frozen(kw_only=True)
class Ended:
    """The task reached an end; watchers may be told so."""

    task_id: str


Effect = SendAssign | SendStop | KillAttempt | Enqueue | BarNode | Release | Ended
