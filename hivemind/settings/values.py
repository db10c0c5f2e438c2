"""Single values of a settings file: each function takes what TOML gave and returns what it means.

All raise ValueError saying what was expected. Nothing is coerced: ``"3"`` is no number, ``true``
is no 1, and quantities may be text with a unit.
"""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from hivemind.core.confinement import Mode
from hivemind.core.cpt import UCPT_PER_CPT, format_cpt, parse_cpt
from hivemind.core.limits import UNLIMITED
from hivemind.core.policy import HOST_ROOT, RESERVED_VARIABLES, SYSTEM_FOLDERS, Bound, Mount
from hivemind.core.sizes import parse_cpus, parse_duration, parse_size

T = TypeVar("T")
M = TypeVar("M", bound=Mode)
Reader = Callable[[object], T]

MOST_MOUNTS = 64
_SHOWN = 40
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def text(value: object) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise _expected("text in quotes", value)
    return value


def name(value: object) -> str:
    """A text that is not empty."""
    if not text(value):
        raise ValueError("expected a text that is not empty")
    return text(value)


def texts(value: object) -> tuple[str, ...]:
    """A list of texts that are not empty."""
    if not isinstance(value, list):
        raise _expected("a list of texts", value)
    return tuple(name(item) for item in value)


def choice(*words: str) -> Reader[str]:
    """One of some words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise _expected(f"one of {', '.join(words)}", value)
        return value

    return read


def mode(modes: type[M]) -> Reader[M]:
    """One of the words of a mode."""
    read = choice(*(one.value for one in modes))
    return lambda value: modes(read(value))


def flag(value: object) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def path(value: object) -> Path:
    """A path; ``~`` is the user's own folder, and what is relative starts at the current one."""
    return Path(name(value)).expanduser().absolute()


def count(value: object, *, least: int = 0) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise _expected(f"a whole number from {least}", value)
    return value


def at_least_one(value: object) -> int:
    """A whole number from 1."""
    return count(value, least=1)


def number(value: object) -> float:
    """A number from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _expected("a number from 0", value)
    return value


def signed(value: object) -> int:
    """A whole number, which may be below 0."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**53:
        raise _expected("a whole number", value)
    return value


def size(value: object) -> int:
    """Bytes: a whole number, or a text such as ``512M``."""
    if isinstance(value, str):
        return parse_size(value)
    try:
        return count(value)
    except ValueError:
        raise _expected('a size such as "512M" or a number of bytes', value) from None


def duration(value: object) -> float:
    """Seconds: a number, or a text such as ``60s``."""
    if isinstance(value, str):
        return parse_duration(value)
    try:
        return number(value)
    except ValueError:
        raise _expected('a duration such as "60s" or a number of seconds', value) from None


def limited_duration(value: object) -> float:
    """Seconds, or infinity for ``unlimited``."""
    if value == UNLIMITED:
        return math.inf
    try:
        return duration(value)
    except ValueError:
        raise _expected(f'a duration such as "60s", or "{UNLIMITED}"', value) from None


_MOST_CPT = 1_000_000
"""Of a grant or a price: so many accounts of so much still add up in 64 bits."""


def cpt(value: object) -> int:
    """Millionths of a CPT: from a number of CPT such as ``1`` or ``0.25``, which may be text."""
    try:
        ucpt = parse_cpt(value if isinstance(value, str) else f"{Decimal(str(number(value))):f}")
    except ValueError:
        raise _expected("an amount of CPT such as 1 or 0.25", value) from None
    if ucpt > _MOST_CPT * UCPT_PER_CPT:
        raise ValueError(f"expected at most {_MOST_CPT} CPT, not {format_cpt(ucpt)}")
    return ucpt


def between(
    read: Reader[float], least: float, most: float, show: Callable[[float], str]
) -> Reader[float]:
    """An amount that is neither too small nor too large."""

    def read_between(value: object) -> float:
        amount = read(value)
        if amount < least:
            raise ValueError(f"expected at least {show(least)}, not {show(amount)}")
        if amount > most:
            raise ValueError(f"expected at most {show(most)}, not {show(amount)}")
        return amount

    return read_between


def root(value: object) -> str:
    """``host``, or the absolute path of a folder."""
    if not isinstance(value, str) or (value != HOST_ROOT and not _is_plain_path(value)):
        raise _expected('"host" or the absolute path of a folder', value)
    return value


def mounts(value: object) -> tuple[Mount, ...]:
    """A list of tables with a ``source`` on the machine and a ``target`` in the sandbox."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _expected('a list of tables such as { source = "/data", target = "/data" }', value)
    if len(value) > MOST_MOUNTS:
        raise ValueError(f"expected at most {MOST_MOUNTS} mounts, not {len(value)}")
    read = tuple(_mount(item) for item in value)
    targets = [mount.target for mount in read]
    if twice := sorted({target for target in targets if targets.count(target) > 1}):
        raise ValueError(f"target {_shown(twice[0])} is there twice")
    return read


def _mount(table: dict[str, object]) -> Mount:
    if unknown := sorted(table.keys() - {"source", "target"}):
        raise ValueError(f"{_shown(unknown[0])} is not known: a mount has source and target")
    found = {}
    for key in ("source", "target"):
        if key not in table:
            raise ValueError(f"{key} is missing: a mount has source and target")
        place = table[key]
        if not isinstance(place, str) or not _is_plain_path(place):
            raise ValueError(f"{key}: {_expected('an absolute path without . or ..', place)}")
        found[key] = place
    if found["target"].split("/")[1] in SYSTEM_FOLDERS:
        raise ValueError(
            f"target: expected a place outside of the system's own folders, not "
            f"{_shown(found['target'])}"
        )
    return Mount(**found)


def _is_plain_path(text: str) -> bool:
    """Whether it is absolute, below the root, and every step of it a name."""
    steps = text.split("/")[1:]
    return text.startswith("/") and text.isprintable() and not {"", ".", ".."} & set(steps)


def variables(value: object) -> Mapping[str, str]:
    """A table of texts, by names that an environment can have."""
    if not isinstance(value, dict):
        raise _expected('a table of texts such as { TZ = "UTC" }', value)
    for key, content in value.items():
        if _VARIABLE.fullmatch(key) is None:
            raise ValueError(f"{_shown(key)} cannot name a variable: use letters, digits and _")
        if key.startswith(RESERVED_VARIABLES):
            raise ValueError(f"{_shown(key)} is not a policy's to set: it says which task it is")
        if not isinstance(content, str) or "\0" in content:
            raise ValueError(f"{key}: {_expected('text in quotes', content)}")
    return dict(value)


def some_size(value: object) -> int:
    """A size above 0."""
    if not size(value):
        raise ValueError("expected a size above 0")
    return size(value)


def some_duration(value: object) -> float:
    """A duration above 0."""
    if not duration(value):
        raise ValueError("expected a duration above 0")
    return duration(value)


def cpus(value: object) -> int:
    """Thousandths of a CPU: from a number of CPUs such as ``1.5``, which may be text."""
    try:
        millis = parse_cpus(value) if isinstance(value, str) else round(1000 * number(value))
    except ValueError:
        raise _expected("a number of CPUs such as 2 or 0.5", value) from None
    if millis == 0:
        raise ValueError("expected at least a thousandth of a CPU")
    return millis


def bound(
    read: Reader[float], base: Bound, *, read_default: Reader[float] | None = None
) -> Reader[Bound]:
    """``{ default = ..., most = ... }``; what is left out comes from ``base``.

    A default that is left out is lowered to the most where need be.
    """

    def read_bound(value: object) -> Bound:
        if not isinstance(value, dict):
            raise _expected("a table such as { default = ..., most = ... }", value)
        if unknown := sorted(value.keys() - {"default", "most"}):
            raise ValueError(f"{unknown[0]} is not known: it has default and most")
        most = _part(value, "most", read, base.most)
        default = _part(value, "default", read_default or read, min(base.default, most))
        if abs(default) > most:
            raise ValueError("its default is beyond its most")
        return Bound(default=default, most=most)

    return read_bound


def _part(table: dict[str, object], key: str, read: Reader[float], otherwise: float) -> float:
    if key not in table:
        return otherwise
    try:
        return read(table[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _expected(what: str, value: object) -> ValueError:
    return ValueError(f"expected {what}, not {_shown(value)}")


def _shown(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
