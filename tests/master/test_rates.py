import pytest
import trio
from trio.testing import MockClock

from hivemind.master.rates import RateLimiter
from hivemind.rpc.errors import CallRefused


def tries(limiter: RateLimiter, key: str, most: int = 100) -> int:
    """How often the key may try now."""
    for count in range(most):
        try:
            limiter.check("login", key)
        except CallRefused:
            return count
    return most


async def test_a_minutes_worth_of_tries_come_back_as_time_goes_by(
    autojump_clock: MockClock,
) -> None:
    limiter = RateLimiter(lambda: 6)
    assert tries(limiter, "a") == 6
    assert tries(limiter, "a") == 0
    await trio.sleep(20)
    assert tries(limiter, "a") == 2
    await trio.sleep(3600)
    assert tries(limiter, "a") == 6


async def test_keys_and_purposes_are_counted_apart(autojump_clock: MockClock) -> None:
    limiter = RateLimiter(lambda: 2)
    assert tries(limiter, "a") == 2
    assert tries(limiter, "b") == 2
    limiter.check("register", "a")


async def test_a_refusal_says_how_long_to_wait_and_costs_nothing(autojump_clock: MockClock) -> None:
    limiter = RateLimiter(lambda: 2)
    assert tries(limiter, "a") == 2
    for _ in range(50):
        with pytest.raises(CallRefused, match="wait 30 s and try again"):
            limiter.check("login", "a")
    await trio.sleep(31)
    assert tries(limiter, "a") == 1


async def test_strangers_are_not_remembered_without_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind.master.rates._MOST_KEYS", 100)
    limiter = RateLimiter(lambda: 2)
    for number in range(1000):
        limiter.check("login", f"stranger{number}")
    assert len(limiter._buckets) == 100
