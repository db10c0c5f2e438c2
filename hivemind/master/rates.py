"""How often somebody may try something that could be guessed."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

import attrs
import trio

from hivemind.rpc.contract.faults import exhausted

_MOST_KEYS = 10_000
"""Of more than this many strangers the one that was quiet longest is forgotten."""


_HOST_BITS = 64
"""Of an IPv6 address: whoever has one of a network has all of them (RFC 4291, 2.5.4)."""


def caller_of(peer: str) -> str:
    """Who a peer's ``host:port`` stands for, to be counted by: its address, and of IPv6 the network
    in which anybody takes as many addresses as it likes.
    """
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.IPv6Address(host)
    except ipaddress.AddressValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> _HOST_BITS << _HOST_BITS, 128 - _HOST_BITS)))


@attrs.frozen
class _Bucket:
    tokens: float
    at: float


class RateLimiter:
    """A token bucket for each key: a minute's worth at once, and then as they come back."""

    def __init__(self, per_minute: Callable[[], int]) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def check(self, what: str, key: str, *, times: int = 1) -> None:
        """Count one try. Raises CallRefused, and counts nothing, where it is one too many.

        ``times`` as many tries are allowed as the rule says.
        """
        most = float(self._per_minute() * times)
        now = trio.current_time()
        bucket = self._buckets.pop((what, key), _Bucket(most, now))
        tokens = min(most, bucket.tokens + (now - bucket.at) * most / 60)
        allowed = tokens >= 1
        self._buckets[what, key] = _Bucket(tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _MOST_KEYS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - tokens) * 60 / most
            raise exhausted(f"too many tries; wait {wait_s:.0f} s and try again")
