"""Why a task waits, as data. ``explain`` finds it out; whoever only shows it needs this alone."""

import enum

import attrs


class CauseKind(enum.StrEnum):
    """What keeps a task waiting."""

    BACKOFF = "backoff"
    NO_NODE = "no_node"
    TOO_SMALL = "too_small"
    BARRED = "barred"
    FULL = "full"
    KEPT_FREE = "kept_free"
    BEHIND = "behind"
    TURN = "turn"
    AWAY = "away"
    DRAINING = "draining"
    DISTRUSTED = "distrusted"
    NOT_OWN = "not_own"
    """It costs nothing because it is for its account's own nodes, and these are others'."""
    UNSUITED = "unsuited"


@attrs.frozen
class Cause:
    """One thing that keeps a task waiting."""

    kind: CauseKind
    text: str
    """One line for people."""
    count: int
    """Of how many nodes it holds; of how many tasks, for ``BEHIND``; otherwise 1."""


@attrs.frozen
class Explanation:
    """Why a task waits; without causes when it does not wait."""

    headline: str
    causes: tuple[Cause, ...] = ()
