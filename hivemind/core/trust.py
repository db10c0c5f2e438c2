"""How far a node is trusted, 0 to 100, and what changes that.

A new node has 50. It gains by what it ran well and loses by what it lost or got wrong. Its owner's
own tasks move it within the level normal alone: nobody buys a high trust with tasks that cost
nothing, and nobody is locked out of a machine of their own.
"""

import enum

from hivemind.core.errors import CoreError
from hivemind.core.records import Attempt, Outcome, Reason

MOST_TRUST = 100
NEW_TRUST = 50
LEAST_TRUST = 10
"""A node that is trusted less gets no work."""

WITHOUT_SANDBOX = 39
"""The most that a node whose isolation is not whole counts as."""

_SLOW_FROM = 80
_SLOW_RUN_S = 60.0
"""From there on only an attempt that ran this long is worth a point: short ones prove little."""

_COMPLETED = 1
_SANDBOX_FAILED = -5
_LOST = -10
_CONTRADICTED = -10


class BadTrust(CoreError, ValueError):
    """A text that is no level of trust."""


class TrustLevel(enum.IntEnum):
    """What people call it, with the least trust that it takes."""

    HIGH = 80
    NORMAL = 40
    LOW = LEAST_TRUST
    NONE = 0


def level_of(trust: int) -> TrustLevel:
    """The level of a node that is trusted so far."""
    return next(level for level in TrustLevel if trust >= level)


def parse_trust(text: str) -> int:
    """The least trust that ``high``, ``normal``, ``low`` or a number from 0 to 100 asks for.

    Raises:
        BadTrust: it is none of these.
    """
    for level in (TrustLevel.HIGH, TrustLevel.NORMAL, TrustLevel.LOW):
        if text == level.name.lower():
            return int(level)
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= MOST_TRUST:
        return int(text)
    shown = ascii(text if len(text) <= 40 else text[:40] + "...")
    raise BadTrust(
        f"{shown} is not a level of trust: write high, normal, low or a number from 0 to 100"
    )


def effective_trust(trust: int, *, has_whole_sandbox: bool) -> int:
    """What a node counts as: low at most where its isolation is not whole."""
    return trust if has_whole_sandbox else min(trust, WITHOUT_SANDBOX)


def trust_after(
    attempt: Attempt, trust: int, *, is_own: bool = False, is_handing_back: bool = False
) -> int:
    """The trust of a node of which an attempt has ended.

    A stop, a refusal in time, and a program that fails by itself or meets a limit change nothing.

    Args:
        attempt: over.
        trust: the node's, before.
        is_own: the task is the node's owner's.
        is_handing_back: the node drains, so that what it gives back unfinished costs it nothing.
            What it lets go of without a word does.
    """
    change = _change_for(attempt, trust, is_handing_back=is_handing_back)
    after = _within(trust + change, 0, MOST_TRUST)
    if not is_own:
        return after
    if change > 0:
        return max(trust, min(after, TrustLevel.HIGH - 1))
    return min(trust, max(after, int(TrustLevel.NORMAL)))


def trust_after_contradiction(trust: int) -> int:
    """The trust of a node whose report cannot be true, or had to be refused."""
    return _within(trust + _CONTRADICTED, 0, MOST_TRUST)


def _within(trust: int, least: int, most: int) -> int:
    return max(least, min(most, trust))


def _change_for(attempt: Attempt, trust: int, *, is_handing_back: bool) -> int:
    if attempt.reason is Reason.SANDBOX_FAILED:
        return _SANDBOX_FAILED
    if attempt.outcome is Outcome.SUCCEEDED:
        return _COMPLETED if trust < _SLOW_FROM or _ran_s(attempt) >= _SLOW_RUN_S else 0
    is_given_back = is_handing_back and attempt.reason is not Reason.NODE_LOST
    if attempt.outcome is Outcome.LOST and not is_given_back:
        return _LOST
    return 0


def _ran_s(attempt: Attempt) -> float:
    if attempt.started_at is None or attempt.ended_at is None:
        return 0.0
    return attempt.ended_at - attempt.started_at
