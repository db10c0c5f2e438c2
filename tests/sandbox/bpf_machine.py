"""Runs seccomp filters as the kernel would, and says how many steps a verdict took."""

from __future__ import annotations

import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003}
ALLOW, KILL_PROCESS, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

_LOAD, _AND, _RETURN, _ALWAYS = 0x20, 0x54, 0x06, 0x05
_CONDITIONAL = (0x15, 0x25, 0x35, 0x45)
_DATA_BYTES = 64
_MOST_INSTRUCTIONS = 4096

Program = list[tuple[int, int, int, int]]


def parse(code: bytes) -> Program:
    """The instructions, checked as the kernel does before it accepts them."""
    program: Program = list(struct.iter_unpack("=HBBI", code))
    assert 0 < len(program) <= _MOST_INSTRUCTIONS
    for place, (operation, when_true, when_false, operand) in enumerate(program):
        after = len(program) - place - 1
        if operation in _CONDITIONAL:
            assert max(when_true, when_false) < after, place
        elif operation == _ALWAYS:
            assert operand < after, place
        elif operation == _LOAD:
            assert operand % 4 == 0, place
            assert operand < _DATA_BYTES, place
        else:
            assert operation in (_RETURN, _AND), place
    assert program[-1][0] == _RETURN
    return program


def call(architecture: str, number: int, *arguments: int) -> bytes:
    """One struct seccomp_data."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    words = (number & 0xFFFFFFFF, ARCHITECTURES[architecture], 0, *padded)
    return struct.pack("<IIQ6Q", *words)


def run(program: Program, data: bytes) -> tuple[int, int]:
    """The verdict on one call, and the number of instructions that it took."""
    accumulator = place = steps = 0
    while True:
        operation, when_true, when_false, operand = program[place]
        place += 1
        steps += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, operand)[0]
            case 0x54:
                accumulator &= operand
            case 0x06:
                return operand, steps
            case 0x05:
                place += operand
            case _:
                holds = {
                    0x15: accumulator == operand,
                    0x25: accumulator > operand,
                    0x35: accumulator >= operand,
                    0x45: bool(accumulator & operand),
                }[operation]
                place += when_true if holds else when_false


def verdict(program: Program, data: bytes) -> int:
    return run(program, data)[0]
