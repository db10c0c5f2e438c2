from fractions import Fraction

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.policy import GIB, MIB, PoolRules
from hivemind.core.prices import (
    Means,
    Payer,
    Quote,
    TooDear,
    check_affordable,
    cost_ucpt,
    quote,
    rate_ucpt,
    show_rate,
)
from hivemind.core.records import Requirements

RULES = PoolRules()
CPT = 1_000_000
POOR = Payer(account="ann", balance_ucpt=0, owns_a_node=False, owns_every_node=False)


def needs(cpus: float = 1, memory: int = 0, scratch: int = 0, **fields: int) -> Requirements:
    return Requirements(
        cpu_millis=int(1000 * cpus), memory_bytes=memory, scratch_bytes=scratch, **fields
    )


@pytest.mark.parametrize(
    ("given_needs", "then_rate"),
    [
        (Requirements(), 2 * CPT),
        (needs(0.1), CPT),
        (needs(4), 4 * CPT),
        (needs(1, GIB, GIB), 3 * CPT),
        (needs(1, gpus=2, gpu_memory_bytes=80 * GIB), 83 * CPT),
        (needs(1.5, 256 * MIB), 1_750_000),
        (needs(1, 1), CPT + 1),
    ],
    ids=["default", "the least", "cpus", "scratch counts", "gpus", "parts", "rounded up"],
)
def test_a_minute_costs_what_is_reserved(given_needs: Requirements, then_rate: int) -> None:
    assert rate_ucpt(given_needs, RULES) == then_rate


def test_the_rates_are_the_policys() -> None:
    rules = PoolRules(
        price_cpu_ucpt=7,
        price_memory_gb_ucpt=100,
        price_gpu_ucpt=1000,
        price_gpu_memory_gb_ucpt=10_000,
        price_least_ucpt=3,
    )
    assert rate_ucpt(needs(2, GIB, gpus=1, gpu_memory_bytes=GIB), rules) == 11_114
    assert rate_ucpt(needs(0.001), rules) == 3


@given(
    st.integers(min_value=1, max_value=10**12),
    st.floats(min_value=0, max_value=7 * 86400.0),
    st.integers(min_value=1, max_value=11),
)
def test_a_cost_is_exact_and_rounded_up_once(rate: int, seconds: float, times: int) -> None:
    exact = Fraction(seconds) * rate * times / 60
    assert exact <= cost_ucpt(rate, seconds, times) < exact + 1


@pytest.mark.parametrize(
    ("changes", "means"),
    [
        ({}, Means.NONE),
        ({"balance_ucpt": 60 * CPT - 1}, Means.NONE),
        ({"balance_ucpt": 60 * CPT}, Means.HOLD),
        ({"is_admin": True}, Means.OWN_NODES),
        ({"owns_a_node": True}, Means.OWN_NODES),
        ({"owns_a_node": True, "balance_ucpt": 60 * CPT}, Means.HOLD),
        ({"is_admin": True, "balance_ucpt": 60 * CPT}, Means.HOLD),
        ({"owns_a_node": True, "owns_every_node": True, "balance_ucpt": 1000 * CPT}, "own"),
    ],
)
def test_how_a_task_is_paid_for(changes: dict[str, object], means: object) -> None:
    payer = attrs.evolve(POOR, **changes)  # type: ignore[arg-type]
    got = quote(Requirements(), wall_s=600.0, retries=2, payer=payer, rules=RULES)
    assert (got.rate_ucpt, got.most_ucpt) == (2 * CPT, 60 * CPT)
    assert got.means is (Means.OWN_NODES if means == "own" else means)
    assert got.hold_ucpt == (60 * CPT if means is Means.HOLD else 0)


def offer(means: Means, **fields: int) -> Quote:
    return Quote(
        rate_ucpt=2 * CPT,
        most_ucpt=20 * CPT,
        wall_s=600.0,
        retries=fields.get("retries", 0),
        balance_ucpt=fields.get("balance_ucpt", 5 * CPT),
        means=means,
    )


def test_a_task_that_cannot_be_paid_is_refused_with_what_to_do() -> None:
    with pytest.raises(TooDear) as refusal:
        check_affordable(offer(Means.NONE), account="ann", most_ucpt=None)
    assert str(refusal.value) == (
        "it could cost 20 CPT (2 CPT a minute for up to 10m) and ann has 5 CPT: "
        "shorten its time, ask for less, or get more CPT"
    )


def test_no_more_is_held_than_the_submitter_allows() -> None:
    check_affordable(offer(Means.HOLD), account="ann", most_ucpt=20 * CPT)
    check_affordable(offer(Means.OWN_NODES), account="ann", most_ucpt=0)
    with pytest.raises(TooDear, match=r"20 CPT .* and max-cpt allows 19\.999999 CPT: shorten"):
        check_affordable(offer(Means.HOLD), account="ann", most_ucpt=20 * CPT - 1)


def test_retries_are_told() -> None:
    shown = show_rate(offer(Means.HOLD, retries=2))
    assert shown == "2 CPT a minute for up to 10m, up to 3 times"
