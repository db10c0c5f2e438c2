"""The suite is whole, and its cases hold one after the other in one pool too."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

import sandbox
from tests.abuse.arena import CASE_S, open_arena
from tests.abuse.modes import MODES, choose_limits, mode_named
from tests.abuse.suite import all_cases

_KNOWN = 64
_OWN = 16


def test_every_known_attack_and_at_least_sixteen_of_our_own_are_here_once() -> None:
    numbers = Counter(case.number for case in all_cases())
    assert not [number for number, times in numbers.items() if times > 1]
    assert not set(range(1, _KNOWN + 1)) - set(numbers)
    assert len([number for number in numbers if number > _KNOWN]) >= _OWN


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
async def test_all_cases_hold_one_after_the_other_in_one_pool(
    mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    how = choose_limits()
    async with open_arena(mode_named(mode), tmp_path_factory.mktemp("given"), how) as arena:
        for case in all_cases():
            if case.alone or case.skipped or (case.needs_cgroup and how != "cgroup"):
                continue
            arena.renew()
            try:
                with trio.fail_after(CASE_S):
                    await case.play(arena)
                    await arena.check()
            except Exception as error:
                error.add_note(f"in case {case.number}, {case.name}, after those before it")
                raise


async def test_in_the_mode_of_that_name_a_program_begins_as_a_fork(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    given = tmp_path_factory.mktemp("given")
    async with open_arena(mode_named("zygote"), given, choose_limits()) as arena:
        for spec in (arena.shell_spec("true"), arena.python_spec("pass")):
            async with arena.open(spec) as run:
                assert run.started is sandbox.Start.WARM
