"""What nodes that are pushed to report, as records, and what they are answered."""

import attrs


@attrs.frozen(kw_only=True)
class OutputSaid:
    """Some output of an attempt."""

    task_id: str
    """As the node was given it, or as its submitter calls it."""
    text: str
    node_id: str = ""
    """Empty where the report does not name one."""
    sequence: int = 0


@attrs.frozen(kw_only=True)
class LogsSaid:
    """Something about an attempt for people, kept apart from its output."""

    task_id: str
    text: str
    node_id: str = ""
    at: int = 0
    """Seconds since the epoch; 0 is now."""
    sequence: int = 0


@attrs.frozen(kw_only=True)
class ResultSaid:
    """A small result."""

    task_id: str
    data: bytes


@attrs.frozen(kw_only=True)
class CompletedSaid:
    """The attempt is over."""

    task_id: str
    success: bool
    node_id: str = ""


@attrs.frozen(kw_only=True)
class RunningSaid:
    """The attempt runs; the gauges are per cent."""

    task_id: str
    node_id: str = ""
    cpu_usage: int = 0
    memory_usage: int = 0
    gpu_usage: int = 0
    gpu_memory_usage: int = 0


@attrs.frozen(kw_only=True)
class StatusSaid:
    """How a node is, in its own words."""

    node_id: str
    status: str


Said = OutputSaid | LogsSaid | ResultSaid | CompletedSaid | RunningSaid | StatusSaid


@attrs.frozen(kw_only=True)
class Answer:
    """What a report came to."""

    success: bool = True
    message: str = ""
    code: int = 0
    """As in the table of error codes; 0 where it has none."""
    earned_cpt: int = 0
    """What the attempt has earned so far, where that was asked."""
