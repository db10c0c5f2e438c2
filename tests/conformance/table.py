"""The whole table."""

from __future__ import annotations

from tests.conformance import (
    ending,
    failing,
    importing,
    libraries,
    minding,
    signalling,
    starting,
    streaming,
)
from tests.conformance.case import Case

CASES: tuple[Case, ...] = (
    *starting.CASES,
    *importing.CASES,
    *failing.CASES,
    *ending.CASES,
    *signalling.CASES,
    *streaming.CASES,
    *minding.CASES,
    *libraries.CASES,
)
