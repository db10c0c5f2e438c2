import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.policy import PoolRules
from hivemind.core.records import Reason
from hivemind.core.retry import backoff_s, is_retryable

RULES = PoolRules(retry_backoff_s=1.0, retry_backoff_most_s=60.0)


@pytest.mark.parametrize("reason", Reason)
def test_only_failures_that_another_try_may_mend_are_retried(reason: Reason) -> None:
    assert is_retryable(reason) == (
        reason in {Reason.EXITED, Reason.SIGNALLED, Reason.SANDBOX_FAILED}
    )


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60)]
)
def test_the_wait_doubles_with_every_failure_up_to_the_most(failures: int, wait_s: float) -> None:
    assert backoff_s(failures, RULES) == wait_s


@given(st.integers(min_value=0, max_value=10**9))
def test_the_wait_never_shrinks_nor_overflows(failures: int) -> None:
    assert backoff_s(failures, RULES) <= backoff_s(failures + 1, RULES) <= 60.0
