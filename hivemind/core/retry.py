"""Which failures are worth another try, and how long to wait before it."""

from hivemind.core.policy import PoolRules
from hivemind.core.records import Reason

RETRYABLE = frozenset({Reason.EXITED, Reason.SIGNALLED, Reason.SANDBOX_FAILED})
"""The same program on the same input may do better: a network that was away, a machine's fault.

Running out of memory, output or CPU time, and a payload or result that is malformed, would only
repeat themselves at somebody's cost.
"""


def is_retryable(reason: Reason) -> bool:
    """Whether an attempt that failed for ``reason`` may be tried again."""
    return reason in RETRYABLE


def backoff_s(failures: int, rules: PoolRules) -> float:
    """How long to wait after the ``failures``-th failed attempt: doubling, up to the rules' most.

    Without jitter, which the caller adds where it wants some.
    """
    if failures < 1:
        return 0.0
    doublings = min(failures - 1, 62)
    return min(rules.retry_backoff_s * float(2**doublings), rules.retry_backoff_most_s)
