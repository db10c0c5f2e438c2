"""Sizes and durations as people write them in flags and files, and back.

A size is a number and an optional unit: ``512M``, ``1.5G``, ``64K``, ``2GiB``. Units are binary
whatever their spelling (``M``, ``MB`` and ``MiB`` are 1024 * 1024 bytes), in either case. A
duration is a number and ``ms``, ``s``, ``m``, ``h`` or ``d``. Plain numbers are bytes, or seconds.
"""

import math
import re
from decimal import Decimal

from hivemind.core.errors import CoreError

_NUMBER_AND_UNIT = re.compile(
    r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})\s*([A-Za-z]{0,8})\s*"
)
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {
    "": Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_MOST_BYTES = 1 << 62
_MOST_SECONDS = 100 * 365 * 86400
_MOST_CPUS = 100_000


class BadQuantity(CoreError, ValueError):
    """A text that is no size, duration or number of CPUs."""


def parse_size(text: str) -> int:
    """The bytes that ``text`` stands for, a fraction of one rounded down.

    Raises:
        BadQuantity: it is not a size, or not one that a machine could have.
    """
    number, unit = _split(text, "a size", "512M, 1.5G or a number of bytes")
    factor = _BYTES.get(re.sub(r"(?<=[kmgt])i?b$", "", unit.lower()))
    if factor is None:
        raise BadQuantity(f"{text!a} is not a size: its unit must be one of K, M, G and T")
    size = int(number * factor)
    if size > _MOST_BYTES:
        raise BadQuantity(f"{text!a} is not a size: it is more than any machine has")
    return size


def parse_duration(text: str) -> float:
    """The seconds that ``text`` stands for.

    Raises:
        BadQuantity: it is not a duration, or longer than a century.
    """
    number, unit = _split(text, "a duration", "60s, 5m, 2h or a number of seconds")
    factor = _SECONDS.get(unit.lower())
    if factor is None:
        raise BadQuantity(f"{text!a} is not a duration: its unit must be one of ms, s, m, h and d")
    seconds = number * factor
    if seconds > _MOST_SECONDS:
        raise BadQuantity(f"{text!a} is not a duration: it is longer than a century")
    return float(seconds)


def parse_cpus(text: str) -> int:
    """The thousandths of a CPU that ``text`` (``1``, ``0.5``) stands for.

    Raises:
        BadQuantity: it is not a number of CPUs.
    """
    number, unit = _split(text, "a number of CPUs", "1, 0.5 or 8")
    if unit or number > _MOST_CPUS:
        raise BadQuantity(f"{text!a} is not a number of CPUs: write it like 1, 0.5 or 8")
    return math.ceil(number * 1000)


def _split(text: str, what: str, like: str) -> tuple[Decimal, str]:
    found = _NUMBER_AND_UNIT.fullmatch(text)
    if found is None:
        shown = ascii(text if len(text) <= 40 else text[:40] + "...")
        raise BadQuantity(f"{shown} is not {what}: write it like {like}")
    return Decimal(found[1]), found[2]


def format_size(size_bytes: int) -> str:
    """The shortest text that ``parse_size`` reads as exactly this many bytes."""
    for unit in ("t", "g", "m", "k"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit.upper()}"
    return str(size_bytes)


def show_size(size_bytes: int) -> str:
    """About this many bytes, for people: ``1.5G``."""
    for unit in ("t", "g", "m", "k"):
        if abs(size_bytes) >= _BYTES[unit]:
            return f"{size_bytes / _BYTES[unit]:.1f}".removesuffix(".0") + unit.upper()
    return str(size_bytes)


def show_sizes_apart(one_bytes: int, other_bytes: int) -> tuple[str, str]:
    """Two sizes for people, exact where rounding would make different ones look the same."""
    one, other = show_size(one_bytes), show_size(other_bytes)
    if one == other and one_bytes != other_bytes:
        return format_size(one_bytes), format_size(other_bytes)
    return one, other


def format_duration(seconds: float) -> str:
    """A text that ``parse_duration`` reads as this long: ``90s``, ``5m``, ``2h``."""
    for unit in ("d", "h", "m"):
        factor = int(_SECONDS[unit])
        if seconds and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    return f"{Decimal(repr(seconds)).normalize():f}s"


def format_cpus(cpu_millis: int) -> str:
    """A text that ``parse_cpus`` reads as this many thousandths of a CPU."""
    return f"{(Decimal(cpu_millis) / 1000).normalize():f}"
