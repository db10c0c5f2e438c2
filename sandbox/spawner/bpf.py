"""An assembler for seccomp filters: rules by system call number, as a classic BPF program.

The program first looks at the architecture, then finds the call's range of numbers in a balanced
binary tree, so that a verdict takes about ten steps. It reads a call's arguments only where a rule
asks for one: the kernel (5.11 and newer) finds out when it loads a filter which numbers are always
allowed, and then runs nothing at all for those.
"""

from __future__ import annotations

import struct

Step = tuple[int, int, int, int]  # operation, steps to skip when true, when false, operand

EQUAL, ANY_BIT = 0x15, 0x45  # BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JSET | BPF_K
_AT_LEAST, _ALWAYS = 0x35, 0x05  # BPF_JMP | BPF_JGE | BPF_K, BPF_JMP | BPF_JA
_LOAD, _RETURN = 0x20, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_RET | BPF_K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_FARTHEST = 255  # that a conditional jump can skip

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000


def refuse(number: int) -> int:
    """The verdict that makes a call fail with this errno."""
    return 0x00050000 | number


class ByArgument:
    """A rule that looks at the low 32 bits of one argument; what is above them changes nothing.

    Args:
        argument: which one, from 0.
        test: EQUAL or ANY_BIT.
        values: what it is held against, one after the other.
        when: the verdict where any of them holds.
        otherwise: the verdict where none does.
    """

    __slots__ = ("argument", "otherwise", "test", "values", "when")

    def __init__(
        self, argument: int, test: int, values: tuple[int, ...], *, when: int, otherwise: int
    ) -> None:
        self.argument = argument
        self.test = test
        self.values = values
        self.when = when
        self.otherwise = otherwise

    def steps(self) -> list[Step]:
        """Load, compare, return: whichever way it goes, the program ends here."""
        # Both architectures are little-endian: the low half of an argument comes first.
        steps = [(_LOAD, 0, 0, _ARGUMENTS + 8 * self.argument)]
        last = len(self.values) - 1
        for place, value in enumerate(self.values):
            steps.append((self.test, last - place + 1, 0, value))
        return [*steps, (_RETURN, 0, 0, self.otherwise), (_RETURN, 0, 0, self.when)]


Rule = int | ByArgument


def assemble(architecture: int, starts: dict[int, Rule], *, foreign: int) -> bytes:
    """Make a program, as bubblewrap's --seccomp and a sock_fprog take it.

    Args:
        architecture: AUDIT_ARCH_* that the numbers are of.
        starts: the rule from each number on, up to the next one given; 0 must be among them.
        foreign: the verdict on a call of any other architecture.
    """
    ranges: list[tuple[int, Rule]] = []
    for first in sorted(starts):
        if not ranges or ranges[-1][1] != starts[first]:
            ranges.append((first, starts[first]))
    if not ranges or ranges[0][0] != 0:
        raise ValueError("the rules do not begin at number 0")
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, foreign),
        (_LOAD, 0, 0, _NUMBER),
        *_search(ranges),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def _search(ranges: list[tuple[int, Rule]]) -> list[Step]:
    if len(ranges) == 1:
        rule = ranges[0][1]
        return [(_RETURN, 0, 0, rule)] if isinstance(rule, int) else rule.steps()
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    first = ranges[middle][0]
    if len(low) <= _FARTHEST:
        return [(_AT_LEAST, len(low), 0, first), *low, *high]
    return [(_AT_LEAST, 0, 1, first), (_ALWAYS, 0, 0, len(low)), *low, *high]
