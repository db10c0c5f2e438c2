"""Under which uids the runs of a pool stand on the host."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import attrs

from sandbox.errors import Finding, Unavailable

# Above what systemd gives to containers (0x6FFFFFFF) and below the sign bit: nobody's accounts.
_FIRST, _LAST = 0x70000000, 0x7FFFFFFF
_INSIDE = 1000
_MOST = 0x2000  # four for each of 2048 slots
_CAP_SETUID, _CAP_SETGID, _CAP_SYS_ADMIN = 7, 6, 21


@attrs.frozen(kw_only=True)
class Ids:
    """The uids of a pool.

    Attributes:
        as_root: whether each slot has a uid of its own; else all runs stand under our own uid, in
            a user namespace of the spawner that maps it to `inside_uid`.
        uids: of each slot, as the spawner sees them.
    """

    as_root: bool
    inside_uid: int
    uids: list[int]


def choose_ids(count: int, uid_base: int | None) -> Ids:
    """Choose so many uids, from `uid_base` on where that is said.

    Raises:
        Unavailable: as root, the uids asked for are not mapped in our user namespace.
    """
    if not _is_root():
        return Ids(as_root=False, inside_uid=_INSIDE, uids=[_INSIDE] * count)
    mapped = _mapped_ranges()
    if uid_base is not None:
        base = uid_base
    elif _covers(mapped, _FIRST, _LAST - _FIRST + 1):
        # A range of its own for each pool; its place says nothing about the host.
        base = _FIRST + secrets.randbelow(0x8000) * _MOST
    else:
        # In a container with few uids: the last ones, that its own accounts hardly use.
        start, length = max(mapped, key=lambda item: item[1])
        base = start + length - count
    if base < 1 or not _covers(mapped, base, count):
        raise Unavailable(
            (
                Finding(
                    name="uids",
                    ok=False,
                    detail=f"{count} uids from {base} on are not mapped here",
                    remedy="set uid_base to a range that /proc/self/uid_map has, or run as an "
                    "ordinary user",
                ),
            )
        )
    return Ids(as_root=True, inside_uid=_INSIDE, uids=list(range(base, base + count)))


def _is_root() -> bool:
    """Whether we may change uids and mount; a root that maps one uid alone may not."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    needed = sum(1 << bit for bit in (_CAP_SETUID, _CAP_SETGID, _CAP_SYS_ADMIN))
    return (
        os.geteuid() == 0
        and effective & needed == needed
        and sum(count for _, count in _mapped_ranges()) > 1
    )


def _mapped_ranges() -> list[tuple[int, int]]:
    """(first uid, how many) of what our user namespace maps."""
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    return [(int(first), int(count)) for first, _, count in (line.split() for line in lines)]


def _covers(ranges: list[tuple[int, int]], base: int, count: int) -> bool:
    return any(first <= base and base + count <= first + length for first, length in ranges)
