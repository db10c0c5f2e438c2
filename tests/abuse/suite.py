"""The cases of all files together: which there are, and which can follow each other in one pool."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import attrs
import pytest

from tests.abuse import (
    test_archives,
    test_collecting,
    test_files,
    test_kernel,
    test_memory,
    test_network,
    test_output,
    test_processes,
    test_state,
)
from tests.abuse.arena import Arena

_THEMES = (
    test_files,
    test_memory,
    test_processes,
    test_kernel,
    test_network,
    test_output,
    test_collecting,
    test_archives,
    test_state,
)


@attrs.frozen(kw_only=True)
class Case:
    """One case as its marks tell it."""

    number: int
    name: str
    play: Callable[[Arena], Awaitable[None]]
    alone: bool
    needs_cgroup: bool
    skipped: bool


def all_cases() -> list[Case]:
    found: list[Case] = []
    for module in _THEMES:
        for name, function in vars(module).items():
            marks: list[pytest.Mark] = getattr(function, "pytestmark", [])
            kinds = {mark.name: mark for mark in marks}
            if inspect.iscoroutinefunction(function) and "case" in kinds:
                found.append(
                    Case(
                        number=kinds["case"].args[0],
                        name=name,
                        play=function,
                        alone=kinds["case"].kwargs["alone"],
                        needs_cgroup="needs_cgroup" in kinds,
                        skipped="skipif" in kinds and kinds["skipif"].args[0],
                    )
                )
    return sorted(found, key=lambda case: case.number)
