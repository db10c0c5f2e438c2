"""The assembler: whatever the rules, the program says what a plain look-up says."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.spawner import bpf
from tests.sandbox import bpf_machine

_WORDS = st.integers(0, (1 << 32) - 1)
_BY_ARGUMENT = st.builds(
    lambda argument, test, values, when, otherwise: bpf.ByArgument(
        argument, test, tuple(values), when=when, otherwise=otherwise
    ),
    st.integers(0, 5),
    st.sampled_from([bpf.EQUAL, bpf.ANY_BIT]),
    st.lists(_WORDS, min_size=1, max_size=20),
    _WORDS,
    _WORDS,
)
_ARCH = bpf_machine.ARCHITECTURES["x86_64"]


def _by_look_up(starts: dict[int, bpf.Rule], number: int, arguments: list[int]) -> int:
    firsts = sorted(starts)
    rule = starts[firsts[bisect_right(firsts, number) - 1]]
    if isinstance(rule, int):
        return rule
    low = arguments[rule.argument] & 0xFFFFFFFF
    if rule.test == bpf.EQUAL:
        return rule.when if low in rule.values else rule.otherwise
    return rule.when if any(low & value for value in rule.values) else rule.otherwise


@given(st.data())
def test_a_program_says_what_a_look_up_says(data: st.DataObject) -> None:
    starts = data.draw(st.dictionaries(st.integers(1, 600) | _WORDS, _WORDS | _BY_ARGUMENT))
    starts[0] = data.draw(_WORDS | _BY_ARGUMENT)
    program = bpf_machine.parse(bpf.assemble(_ARCH, starts, foreign=bpf.KILL_PROCESS))
    near = [first + step for first in starts for step in (-1, 0, 1)]
    tests = [
        value for rule in starts.values() if not isinstance(rule, int) for value in rule.values
    ]
    for _ in range(20):
        number = data.draw(_WORDS | st.sampled_from(near)) & 0xFFFFFFFF
        low = st.sampled_from(tests) | _WORDS if tests else _WORDS
        arguments = [data.draw(low) | data.draw(_WORDS) << 32 for _ in range(6)]
        told = bpf_machine.verdict(program, bpf_machine.call("x86_64", number, *arguments))
        assert told == _by_look_up(starts, number, arguments)


def test_a_tree_of_any_size_is_jumped_through() -> None:
    # Far more ranges than a conditional jump can skip.
    starts: dict[int, bpf.Rule] = {number: 1000 + number for number in range(1500)}
    program = bpf_machine.parse(bpf.assemble(_ARCH, starts, foreign=7))
    assert len(program) > 3000
    for number in range(1500):
        told, steps = bpf_machine.run(program, bpf_machine.call("x86_64", number))
        assert told == 1000 + number
        assert steps <= 3 + 2 * 11 + 1
    assert bpf_machine.verdict(program, bpf_machine.call("x86_64", 1 << 31)) == 1000 + 1499


def test_neighbours_with_one_rule_share_it() -> None:
    starts: dict[int, bpf.Rule] = dict.fromkeys(range(100), 5)
    assert len(bpf_machine.parse(bpf.assemble(_ARCH, starts, foreign=7))) == 5


def test_another_architecture_is_foreign_whatever_the_number() -> None:
    program = bpf_machine.parse(bpf.assemble(_ARCH, {0: 1, 9: 2}, foreign=7))
    for number in (0, 9, 1 << 31):
        assert bpf_machine.verdict(program, bpf_machine.call("i386", number)) == 7


@pytest.mark.parametrize("starts", [{}, {1: 5}])
def test_rules_that_leave_numbers_without_one_are_refused(starts: dict[int, bpf.Rule]) -> None:
    with pytest.raises(ValueError, match="do not begin"):
        bpf.assemble(_ARCH, starts, foreign=7)
