"""Sizes and times as people write them on a command line.

A size is a number and an optional unit: `512M`, `1.5G`, `64K`, `2GiB`. Units are binary whatever
their spelling (M, MB and MiB are 1024 * 1024 bytes), in either case. A time is a number and `ms`,
`s`, `m`, `h` or `d`. Plain numbers are bytes, or seconds.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)([A-Za-z]{0,3})")
_SHOWN_CHARACTERS = 40
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {
    "": Decimal(1),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_MOST_BYTES = 1 << 60
_MOST_S = 100 * 365 * 86400


def parse_size(text: str) -> int:
    """The bytes that `text` stands for, a fraction of one rounded down.

    Raises:
        ValueError: it is not a size, or not one that a machine could have.
    """
    number, unit = _split(text, "a size", "256M, 1.5G, 64K or a number of bytes")
    factor = _BYTES.get(re.sub(r"(?<=[kmgt])i?b$", "", unit.lower()))
    if factor is None:
        raise ValueError(f"{text!a} is not a size: its unit must be one of K, M, G and T")
    size_bytes = int(number * factor)
    if size_bytes > _MOST_BYTES:
        raise ValueError(f"{text!a} is more than any machine has")
    return size_bytes


def parse_time(text: str) -> float:
    """The seconds that `text` stands for.

    Raises:
        ValueError: it is not a time, or longer than a century.
    """
    number, unit = _split(text, "a time", "10s, 5m, 2h or a number of seconds")
    factor = _SECONDS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{text!a} is not a time: its unit must be one of ms, s, m, h and d")
    if number * factor > _MOST_S:
        raise ValueError(f"{text!a} is longer than a century")
    return float(number * factor)


def _split(text: str, what: str, like: str) -> tuple[Decimal, str]:
    found = _NUMBER_AND_UNIT.fullmatch(text)
    if found is None:
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
        raise ValueError(f"{shown!a} is not {what}: write it like {like}")
    return Decimal(found[1]), found[2]
