import pytest
import trio
from trio.testing import MockClock

from hivemind.master.rates import RateLimiter, caller_of
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


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("10.0.0.7:50000", "10.0.0.7"),
        ("::ffff:10.0.0.7:50000", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6:50000", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:50000", "2001:db8:1:2::/64"),
        ("fe80::1%eth0:50000", "fe80::/64"),
        ("unknown", ""),
    ],
)
def test_all_addresses_of_an_ipv6_network_are_one_caller(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller
