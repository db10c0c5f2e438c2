from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.records import Attempt, Outcome, Reason
from hivemind.core.trust import (
    BadTrust,
    TrustLevel,
    effective_trust,
    level_of,
    parse_trust,
    trust_after,
    trust_after_contradiction,
)


def over(outcome: Outcome, reason: Reason = Reason.EXITED, ran_s: float = 1.0) -> Attempt:
    return Attempt(
        task_id="t",
        number=1,
        node_id="n",
        lease_id="l",
        assigned_at=0.0,
        started_at=10.0,
        ended_at=10.0 + ran_s,
        outcome=outcome,
        reason=reason,
    )


@pytest.mark.parametrize(
    ("trust", "level"),
    [
        (100, TrustLevel.HIGH),
        (80, TrustLevel.HIGH),
        (79, TrustLevel.NORMAL),
        (40, TrustLevel.NORMAL),
        (39, TrustLevel.LOW),
        (10, TrustLevel.LOW),
        (9, TrustLevel.NONE),
        (0, TrustLevel.NONE),
    ],
)
def test_levels_begin_where_the_contract_says(trust: int, level: TrustLevel) -> None:
    assert level_of(trust) is level


@pytest.mark.parametrize(
    ("attempt", "before", "after"),
    [
        (over(Outcome.SUCCEEDED), 50, 51),
        (over(Outcome.SUCCEEDED), 79, 80),
        (over(Outcome.SUCCEEDED), 80, 80),
        (over(Outcome.SUCCEEDED, ran_s=60), 80, 81),
        (over(Outcome.SUCCEEDED, ran_s=60), 100, 100),
        (over(Outcome.LOST, Reason.NODE_LOST), 50, 40),
        (over(Outcome.LOST, Reason.NODE_LOST), 5, 0),
        (over(Outcome.FAILED, Reason.SANDBOX_FAILED), 50, 45),
        (over(Outcome.FAILED), 50, 50),
        (over(Outcome.FAILED, Reason.OUT_OF_MEMORY), 50, 50),
        (over(Outcome.STOPPED, Reason.STOPPED), 50, 50),
        (over(Outcome.TIMED_OUT, Reason.TIME_LIMIT), 50, 50),
        (over(Outcome.REFUSED, Reason.REFUSED), 50, 50),
    ],
)
def test_what_an_attempt_changes(attempt: Attempt, before: int, after: int) -> None:
    assert trust_after(attempt, before) == after


def test_what_a_draining_node_gives_back_costs_it_nothing() -> None:
    lost = over(Outcome.LOST, Reason.STOPPED)
    assert trust_after(lost, 50, is_handing_back=True) == 50


def test_what_a_draining_node_lets_go_of_without_a_word_costs_it() -> None:
    lost = over(Outcome.LOST, Reason.NODE_LOST)
    assert trust_after(lost, 50, is_handing_back=True) == 40


@pytest.mark.parametrize(
    ("attempt", "before", "after"),
    [
        (over(Outcome.SUCCEEDED), 50, 51),
        (over(Outcome.SUCCEEDED), 79, 79),
        (over(Outcome.SUCCEEDED, ran_s=60), 90, 90),
        (over(Outcome.LOST, Reason.NODE_LOST), 55, 45),
        (over(Outcome.LOST, Reason.NODE_LOST), 45, 40),
        (over(Outcome.LOST, Reason.NODE_LOST), 20, 20),
    ],
)
def test_ones_own_tasks_move_it_within_normal_alone(
    attempt: Attempt, before: int, after: int
) -> None:
    assert trust_after(attempt, before, is_own=True) == after


def test_a_report_that_cannot_be_true_costs_as_much_as_a_lost_attempt() -> None:
    assert [trust_after_contradiction(trust) for trust in (50, 5)] == [40, 0]


attempts = st.builds(
    over,
    st.sampled_from(Outcome),
    st.sampled_from(Reason),
    st.floats(min_value=-1e6, max_value=1e6),
)


@given(attempts, st.integers(0, 100), st.booleans(), st.booleans())
def test_trust_keeps_within_its_bounds(attempt: Attempt, trust: int, own: bool, back: bool) -> None:
    after = trust_after(attempt, trust, is_own=own, is_handing_back=back)
    assert 0 <= after <= 100
    # Only a completed attempt is worth anything.
    assert after <= trust or attempt.outcome is Outcome.SUCCEEDED


def test_a_node_without_a_whole_sandbox_counts_as_low_at_most() -> None:
    assert effective_trust(100, has_whole_sandbox=False) == 39
    assert effective_trust(20, has_whole_sandbox=False) == 20
    assert effective_trust(100, has_whole_sandbox=True) == 100


@pytest.mark.parametrize(
    ("text", "trust"), [("high", 80), ("normal", 40), ("low", 10), ("0", 0), ("100", 100)]
)
def test_what_people_ask_for(text: str, trust: int) -> None:
    assert parse_trust(text) == trust


@pytest.mark.parametrize("text", ["", "High", "none", "101", "-1", "5.0", "1000", "x" * 99])
def test_what_is_no_level_is_refused(text: Any) -> None:
    with pytest.raises(BadTrust, match="write high, normal, low or a number from 0 to 100"):
        parse_trust(text)
