"""Amounts of CPT as people write them, and back.

Inside, money is a whole number of millionths (``*_ucpt``), so that nothing is lost to rounding.
"""

import re

from hivemind.core.errors import CoreError

UCPT_PER_CPT = 1_000_000
MOST_UCPT = 10**15
"""A billion CPT: no single amount that somebody names is larger, so that sums stay in 64 bits."""

_PLACES = 6
_AMOUNT = re.compile(r"\s*([0-9]{1,10})(?:\.([0-9]{1,20}))?\s*", re.ASCII)


class BadAmount(CoreError, ValueError):
    """A text that is no amount of CPT."""


def parse_cpt(text: str) -> int:
    """The millionths of a CPT that ``text`` (``5``, ``0.25``) stands for, exactly.

    Raises:
        BadAmount: it is no amount, has more than six decimals, or is beyond a billion CPT.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None:
        shown = ascii(text if len(text) <= 40 else text[:40] + "...")
        raise BadAmount(f"{shown} is not an amount of CPT: write it like 5 or 0.25")
    decimals = (found[2] or "").rstrip("0")
    if len(decimals) > _PLACES:
        raise BadAmount(f"{text!a} is not an amount of CPT: it can have {_PLACES} decimals")
    ucpt = int(found[1]) * UCPT_PER_CPT + int(decimals.ljust(_PLACES, "0"))
    if ucpt > MOST_UCPT:
        raise BadAmount(f"{text!a} is not an amount of CPT: a billion is the most")
    return ucpt


def show_cpt(ucpt: int) -> str:
    """The shortest text that means exactly this much, with its unit: ``0.25 CPT``."""
    return f"{format_cpt(ucpt)} CPT"


def format_cpt(ucpt: int) -> str:
    """The shortest text that ``parse_cpt`` reads as exactly this much, but for its sign."""
    whole, rest = divmod(abs(ucpt), UCPT_PER_CPT)
    decimals = f".{rest:0{_PLACES}}".rstrip("0") if rest else ""
    return f"{'-' if ucpt < 0 else ''}{whole}{decimals}"


def whole_cpt(ucpt: int) -> int:
    """The whole CPT in it, rounded down: what the public API can say."""
    return ucpt // UCPT_PER_CPT
